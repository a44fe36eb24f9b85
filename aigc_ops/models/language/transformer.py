"""The decoder-only transformer of GPTs trained from scratch.

Radford et al. 2019 (GPT-2). Deviations: rotary positions (Su et al. 2021) instead of learned
ones, no attention dropout.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class KeyValues:
    """KV cache with the interface of transformers' caches."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """Append keys and values; return all of the layer, (B, H, T, D)."""
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self.layers[layer] = keys, values
        return keys, values


class Block(nn.Module):
    """Pre-norm transformer layer: causal attention, then a GELU MLP of four times the width."""

    def __init__(self, layer: int, *, num_heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.layer, self.num_heads = layer, num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)
        self.network_norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KeyValues | None,
    ) -> Tensor:
        x = x + self.dropout(self._attend(self.attention_norm(x), rotation, mask, cache))
        hidden = functional.gelu(self.widen(self.network_norm(x)))
        narrowed: Tensor = self.dropout(self.narrow(hidden))
        return x + narrowed

    def _attend(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KeyValues | None,
    ) -> Tensor:
        num, length, width = x.shape
        packed = self.query_key_value(x)
        with attention_in_fp32(packed):
            queries, keys, values = _Heads.apply(packed, *rotation, self.num_heads)
            if cache is not None:
                keys, values = cache.update(keys, values, self.layer)
            # Without a mask torch can use causal kernels, which need no (T, T) tensor.
            attended = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=mask is None
            )
        projected: Tensor = self.project(attended.transpose(1, 2).reshape(num, length, width))
        return projected


def attention_in_fp32(queries: Tensor) -> torch.autocast:
    """Return the current autocast context, but disabled on the CPU."""
    # On the CPU the backward pass of attention takes four times as long in bf16 for 64 tokens,
    # and is not faster up to 1,024 (torch 2.14).
    device = queries.device.type
    is_cast = torch.is_autocast_enabled(device) and device != "cpu"
    return torch.autocast(device, enabled=is_cast)


class _Heads(torch.autograd.Function):
    """Split (B, T, 3 W) into queries, keys and values (B, H, T, D), rotated by position.

    Values are not rotated. On the CPU all three are fp32.
    """

    # One autograd node instead of split, rotate and transpose. Their backward passes would
    # allocate zeros to add to and concatenate, which is a tenth of a small network's step.

    @staticmethod
    def forward(
        ctx: Any, packed: Tensor, cosines: Tensor, sines: Tensor, num_heads: int
    ) -> tuple[Tensor, ...]:
        ctx.shape, ctx.dtype = packed.shape, packed.dtype
        dtype = torch.float32 if packed.device.type == "cpu" else packed.dtype
        cosines, sines = cosines.to(dtype), sines.to(dtype)
        ctx.save_for_backward(cosines, sines)
        heads = packed.view(*packed.shape[:2], 3 * num_heads, -1)
        to_rotate, values = torch.split(heads, [2 * num_heads, num_heads], 2)
        queries, keys = _rotated(to_rotate.to(dtype), cosines, sines).chunk(2, 2)
        return tuple(each.transpose(1, 2) for each in (queries, keys, values.to(dtype)))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values = (gradient.transpose(1, 2) for gradient in gradients)
        cosines, sines = ctx.saved_tensors
        num_heads = values.shape[2]
        packed = values.new_empty(ctx.shape, dtype=ctx.dtype)
        heads = packed.view(*packed.shape[:2], 3 * num_heads, -1)
        # A rotation is orthogonal: its gradient is rotated by the negative angle.
        rotated = _rotated(torch.cat([queries, keys], 2), cosines, sines, back=True)
        heads[:, :, : 2 * num_heads].copy_(rotated)
        heads[:, :, 2 * num_heads :].copy_(values)
        return packed, None, None, None


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor, *, back: bool = False) -> Tensor:
    """Rotate heads (B, T, N, D) by their positions' angles (Su et al. 2021, eq. 34)."""
    sign = -1 if back else 1
    rotated = x * cosines.repeat(1, 1, 1, 2)
    # Dimension i is paired with i + D / 2, as in GPT-NeoX; the paper pairs neighbours.
    (upper, lower), (first, second) = rotated.chunk(2, 3), x.chunk(2, 3)
    upper.addcmul_(second, sines, value=-sign)
    lower.addcmul_(first, sines, value=sign)
    return rotated


class Transformer(nn.Module):
    """Network from tokens (B, T) to logits (B, T, V), with a tied embedding."""

    def __init__(
        self,
        *,
        num_tokens: int,
        num_layers: int,
        num_heads: int,
        width: int,
        dropout: float,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.num_tokens, self.recompute = num_tokens, recompute
        self.embedding = nn.Embedding(num_tokens, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(layer, num_heads=num_heads, width=width, dropout=dropout)
            for layer in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        half = width // num_heads // 2
        # theta_i = 10,000 ** (-2 i / D), Su et al. 2021, section 3.2.2. Not persistent, since the
        # config determines them.
        self.frequencies: Tensor
        frequencies = 10_000.0 ** -(torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        # GPT-2's initial weights: layers that add to the residual stream start smaller the deeper
        # the network, 1 / sqrt(number of such layers), so that its variance stays the same.
        for name, weight in self.named_parameters():
            is_residual = name.endswith(("project.weight", "narrow.weight"))
            if weight.ndim == 2:
                nn.init.normal_(
                    weight, 0.0, 0.02 / (2 * num_layers) ** 0.5 if is_residual else 0.02
                )
            elif name.endswith("bias"):
                nn.init.zeros_(weight)

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor,
        mask: Tensor | None = None,
        cache: KeyValues | None = None,
        last_only: bool = False,
    ) -> Tensor:
        """Return next-token logits; `mask` (B, 1, T, cached + T) is true where a token attends.

        Without a mask each token attends to itself and all earlier ones.
        """
        angles = positions[:, :, None, None] * self.frequencies
        rotation = angles.cos(), angles.sin()
        x = self.dropout(self.embedding(tokens))
        for block in self.blocks:
            if self.recompute and self.training:  # activation checkpointing, Chen et al. 2016
                x = checkpoint(block, x, rotation, mask, cache, use_reentrant=False)
            else:
                x = block(x, rotation, mask, cache)
        # While sampling only the last position counts: (B, T, V) logits would be a large waste.
        x = self.norm(x[:, -1:] if last_only else x)
        return functional.linear(x, self.embedding.weight)

    def packed_for_sampling(self, num_rows: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """Return a context that does nothing; only `Pretrained` packs its weights."""
        return nullcontext()

    def new_cache(self) -> KeyValues:
        return KeyValues()
