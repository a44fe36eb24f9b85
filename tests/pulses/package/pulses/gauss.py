"""Gauss: a normal distribution per level and class, a minimal family."""

import math
from typing import Literal

import torch
from torch import nn

from aigc_ops.interfaces.conditions import check_label
from aigc_ops.interfaces.model import FamilyConfig, Generative, Loss
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.interfaces.request import check_controls


class GaussConfig(FamilyConfig):
    """Settings of the family."""

    family: Literal["gauss"] = "gauss"
    optimizer: AdamConfig = AdamConfig(learning_rate=0.05)


class Gauss(Generative):
    """Mean and log standard deviation of each level, per class."""

    modality = "pulses"
    config_type = GaussConfig
    averaged_parts = frozenset({"levels"})

    def __init__(self, config, length, class_names):
        super().__init__()
        self.config, self.length, self.names = config, length, tuple(class_names)
        num = max(1, len(self.names))
        self.levels = nn.ParameterDict(
            {"mean": torch.zeros(num, length), "log_std": torch.zeros(num, length)}
        )

    @classmethod
    def from_data(cls, config, data):
        return cls(config, data.pulses.shape[1], data.class_names)

    @classmethod
    def from_blueprint(cls, config, blueprint):
        return cls(config, blueprint["length"], blueprint["class_names"])

    def blueprint(self):
        return {"length": self.length, "class_names": list(self.names)}

    @property
    def class_names(self):
        return self.names

    def parts(self):
        return {"levels": self.levels}

    def optimizer(self, part):
        return self.config.optimizer.optimizer(self.parts()[part].parameters())

    def examples(self, data):
        labels = torch.zeros(len(data), dtype=torch.int64) if data.labels is None else data.labels
        return {"pulses": data.pulses, "labels": labels}

    def losses(self, batch, noise):
        mean, log_std = (self.levels[name][batch["labels"]] for name in ("mean", "log_std"))
        apart = (batch["pulses"] - mean) * torch.exp(-log_std)
        nll = 0.5 * apart.square() + log_std + 0.5 * math.log(2 * math.pi)
        yield Loss("levels", nll.mean())

    def sample(self, requests):
        labels = torch.tensor(
            [request.conditions.get("label", 0) for request in requests], dtype=torch.int64
        )
        rows = [torch.randn(self.length, generator=request.generator()) for request in requests]
        noise = torch.stack(rows) if rows else torch.empty(0, self.length)
        mean, log_std = (self.levels[name].detach().cpu()[labels] for name in ("mean", "log_std"))
        return mean + log_std.exp() * noise

    def check(self, request):
        check_label(request, len(self.names))
        check_controls(request, self.controls())
