"""The decoder-only transformer that a GPT trains from scratch.

Radford et al. 2019 (GPT-2), with rotary positions (Su et al. 2021) in place of learned
ones and no attention dropout.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class KeyValues:
    """Keys and values of the tokens so far, called as transformers' caches are."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int, /) -> tuple[Tensor, Tensor]:
        """All keys and values (B, H, T, D) of the layer, the new ones last."""
        if layer in self.layers:
            old_keys, old_values = self.layers[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self.layers[layer] = keys, values
        return keys, values


class Block(nn.Module):
    """One pre-norm layer: causal attention, then a GELU network four times as wide."""

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
        heads = self.query_key_value(x).view(num, length, 3, self.num_heads, -1)
        heads = heads.permute(2, 0, 3, 1, 4)
        with attention_in_fp32(heads):
            if heads.device.type == "cpu":
                heads = heads.float()
            queries, keys = _rotate(heads[:2], *rotation)
            values = heads[2]
            if cache is not None:
                keys, values = cache.update(keys, values, self.layer)
            mixed = functional.scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, is_causal=mask is None
            )
        projected: Tensor = self.project(mixed.transpose(1, 2).reshape(num, length, width))
        return projected


def attention_in_fp32(queries: Tensor) -> torch.autocast:
    """Autocast as it is, but off on the CPU.

    There the way back through attention takes four times as long in bf16 for 64 tokens, and
    no less up to 1,024 (torch 2.14).
    """
    device = queries.device.type
    is_cast = torch.is_autocast_enabled(device) and device != "cpu"
    return torch.autocast(device, enabled=is_cast)


def _rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Heads (2, B, H, T, D) turned by their positions' angles, halves paired as in GPT-NeoX."""
    first, second = x.chunk(2, dim=-1)
    cosines, sines = cosines.to(x.dtype), sines.to(x.dtype)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], -1)


class Transformer(nn.Module):
    """Tokens (B, T) to logits (B, T, V); the input embedding is the output layer too."""

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
        self.frequencies: Tensor
        frequencies = 10_000.0 ** -(torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)
        # GPT-2's initial weights: what adds to the residual stream shrinks with depth.
        for name, weight in self.named_parameters():
            adds = name.endswith(("project.weight", "narrow.weight"))
            if weight.ndim == 2:
                nn.init.normal_(weight, 0.0, 0.02 / (2 * num_layers) ** 0.5 if adds else 0.02)
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
        """Logits of the tokens to follow; `mask` (B, 1, T, all) is true where one attends.

        Without a mask each token attends to itself and those before.
        """
        angles = positions[:, None, :, None] * self.frequencies
        rotation = angles.cos(), angles.sin()
        x = self.dropout(self.embedding(tokens))
        for block in self.blocks:
            if self.recompute and self.training:  # Chen et al. 2016
                x = checkpoint(block, x, rotation, mask, cache, use_reentrant=False)
            else:
                x = block(x, rotation, mask, cache)
        x = self.norm(x[:, -1:] if last_only else x)
        return functional.linear(x, self.embedding.weight)

    def drawing(self, num_rows: int) -> AbstractContextManager[None]:  # noqa: ARG002
        """What surrounds the drawing of so many texts: nothing."""
        return nullcontext()

    def new_cache(self) -> KeyValues:
        return KeyValues()
