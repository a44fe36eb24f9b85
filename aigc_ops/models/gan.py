"""GAN: a deep convolutional generator against a projection critic.

Radford, Metz & Chintala 2016 (DCGAN); Goodfellow et al. 2014, section 3 (the
non-saturating loss); Miyato & Koyama 2018, eq. 3 (conditioning by projection).
Deviations: images of 4 to 7 pixels times any power of two, where DCGAN has 4 x 16; the
label reaches the generator as an embedding beside the noise.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.artifacts import ImageShape
from aigc_ops.generative import (
    AdamConfig,
    FamilyConfig,
    ImageModel,
    SampleRequest,
    to_uint8,
    to_unit_range,
)
from aigc_ops.models._convolutional import Downsampler, LabelledCode, Upsampler, initialise


class GanConfig(FamilyConfig):
    """DCGAN, conditional on the label when the data has one."""

    family: Literal["gan"] = "gan"
    latent_dim: int = Field(default=64, ge=1, description="Length of the noise vector.")
    generator_width: int = Field(
        default=64, ge=4, description="Channels of the generator's last hidden layer."
    )
    critic_width: int = Field(default=64, ge=4, description="Channels of the critic's first layer.")
    generator: AdamConfig = Field(
        default=AdamConfig(beta1=0.5), description="Optimiser of the generator."
    )
    critic: AdamConfig = Field(
        default=AdamConfig(beta1=0.5), description="Optimiser of the critic."
    )


class Generator(nn.Module):
    """Noise (B, latent_dim) and labels (B,) to images (B, C, S, S) in [-1, 1]."""

    def __init__(self, *, latent_dim: int, width: int, shape: ImageShape) -> None:
        super().__init__()
        self.code = LabelledCode(code_dim=latent_dim, num_classes=shape.num_classes)
        self.upsample = Upsampler(code_dim=self.code.width, width=width, shape=shape)

    def forward(self, noise: Tensor, labels: Tensor | None) -> Tensor:
        return torch.tanh(self.upsample(self.code(noise, labels)))


class Critic(nn.Module):
    """Images (B, C, S, S) in [-1, 1] and labels (B,) to logits (B,) of being real."""

    def __init__(self, *, width: int, shape: ImageShape) -> None:
        super().__init__()
        self.downsample = Downsampler(width=width, shape=shape)
        num_features = self.downsample.num_features
        self.score = nn.Linear(num_features, 1)
        self.embed = nn.Embedding(shape.num_classes, num_features) if shape.num_classes else None
        self.apply(initialise)

    def forward(self, images: Tensor, labels: Tensor | None) -> Tensor:
        features = self.downsample(images)
        logits: Tensor = self.score(features)[:, 0].float()
        if self.embed is not None:
            logits = logits + (self.embed(labels) * features).sum(dim=1).float()
        return logits


class Gan(ImageModel):
    """The two players and their game."""

    config_type = GanConfig
    averaged_parts = frozenset({"generator"})
    config: GanConfig

    def __init__(self, config: GanConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.critic = Critic(width=config.critic_width, shape=shape)
        self.generator = Generator(
            latent_dim=config.latent_dim, width=config.generator_width, shape=shape
        )

    def parts(self) -> dict[str, nn.Module]:
        return {"critic": self.critic, "generator": self.generator}

    def optimizer(self, part: str) -> torch.optim.Optimizer:
        adam: AdamConfig = getattr(self.config, part)
        return adam.optimizer(self.parts()[part].parameters())

    def losses(
        self, batch: dict[str, Tensor], generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        real, labels = to_unit_range(batch["images"]), batch.get("labels")
        noise = torch.randn(
            len(real), self.config.latent_dim, generator=generator, device=real.device
        )
        fake = self.generator(noise, labels)
        yield (
            "critic",
            functional.softplus(-self.critic(real, labels)).mean()
            + functional.softplus(self.critic(fake.detach(), labels)).mean(),
        )
        yield "generator", functional.softplus(-self.critic(fake, labels)).mean()

    def sample(self, requests: Sequence[SampleRequest]) -> Tensor:
        if not requests:
            return self.no_images()
        device = next(self.parameters()).device
        size = self.config.latent_dim
        noise = torch.stack([torch.randn(size, generator=r.generator()) for r in requests])
        return to_uint8(self.generator(noise.to(device), self.labels(requests, device)))
