"""LoRA adapters of pretrained networks, by peft, which is imported only for them."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.core.errors import ModelError
from aigc_ops.models.language.packed_linear import FrozenProduct, can_lay_out, laid_out


class LoraConfig(BaseModel):
    """Low-rank adapters of a pretrained network (Hu et al. 2022)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rank: int = Field(default=8, ge=1, le=4096, description="Rank of each adapter.")
    alpha: float = Field(default=16.0, gt=0, description="Adapters count for alpha / rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Share of their inputs dropped.")
    targets: Sequence[str] = Field(
        default=("q_proj", "v_proj"), min_length=1, description="Layers that get an adapter."
    )
    merge: bool = Field(
        default=True,
        description="Add the adapters to the weights when the model is registered; false: keep "
        "them beside the weights.",
    )


class FrozenLinear(nn.Linear):
    """A layer that is not trained: autocast would cast its weight anew in every step.

    On the CPU it is also laid out once, for the product and for the way back.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        device = self.weight.device.type
        if not torch.is_autocast_enabled(device):
            return super().forward(inputs)
        dtype = torch.get_autocast_dtype(device)
        made_of = (self.weight.data_ptr(), self.weight._version, dtype)
        if getattr(self, "_made_of", None) != made_of:
            cast = self.weight.detach().to(dtype)
            self._ways, self._made_of = [cast], made_of
            if can_lay_out(cast):
                rows = inputs.numel() // inputs.shape[-1]
                self._ways = [laid_out(each, rows) for each in (cast, cast.t().contiguous())]
        if len(self._ways) == 1:
            return functional.linear(inputs, self._ways[0], self.bias)
        bias = self.bias if self.bias is None else self.bias.to(dtype)
        found: Tensor = FrozenProduct.apply(inputs.to(dtype), *self._ways, bias)
        return found

    def __getstate__(self) -> dict[str, Any]:
        # A copy lays its own out: torch cannot copy a weight in oneDNN's layout.
        return {k: v for k, v in self.__dict__.items() if k not in ("_ways", "_made_of")}


def adapted(model: Any, lora: LoraConfig) -> Any:
    """A model of transformers with adapters in it, all other weights frozen.

    Raises ModelError when it lacks a layer that is to be adapted.
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
    whole: Any = get_peft_model(model, adapters)
    for module in whole.modules():
        if type(module) is nn.Linear and not module.weight.requires_grad:
            module.__class__ = FrozenLinear
    return whole


def _is_linear(module: nn.Module) -> bool:
    # GPT-2's layers are a class of transformers' own.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def add_adapters(network: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Fit weights without adapters to a network with new ones: training goes on from them."""
    if any(".lora_" in name for name in state):
        return
    wanted, found = network.state_dict(), dict[int, Tensor]()
    for name, own in wanted.items():
        plain = name.replace("model.base_model.model.", "model.", 1).replace(".base_layer.", ".")
        kept = own if ".lora_" in name else state.pop(prefix + plain, None)
        if kept is not None:
            state[prefix + name] = found[own.data_ptr()] = kept
    for name, own in wanted.items():  # weights of two names are stored under one
        if own.data_ptr() in found:
            state.setdefault(prefix + name, found[own.data_ptr()])
