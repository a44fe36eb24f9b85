"""Pre-packed oneDNN weights for repeated linear layers on the CPU.

A product with few rows spends much of its time on converting the weights to oneDNN's layout.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from aigc_ops.core.workarounds import is_used


def can_pack(weight: Tensor) -> bool:
    """Return whether this torch version can pack weights of this device and dtype."""
    # The two operators are private to torch, hence the test for their existence and the switch.
    return (
        is_used("packed-linear")
        and weight.device.type == "cpu"
        and weight.dtype in (torch.float32, torch.bfloat16)
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    )


def pack_weight(weight: Tensor, num_rows: int) -> Tensor:
    """Return a weight (O, I) packed for `packed_linear`, fastest with `num_rows` rows."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    return packed


def packed_linear(inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute `functional.linear` with a packed weight; no gradient."""
    outputs: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
    return outputs


class FrozenPackedLinear(torch.autograd.Function):
    """`packed_linear` with a gradient for the inputs only."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, transposed: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Compute the layer for the weight (O, I) and its transpose (I, O), both packed."""
        # The backward pass multiplies by the transpose, which was packed separately.
        ctx.save_for_backward(transposed)
        return packed_linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (transposed,) = ctx.saved_tensors
        return packed_linear(gradient.contiguous(), transposed), None, None, None
