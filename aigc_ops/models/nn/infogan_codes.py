"""InfoGAN's codes (Chen et al. 2016): drawn, set, handed to the generator, and read again."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.compute.random import Noise
from aigc_ops.interfaces.request import Control, SampleRequest


class Codes:
    """InfoGAN's codes: categorical ones as one-hot blocks, then continuous ones."""

    def __init__(self, categories: Sequence[int], num_continuous: int) -> None:
        self.categories, self.num_continuous = categories, num_continuous
        self.width = sum(self.categories) + self.num_continuous
        self.num_predicted = self.width + self.num_continuous  # a variance for each continuous

    def draw(self, noise: Noise) -> Tensor:
        """(B, width) from the prior."""
        blocks = [functional.one_hot(noise.integers(n), n).float() for n in self.categories]
        return torch.cat([*blocks, 2 * noise.uniform(self.num_continuous) - 1], dim=1)

    def of_request(self, request: SampleRequest) -> Tensor:
        """(width,) as the request's controls say, the rest drawn from its seed."""
        generator, controls = torch.Generator().manual_seed(request.seed + 1), request.controls
        blocks = []
        for index, num in enumerate(self.categories, 1):
            drawn = int(torch.randint(num, (), generator=generator))
            value = int(controls.get(f"category_{index}", drawn))
            blocks.append(functional.one_hot(torch.tensor(value), num).float())
        drawn_codes = (2 * torch.rand(self.num_continuous, generator=generator) - 1).tolist()
        values = [controls.get(f"code_{i}", d) for i, d in enumerate(drawn_codes, 1)]
        return torch.cat([*blocks, torch.tensor(values)])

    def controls(self) -> dict[str, Control]:
        """A control for each code."""
        categories = {
            f"category_{i}": Control(0, num - 1, "InfoGAN's categorical code.", is_integer=True)
            for i, num in enumerate(self.categories, 1)
        }
        continuous = {
            f"code_{i}": Control(-2.0, 2.0, "InfoGAN's continuous code; trained in -1 to 1.")
            for i in range(1, self.num_continuous + 1)
        }
        return categories | continuous

    def standardised(self, codes: Tensor) -> Tensor:
        """Codes (..., width) at the noise's scale, mean 0 and variance 1.

        As they are, the noise outweighed them: it decided on the digit, and a code on a speck
        somewhere that the critic could read.
        """
        sizes = [*self.categories, self.num_continuous]
        *categorical, continuous = torch.split(codes, sizes, dim=-1)
        shares = [1 / num for num in self.categories]
        blocks = [
            (c - p) / math.sqrt(p * (1 - p)) for c, p in zip(categorical, shares, strict=True)
        ]
        return torch.cat([*blocks, continuous * math.sqrt(3)], dim=-1)

    def surprise(self, predicted: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) nats of the categorical and of the continuous codes: -log Q(c|x), eq. 5."""
        categorical, start = torch.zeros(len(codes), device=codes.device), 0
        for num in self.categories:
            block = slice(start, start := start + num)
            categorical = categorical + functional.cross_entropy(
                predicted[:, block], codes[:, block], reduction="none"
            )
        mean, log_variance = predicted[:, start:].chunk(2, dim=1)
        gap = (codes[:, start:] - mean).square() / log_variance.exp()
        return categorical, 0.5 * (gap + log_variance + math.log(2 * math.pi)).sum(dim=1)

    def entropy(self) -> float:
        """Nats of the prior: what the mutual information can be at most, categorical ones."""
        return sum(map(math.log, self.categories)) + self.num_continuous * math.log(2)
