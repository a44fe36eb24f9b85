"""Images as files: PNG, with the metadata of a sample in a tEXt chunk."""

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

FULL_DIFFERENCE = 255

_DECODER_FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class ImageCodec(SampleCodec["Tensor"]):
    """PNG of the samples' own size; a batch is (N, C, H, W) uint8."""

    suffix = ".png"
    media_type = "image/png"
    json_name, json_names = "image", "images"
    column_type = "binary"

    def join(self, batches: Sequence["Tensor"]) -> "Tensor":
        import torch

        return torch.cat(list(batches))

    def stack(self, samples: Sequence["Tensor"]) -> "Tensor":
        import torch

        return torch.stack(list(samples)) if samples else torch.empty(0, 1, 0, 0).byte()

    def encode(self, sample: "Tensor", metadata: Metadata | None = None) -> bytes:
        from aigc_ops.modalities.image.pictures import to_pil

        info = None
        if metadata is not None:
            info = PngInfo()  # JSON in ASCII, so that every tool shows it
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
        ours, theirs = self.decode(content), sample.cpu()
        if ours.shape != theirs.shape:
            return FULL_DIFFERENCE
        return int((ours.short() - theirs.short()).abs().max())

    def preview(self, samples: "Tensor", requests: Sequence[SampleRequest]) -> Media:  # noqa: ARG002
        from aigc_ops.modalities.image.pictures import grid

        return Picture(grid(samples))

    def read_metadata(self, path: Path) -> str | None:
        """Return the text of a PNG's chunk; pixels are not decoded."""
        try:
            with Image.open(path, formats=["PNG"]) as picture:
                text = picture.info.get(METADATA_KEY)
        except _DECODER_FAULTS as error:
            raise ModelError(f"{path}: not a readable PNG ({error})") from error
        return text if isinstance(text, str) else None
