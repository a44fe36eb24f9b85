"""InfoGAN's latent codes (Chen et al. 2016): sampling, controls, likelihood."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from aigc_ops.compute.random import Noise
from aigc_ops.interfaces.request import Control, SampleRequest


class InfoGanCodes:
    """InfoGAN's codes: one-hot categorical codes, then continuous ones in -1 to 1."""

    def __init__(self, categories: Sequence[int], num_continuous: int) -> None:
        self.categories, self.num_continuous = categories, num_continuous
        self.width = sum(self.categories) + self.num_continuous
        # Q predicts a mean and a log variance of each continuous code, and logits of the others.
        self.num_predicted = self.width + self.num_continuous

    def sample(self, noise: Noise) -> Tensor:
        """Sample codes (B, width) from the prior."""
        blocks = [functional.one_hot(noise.integers(n), n).float() for n in self.categories]
        return torch.cat([*blocks, 2 * noise.uniform(self.num_continuous) - 1], dim=1)

    def from_request(self, request: SampleRequest) -> Tensor:
        """Return the codes (width,) of a request: its controls, else sampled from its seed."""
        # seed + 1, since the noise vector is generated from the seed itself. Every code is sampled,
        # set or not, so that setting one does not change the others.
        generator, controls = torch.Generator().manual_seed(request.seed + 1), request.controls
        blocks = []
        for index, num in enumerate(self.categories, 1):
            sampled = int(torch.randint(num, (), generator=generator))
            value = int(controls.get(f"category_{index}", sampled))
            blocks.append(functional.one_hot(torch.tensor(value), num).float())
        uniform = (2 * torch.rand(self.num_continuous, generator=generator) - 1).tolist()
        values = [controls.get(f"code_{i}", code) for i, code in enumerate(uniform, 1)]
        return torch.cat([*blocks, torch.tensor(values)])

    def controls(self) -> dict[str, Control]:
        """Return a control for each code."""
        categories = {
            f"category_{i}": Control(0, num - 1, "InfoGAN's categorical code.", is_integer=True)
            for i, num in enumerate(self.categories, 1)
        }
        continuous = {
            f"code_{i}": Control(-2.0, 2.0, "InfoGAN's continuous code; trained in -1 to 1.")
            for i in range(1, self.num_continuous + 1)
        }
        return categories | continuous

    def standardise(self, codes: Tensor) -> Tensor:
        """Return codes (..., width) standardised to mean 0 and variance 1, as the noise."""
        # Without this the noise dominated: it determined the digit, and a code merely a small spot
        # that the discriminator could read.
        sizes = [*self.categories, self.num_continuous]
        *categorical, continuous = torch.split(codes, sizes, dim=-1)
        probabilities = [1 / num for num in self.categories]
        blocks = [
            (c - p) / math.sqrt(p * (1 - p))
            for c, p in zip(categorical, probabilities, strict=True)
        ]
        # U(-1, 1) has variance 1 / 3.
        return torch.cat([*blocks, continuous * math.sqrt(3)], dim=-1)

    def nll(self, predicted: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return -log Q(c|x) (eq. 5) in nats, (B,) of categorical and (B,) of continuous codes."""
        categorical, start = torch.zeros(len(codes), device=codes.device), 0
        for num in self.categories:
            block = slice(start, start := start + num)
            categorical = categorical + functional.cross_entropy(
                predicted[:, block], codes[:, block], reduction="none"
            )
        mean, log_variance = predicted[:, start:].chunk(2, dim=1)
        error = (codes[:, start:] - mean).square() / log_variance.exp()
        return categorical, 0.5 * (error + log_variance + math.log(2 * math.pi)).sum(dim=1)

    def entropy(self) -> float:
        """Return the prior's entropy in nats, H(c) of eq. 5 (differential for continuous codes)."""
        # It bounds the mutual information of the categorical codes; a density has no such bound.
        return sum(map(math.log, self.categories)) + self.num_continuous * math.log(2)
