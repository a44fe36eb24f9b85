"""Weights laid out once for many products, by oneDNN on the CPU.

A product with few rows spends much of its time on bringing the weights into that layout.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aigc_ops.core.workarounds import is_used


def can_lay_out(weight: Tensor) -> bool:
    """Whether this torch and this weight's device and type know such a layout."""
    return (
        is_used("packed-linear")
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    )


def laid_out(weight: Tensor, num_rows: int) -> Tensor:
    """A weight (O, I) for `product`, at its best with so many rows."""
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    return found


def product(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `functional.linear`, with a weight that was laid out; without a gradient."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return found


class FrozenProduct(torch.autograd.Function):
    """`product` with a gradient for the inputs alone."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, transposed: Tensor, bias: Tensor | None
    ) -> Tensor:
        """The weight (O, I) and (I, O), both laid out."""
        ctx.save_for_backward(transposed)
        return product(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (transposed,) = ctx.saved_tensors
        return product(gradient.contiguous(), transposed), None, None, None
