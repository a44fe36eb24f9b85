"""Pulses as files, and the fields of a request."""

from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from aigc_ops.interfaces.media import Table
from aigc_ops.interfaces.sampling import CallFields, RequestFields, SampleCodec


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
        rows = [[str(r.label), *(f"{level:.2f}" for level in s.tolist())] for r, s in pairs]
        return Table(columns, rows)


class LabelField(CallFields):
    """The class of a pulse."""

    label: int | None = Field(default=None, ge=0, description="Class of the pulse.")


class PulseRequests(RequestFields):
    """Request fields: a label."""

    fields = LabelField
    columns: ClassVar = {"label": "long"}
    echoed = in_answers = ("label",)

    def arguments(self, call):
        return {"label": call.label}

    def call(self, request):
        return {"label": request.label}

    def record(self, request):
        return {"label": request.label}

    def from_row(self, model, index, row):
        label = row.get("label")
        return {"label": index % model.num_classes if label is None else int(label)}
