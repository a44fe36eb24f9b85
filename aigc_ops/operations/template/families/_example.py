"""Blur: independent normal pixels, a minimal family."""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.interfaces.model import FamilyConfig, Loss
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.modalities.image.model import ImageModel, to_uint8, to_unit_range


class BlurConfig(FamilyConfig):
    """One mean and one deviation for each pixel of each class."""

    family: Literal["blur"] = "blur"
    least_deviation: float = Field(
        default=0.05, gt=0, description="Smallest standard deviation of a pixel in [-1, 1]."
    )
    pixels: AdamConfig = Field(
        default=AdamConfig(learning_rate=0.05), description="Optimiser of the pixels."
    )


class Pixels(nn.Module):
    """Mean and log deviation of each pixel, (classes, C, H, W) each."""

    def __init__(self, shape: ImageShape) -> None:
        super().__init__()
        size = (max(1, shape.num_classes), shape.channels, shape.height, shape.width)
        self.mean = nn.Parameter(torch.zeros(size))
        self.log_deviation = nn.Parameter(torch.zeros(size))


class Blur(ImageModel):
    """Independent normal pixels, trained by their likelihood."""

    config_type = BlurConfig
    config: BlurConfig

    def __init__(self, config: BlurConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.pixels = Pixels(shape)

    def parts(self) -> dict[str, nn.Module]:
        return {"pixels": self.pixels}

    def optimizer(self, part: str) -> torch.optim.Optimizer:
        return self.config.pixels.optimizer(self.parts()[part].parameters())

    def losses(self, batch: dict[str, Tensor], noise: Noise) -> Iterator[Loss]:  # noqa: ARG002
        images = to_unit_range(batch["images"])
        mean, deviation = self._mean_and_deviation(batch.get("labels"), len(images))
        nats = 0.5 * ((images - mean) / deviation).square() + deviation.log()
        yield Loss("pixels", nats.sum(dim=(1, 2, 3)).mean())

    def sample(self, requests: Sequence[SampleRequest]) -> Tensor:
        if not requests:
            return self.no_images()
        device = self.pixels.mean.device
        mean, deviation = self._mean_and_deviation(self.labels(requests, device), len(requests))
        size = (self.shape.channels, self.shape.height, self.shape.width)
        noise = torch.stack([torch.randn(size, generator=r.generator()) for r in requests])
        return to_uint8(mean + deviation * noise.to(device))

    def _mean_and_deviation(self, labels: Tensor | None, num: int) -> tuple[Tensor, Tensor]:
        rows = torch.zeros(num, dtype=torch.long) if labels is None else labels
        deviation = self.pixels.log_deviation.exp() + self.config.least_deviation
        return self.pixels.mean[rows], deviation[rows]
