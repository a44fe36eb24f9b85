"""LoRA adapters of pretrained networks, by peft, which is imported only when needed."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.core.errors import ModelError
from aigc_ops.models.language.packed_linear import FrozenPackedLinear, can_pack, pack_weight


class LoraConfig(BaseModel):
    """Low-rank adapters of a pretrained network (Hu et al. 2022)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=8, ge=1, le=4096, description="Rank of each adapter.")
    alpha: float = Field(default=16.0, gt=0, description="Adapters are scaled by alpha / rank.")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Dropout rate of the adapters' inputs."
    )
    targets: Sequence[str] = Field(
        default=("q_proj", "v_proj"),
        min_length=1,
        description="Names of the layers that get an adapter.",
    )
    merge: bool = Field(
        default=True,
        description="Merge the adapters into the weights when the model is registered; false: "
        "store them separately.",
    )


class FrozenLinear(nn.Linear):
    """A linear layer that is not trained, whose cast weight is cached.

    Autocast would cast the weight again in every step. On the CPU the cast weight is also
    packed once for the forward pass and once for the backward pass.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        device = self.weight.device.type
        if not torch.is_autocast_enabled(device):
            return super().forward(inputs)
        dtype = torch.get_autocast_dtype(device)
        # `_version` counts in-place changes, so a loaded checkpoint invalidates the cache too.
        key = (self.weight.data_ptr(), self.weight._version, dtype)
        if getattr(self, "_cache_key", None) != key:
            cast = self.weight.detach().to(dtype)
            self._cached, self._cache_key = [cast], key
            if can_pack(cast):
                rows = inputs.numel() // inputs.shape[-1]
                both = (cast, cast.t().contiguous())
                self._cached = [pack_weight(weight, rows) for weight in both]
        if len(self._cached) == 1:
            return functional.linear(inputs, self._cached[0], self.bias)
        # The private operator is not on autocast's list: its inputs are cast here.
        bias = self.bias if self.bias is None else self.bias.to(dtype)
        outputs: Tensor = FrozenPackedLinear.apply(inputs.to(dtype), *self._cached, bias)
        return outputs

    def __getstate__(self) -> dict[str, Any]:
        # torch cannot copy a weight in oneDNN's layout, so a deep copy packs its own.
        return {k: v for k, v in self.__dict__.items() if k not in ("_cached", "_cache_key")}


def add_adapters(model: Any, lora: LoraConfig) -> Any:
    """Return a transformers model with LoRA adapters and all other weights frozen.

    Raises ModelError when the model lacks a layer named in `lora.targets`.
    """
    from peft import LoraConfig as Adapters
    from peft import get_peft_model

    layers = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if _is_linear(m)}
    if unknown := sorted(set(lora.targets) - layers):
        raise ModelError(
            f"model.lora.targets: the network has no layer {unknown[0]!r}; "
            f"choose among {', '.join(sorted(layers))}"
        )
    adapters = Adapters(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft 0.20 asks a transformers model by a name that transformers 5.24 deprecates.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is", FutureWarning)
        adapted: Any = get_peft_model(model, adapters)
    # The class is changed in place, after peft has wrapped the layers: their parameters stay the
    # same objects, so tied weights stay tied.
    for module in adapted.modules():
        if type(module) is nn.Linear and not module.weight.requires_grad:
            module.__class__ = FrozenLinear
    return adapted


def _is_linear(module: nn.Module) -> bool:
    # GPT-2's linear layers are `Conv1D`, a class of transformers.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def load_without_adapters(
    network: nn.Module, state: dict[str, Tensor], prefix: str, *_: object
) -> None:
    """Complete a state dict without adapters for a network with newly initialised ones.

    A hook of `load_state_dict`, so that LoRA training can start from merged weights.
    """
    if any(".lora_" in name for name in state):
        return
    expected, by_memory = network.state_dict(), dict[int, Tensor]()
    # 1. Rename stored weights to peft's names; adapters keep their initial values.
    for name, current in expected.items():
        plain = name.replace("model.base_model.model.", "model.", 1).replace(".base_layer.", ".")
        value = current if ".lora_" in name else state.pop(prefix + plain, None)
        if value is not None:
            state[prefix + name] = by_memory[current.data_ptr()] = value
    # 2. Tied weights (embedding and output layer) are stored under one of their names only.
    for name, current in expected.items():
        if current.data_ptr() in by_memory:
            state.setdefault(prefix + name, by_memory[current.data_ptr()])
