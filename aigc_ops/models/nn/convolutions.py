"""Strided convolutions whose weights' gradient is quick on a CPU where maps are small.

torch's own (oneDNN, torch 2.14) slows down where many weights meet few places: 404 ms where
a matrix product takes 12, in bf16 on one core, for 512 to 1,024 channels, 4 x 4 weights and
3 x 3 places to 1. From 8 x 8 places on it is as quick. `benchmarks/convolutions.py`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_PLACES = 16


class Conv2d(nn.Conv2d):
    """nn.Conv2d, equal to rounding; square, without groups or dilation."""

    def forward(self, images: Tensor) -> Tensor:
        reach = images.shape[2] + 2 * int(self.padding[0]) - self.kernel_size[0]
        if not _is_slow(images, self.stride[0], (reach // self.stride[0] + 1) ** 2):
            return super().forward(images)
        images, weight, bias = _cast(images, self.weight, self.bias)
        convolved: Tensor = _Convolution.apply(
            images, weight, self.stride[0], int(self.padding[0]), None
        )
        return convolved if bias is None else convolved + bias[:, None, None]


class ConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d, equal to rounding; square, without groups or dilation."""

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _is_slow(images, self.stride[0], images.shape[2] ** 2) or output_size:
            return super().forward(images, output_size)
        images, weight, bias = _cast(images, self.weight, self.bias)
        convolved: Tensor = _Convolution.apply(
            images, weight, self.stride[0], int(self.padding[0]), self.output_padding[0]
        )
        return convolved if bias is None else convolved + bias[:, None, None]


def _is_slow(images: Tensor, stride: int, places: int) -> bool:
    on_cpu = images.device.type == "cpu"
    return on_cpu and torch.is_grad_enabled() and stride > 1 and places <= MAX_PLACES


def _cast(images: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Any]:
    """What autocast would make of them for a convolution."""
    if not torch.is_autocast_enabled("cpu"):
        return images, weight, bias
    dtype = torch.get_autocast_dtype("cpu")
    return images.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class _Convolution(torch.autograd.Function):
    """(B, C, H, W) convolved; transposed where there is an `output_padding`."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        stride: int,
        padding: int,
        output_padding: int | None,
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.stride, ctx.padding, ctx.is_transposed = stride, padding, output_padding is not None
        if output_padding is None:
            return functional.conv2d(images, weight, None, stride, padding)
        return functional.conv_transpose2d(images, weight, None, stride, padding, output_padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # Of differentiable operations, for penalties on gradients need a second derivative.
        images, weight = ctx.saved_tensors
        stride, padding, side = ctx.stride, ctx.padding, weight.shape[2]
        of_images = None
        if ctx.needs_input_grad[0] and ctx.is_transposed:
            of_images = functional.conv2d(gradient, weight, None, stride, padding)
        elif ctx.needs_input_grad[0]:
            rest = (images.shape[2] + 2 * padding - side) % stride
            of_images = functional.conv_transpose2d(
                gradient, weight, None, stride, padding, output_padding=rest
            )
        large, small = (gradient, images) if ctx.is_transposed else (images, gradient)
        rows = small.permute(0, 2, 3, 1).flatten(0, 2)
        product = rows.T @ _patches(large, side, stride, padding)
        of_weight = product.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2)
        return of_images, of_weight, None, None, None


def _patches(images: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """(B * places, side * side * C): what each place of the small map looks at."""
    padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, *[padding] * 4))
    windows = padded.unfold(1, side, stride).unfold(2, side, stride)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
