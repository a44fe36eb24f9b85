"""Pulses as files, and the fields of a request."""

import numpy as np
import torch

from aigc_ops.interfaces.conditions import LabelCondition
from aigc_ops.interfaces.media import Table
from aigc_ops.interfaces.sampling import RequestFields, SampleCodec


class PulseCodec(SampleCodec):
    """Little-endian float32; a batch is (N, T)."""

    suffix = ".pulse"
    media_type = "application/octet-stream"
    json_name, json_names = "pulse", "pulses"
    column_type = "binary"

    def join(self, batches):
        return torch.cat(list(batches))

    def stack(self, samples):
        return torch.stack(list(samples)) if samples else torch.empty(0, 0)

    def encode(self, sample, metadata=None):
        return sample.numpy().astype("<f4").tobytes()

    def decode(self, content):
        return torch.from_numpy(np.frombuffer(content, dtype="<f4").copy())

    def difference(self, content, sample):
        ours = self.decode(content)
        if ours.shape != sample.shape:
            return 255
        return min(255, round(255 * float((ours - sample).abs().max())))

    def preview(self, samples, requests):
        columns = ["label", *map(str, range(samples.shape[1]))]
        pairs = zip(requests, samples, strict=True)
        rows = [[str(LABEL.of(r)), *(f"{level:.2f}" for level in s.tolist())] for r, s in pairs]
        return Table(columns, rows)


LABEL = LabelCondition("Class of the pulse.")


class PulseRequests(RequestFields):
    """Request fields: a label."""

    conditions = (LABEL,)
