"""Strided convolutions with a fast weight gradient for small feature maps on CPUs.

The weight gradient of torch's own convolution (oneDNN, torch 2.14) is slow for many weights and
small maps: 404 ms where a matrix product takes 12, in bf16 on one core, for 512 to 1,024 channels,
4 x 4 weights and a 3 x 3 to 1 x 1 map. From 8 x 8 on it is as fast. `benchmarks/convolutions.py`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MAX_PLACES = 16  # pixels of the smaller map, up to which the matrix product is used


class Conv2d(nn.Conv2d):
    """nn.Conv2d up to rounding, for square kernels without groups or dilation."""

    def forward(self, images: Tensor) -> Tensor:
        reach = images.shape[2] + 2 * int(self.padding[0]) - self.kernel_size[0]
        if not _is_slow(images, self.stride[0], (reach // self.stride[0] + 1) ** 2):
            return super().forward(images)
        images, weight, bias = _cast(images, self.weight, self.bias)
        # The bias is added outside, so that autograd itself computes its gradient.
        convolved: Tensor = _Convolution.apply(
            images, weight, self.stride[0], int(self.padding[0]), None
        )
        return convolved if bias is None else convolved + bias[:, None, None]


class ConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d up to rounding, for square kernels without groups or dilation."""

    def forward(self, images: Tensor, output_size: list[int] | None = None) -> Tensor:
        if not _is_slow(images, self.stride[0], images.shape[2] ** 2) or output_size:
            return super().forward(images, output_size)
        images, weight, bias = _cast(images, self.weight, self.bias)
        convolved: Tensor = _Convolution.apply(
            images, weight, self.stride[0], int(self.padding[0]), self.output_padding[0]
        )
        return convolved if bias is None else convolved + bias[:, None, None]


def _is_slow(images: Tensor, stride: int, places: int) -> bool:
    # Only the weight gradient is slow, so without gradients torch's own convolution is used.
    on_cpu = images.device.type == "cpu"
    return on_cpu and torch.is_grad_enabled() and stride > 1 and places <= MAX_PLACES


def _cast(images: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Any]:
    """Cast images, weight and bias as autocast does for a convolution."""
    # Before the autograd function, which saves its inputs for the backward pass.
    if not torch.is_autocast_enabled("cpu"):
        return images, weight, bias
    dtype = torch.get_autocast_dtype("cpu")
    return images.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


class _Convolution(torch.autograd.Function):
    """Convolution of (B, C, H, W), transposed if `output_padding` is not None."""

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
        # Differentiable operations only, because penalties on gradients need second derivatives.
        images, weight = ctx.saved_tensors
        stride, padding, side = ctx.stride, ctx.padding, weight.shape[2]
        # 1. The gradient of the images is a convolution in the other direction.
        image_gradient = None
        if ctx.needs_input_grad[0] and ctx.is_transposed:
            image_gradient = functional.conv2d(gradient, weight, None, stride, padding)
        elif ctx.needs_input_grad[0]:
            # Rows at the border that no window reached, where stride does not divide the size.
            remainder = (images.shape[2] + 2 * padding - side) % stride
            image_gradient = functional.conv_transpose2d(
                gradient, weight, None, stride, padding, output_padding=remainder
            )
        # 2. The gradient of the weights is one matrix product of the small map with the patches
        # of the large one (im2col). A transposed convolution has the small map as its input.
        large, small = (gradient, images) if ctx.is_transposed else (images, gradient)
        rows = small.permute(0, 2, 3, 1).flatten(0, 2)
        product = rows.T @ _patches(large, side, stride, padding)
        weight_gradient = product.unflatten(1, (side, side, -1)).permute(0, 3, 1, 2)
        return image_gradient, weight_gradient, None, None, None


def _patches(images: Tensor, side: int, stride: int, padding: int) -> Tensor:
    """Return the im2col patches, (B * windows, side * side * C)."""
    padded = functional.pad(images.permute(0, 2, 3, 1), (0, 0, *[padding] * 4))
    windows = padded.unfold(1, side, stride).unfold(2, side, stride)
    return windows.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
