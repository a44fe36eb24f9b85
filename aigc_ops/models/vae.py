"""VAE: a convolutional variational autoencoder, conditional on the label if there is one.

Kingma & Welling 2014 (the evidence lower bound, eq. 10, and its reparameterised
estimate); Higgins et al. 2017 (beta); Sohn, Lee & Yan 2015 (conditioning). A pixel in
[0, 1] is a Bernoulli's mean, the usual relaxation for digits and other near-binary
images, or the mean of a Gaussian of fixed standard deviation.
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
from aigc_ops.models._convolutional import Downsampler, LabelledCode, Upsampler


class VaeConfig(FamilyConfig):
    """Convolutional VAE, conditional on the label when the data has one."""

    family: Literal["vae"] = "vae"
    latent_dim: int = Field(default=16, ge=1, description="Length of the latent code.")
    width: int = Field(default=32, ge=4, description="Channels at half the image's size.")
    likelihood: Literal["bernoulli", "gaussian"] = Field(
        default="bernoulli", description="Distribution of a pixel; gaussian suits photographs."
    )
    pixel_deviation: float = Field(
        default=0.1, gt=0, le=1, description="Standard deviation of a gaussian pixel in [0, 1]."
    )
    beta: float = Field(default=1.0, ge=0, description="Weight of the KL divergence.")
    autoencoder: AdamConfig = Field(
        default=AdamConfig(learning_rate=1e-3), description="Optimiser of encoder and decoder."
    )


class Autoencoder(nn.Module):
    """Encoder and decoder; `labels` (B,) reach both."""

    def __init__(self, *, latent_dim: int, width: int, shape: ImageShape) -> None:
        super().__init__()
        self.downsample = Downsampler(width=width, shape=shape)
        num_features = self.downsample.num_features
        self.features = LabelledCode(code_dim=num_features, num_classes=shape.num_classes)
        self.posterior = nn.Linear(self.features.width, 2 * latent_dim)
        self.code = LabelledCode(code_dim=latent_dim, num_classes=shape.num_classes)
        self.upsample = Upsampler(code_dim=self.code.width, width=width, shape=shape)

    def encode(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (B, latent_dim) each, of images in [-1, 1]."""
        features = self.features(self.downsample(images), labels)
        mean, log_variance = self.posterior(features).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """(B, C, S, S) logits of the pixels' means."""
        images: Tensor = self.upsample(self.code(codes, labels))
        return images


class Vae(ImageModel):
    """The autoencoder and its evidence lower bound."""

    config_type = VaeConfig
    averaged_parts = frozenset({"autoencoder"})
    config: VaeConfig

    def __init__(self, config: VaeConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.autoencoder = Autoencoder(
            latent_dim=config.latent_dim, width=config.width, shape=shape
        )

    def parts(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def optimizer(self, part: str) -> torch.optim.Optimizer:
        return self.config.autoencoder.optimizer(self.parts()[part].parameters())

    def losses(
        self, batch: dict[str, Tensor], generator: torch.Generator
    ) -> Iterator[tuple[str, Tensor]]:
        images, labels = to_unit_range(batch["images"]), batch.get("labels")
        mean, log_variance = self.autoencoder.encode(images, labels)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        codes = mean + noise * torch.exp(0.5 * log_variance)
        reconstruction = self._negative_log_likelihood(
            self.autoencoder.decode(codes, labels), (images + 1) / 2
        )
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)
        yield "autoencoder", (reconstruction + self.config.beta * divergence).mean()

    def _negative_log_likelihood(self, logits: Tensor, pixels: Tensor) -> Tensor:
        """(B,) nats; the gaussian's without its constant."""
        if self.config.likelihood == "bernoulli":
            nats = functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none")
        else:
            nats = 0.5 * ((logits.sigmoid() - pixels) / self.config.pixel_deviation).square()
        return nats.flatten(1).sum(dim=1)

    def sample(self, requests: Sequence[SampleRequest]) -> Tensor:
        if not requests:
            return self.no_images()
        device = next(self.parameters()).device
        size = self.config.latent_dim
        codes = torch.stack([torch.randn(size, generator=r.generator()) for r in requests])
        logits = self.autoencoder.decode(codes.to(device), self.labels(requests, device))
        return to_uint8(2 * logits.sigmoid() - 1)
