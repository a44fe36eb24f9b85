"""Optimiser settings shared by families."""

from collections.abc import Iterable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn


class AdamConfig(BaseModel):
    """Settings of the Adam optimiser of a part (Kingma & Ba 2015)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learning_rate: float = Field(default=2e-4, gt=0, description="Step size.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Decay of the second moment.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay.")

    def optimizer(
        self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]
    ) -> torch.optim.Optimizer:
        """Return a fused AdamW over parameters or parameter groups (Loshchilov & Hutter 2019)."""
        # AdamW with a weight decay of 0 is Adam, so there is no second case.
        return torch.optim.AdamW(
            parameters,
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            fused=True,
        )
