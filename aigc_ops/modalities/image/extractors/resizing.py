"""Resizing for Inception and DINOv2, part of a score's name or evaluation conditions."""

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
    """Resize like the reference code of Heusel et al. 2017 and torch-fidelity."""
    # TensorFlow 1 resizes without half-pixel centres, which torch's interpolate does not offer.
    from torch_fidelity.interpolate_compat_tensorflow import (
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    resized: Tensor = interpolate_bilinear_2d_like_tensorflow1x(
        images.float(), size=(side, side), align_corners=False
    )
    return resized


def _as_tensorflow(images: Tensor) -> Tensor:
    return (resized_as_tensorflow(images, INCEPTION_INPUT_SIZE) - 128) / 128


def _as_clean_fid(images: Tensor) -> Tensor:
    """Resize like clean-fid (Parmar et al. 2022): Pillow's antialiased bicubic on floats."""
    size = (INCEPTION_INPUT_SIZE, INCEPTION_INPUT_SIZE)
    # One channel at a time: Pillow has float images of one channel only.
    planes = images.cpu().numpy().astype(np.float32)
    resized = np.stack(
        [[np.asarray(Image.fromarray(plane).resize(size, BICUBIC)) for plane in i] for i in planes]
    ).clip(0, 255)
    return ((torch.from_numpy(resized) - 128) / 128).to(images.device)


def _as_pytorch_fid(images: Tensor) -> Tensor:
    """Resize like pytorch-fid: bilinear, without antialiasing, in [0, 1]."""
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
