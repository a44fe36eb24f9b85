"""Encode images as PNG files, with the metadata of a sample in a tEXt chunk."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.media import Media, Picture
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.interfaces.sampling import METADATA_KEY, Metadata, SampleCodec

if TYPE_CHECKING:
    from torch import Tensor

FULL_DIFFERENCE = 255  # of images whose shapes differ
MOST_IN_A_ROW = 16

# What Pillow's PNG decoder raises for damaged files.
_DECODER_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class ImageCodec(SampleCodec["Tensor"]):
    """PNG codec at the samples' own size; a batch is (N, C, H, W) uint8."""

    suffix = ".png"
    media_type = "image/png"
    json_name, json_names = "image", "images"
    column_type = "binary"

    def join(self, batches: Sequence["Tensor"]) -> "Tensor":
        import torch

        return torch.cat(list(batches))

    def stack(self, samples: Sequence["Tensor"]) -> "Tensor":
        import torch

        # Without samples the shape is unknown; callers look only at the length 0.
        return torch.stack(list(samples)) if samples else torch.empty(0, 1, 0, 0).byte()

    def encode(self, sample: "Tensor", metadata: Metadata | None = None) -> bytes:
        from aigc_ops.modalities.image.pictures import to_pil

        info = None
        if metadata is not None:
            info = PngInfo()  # json.dumps gives ASCII, which a tEXt chunk and every tool can hold
            info.add_text(METADATA_KEY, json.dumps(metadata))
        buffer = io.BytesIO()
        to_pil(sample).save(buffer, format="PNG", pnginfo=info)
        return buffer.getvalue()

    def decode(self, content: bytes) -> "Tensor":
        import torch

        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            array = np.array(picture)
        channels_first = array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy()
        return torch.from_numpy(channels_first)

    def difference(self, content: bytes, sample: "Tensor") -> int:
        stored, expected = self.decode(content), sample.cpu()
        if stored.shape != expected.shape:
            return FULL_DIFFERENCE
        # int16, because uint8 differences would wrap around.
        return int((stored.short() - expected.short()).abs().max())

    def preview(self, samples: "Tensor", requests: Sequence[SampleRequest]) -> Media:  # noqa: ARG002
        from aigc_ops.modalities.image.pictures import grid

        return Picture(grid(samples))

    def sequence(self, samples: "Tensor", requests: Sequence[SampleRequest]) -> Media:  # noqa: ARG002
        from aigc_ops.modalities.image.pictures import grid

        return Picture(grid(samples, min(len(samples), MOST_IN_A_ROW)))

    def read_metadata(self, path: Path) -> str | None:
        """Return the metadata text of a PNG, None without any; pixels are not decoded."""
        try:
            with Image.open(path, formats=["PNG"]) as picture:
                text = picture.info.get(METADATA_KEY)
        except _DECODER_FAULTS as error:
            raise ModelError(f"{path}: not a readable PNG ({error})") from error
        return text if isinstance(text, str) else None
