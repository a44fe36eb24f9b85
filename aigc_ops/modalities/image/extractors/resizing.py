"""How images are resized for Inception and DINOv2: part of a score's name or contract."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

INCEPTION_INPUT_SIZE = 299
BICUBIC = Image.Resampling.BICUBIC
TENSORFLOW_RESIZE = "bilinear-tensorflow1"
RESIZE_NAMES = {
    "tensorflow": TENSORFLOW_RESIZE,
    "clean": "bicubic-antialiased-pil",
    "legacy": "bilinear-pytorch",
}


def resized_as_tensorflow(images: Tensor, side: int) -> Tensor:
    """Resize as the reference code of Heusel et al. does, and torch-fidelity after it."""
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    found: Tensor = interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(side, side), align_corners=False
    )
    return found


def _as_tensorflow(images: Tensor) -> Tensor:
    return (resized_as_tensorflow(images, INCEPTION_INPUT_SIZE) - 128) / 128


def _as_clean_fid(images: Tensor) -> Tensor:
    """Resize as clean-fid does (Parmar et al. 2022): Pillow's antialiased bicubic on floats."""
    size = (INCEPTION_INPUT_SIZE, INCEPTION_INPUT_SIZE)
    planes = images.cpu().numpy().astype(np.float32)
    resized = np.stack(
        [[np.asarray(Image.fromarray(plane).resize(size, BICUBIC)) for plane in i] for i in planes]
    ).clip(0, 255)
    return ((torch.from_numpy(resized) - 128) / 128).to(images.device)


def _as_pytorch_fid(images: Tensor) -> Tensor:
    """Resize as pytorch-fid does: bilinear, without antialiasing, in [0, 1]."""
    size = (INCEPTION_INPUT_SIZE, INCEPTION_INPUT_SIZE)
    resized = functional.interpolate(
        images.float() / 255, size=size, mode="bilinear", align_corners=False
    )
    return 2 * resized - 1


RESIZERS: dict[str, Callable[[Tensor], Tensor]] = {
    "tensorflow": _as_tensorflow,
    "clean": _as_clean_fid,
    "legacy": _as_pytorch_fid,
}
