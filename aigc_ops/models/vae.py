"""VAE: a variational autoencoder, conditional on the label if there is one.

Kingma & Welling 2014 (the evidence lower bound, eq. 10, and its reparameterised
estimate); Higgins et al. 2017 (beta); Kingma et al. 2016, eq. 15 (free bits); Sohn, Lee &
Yan 2015 (conditioning); Burda, Grosse & Salakhutdinov 2016 (importance weighting, active
units). A pixel in [0, 1] is a Bernoulli's mean, the usual relaxation for digits and other
near-binary images, or the mean of a Gaussian of fixed standard deviation.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.artifacts import ImageShape
from aigc_ops.generative import (
    AdamConfig,
    Alarm,
    Control,
    FamilyConfig,
    ImageModel,
    Loss,
    SampleRequest,
    to_uint8,
    to_unit_range,
)
from aigc_ops.models._layers import LabelledCode
from aigc_ops.models._networks import Network, build_downward, build_upward
from aigc_ops.noise import Noise

ACTIVE_VARIANCE = 0.01  # of a unit's mean over the data, Burda et al. 2016, section 5.2


class VaeConfig(FamilyConfig):
    """VAE, conditional on the label when the data has one."""

    family: Literal["vae"] = "vae"
    network: Network = Field(default="convolutional", description="Encoder's and decoder's kind.")
    latent_dim: int = Field(default=16, ge=1, description="Length of the latent code.")
    width: int = Field(default=32, ge=4, description="Channels at half the image's size.")
    likelihood: Literal["bernoulli", "gaussian"] = Field(
        default="bernoulli", description="Distribution of a pixel; gaussian suits photographs."
    )
    pixel_deviation: float = Field(
        default=0.1, gt=0, le=1, description="Standard deviation of a gaussian pixel in [0, 1]."
    )
    beta: float = Field(default=1.0, ge=0, description="Weight of the KL divergence.")
    beta_warmup_steps: int = Field(
        default=0, ge=0, description="Steps over which the KL divergence's weight rises from 0."
    )
    free_nats: float = Field(
        default=0.0, ge=0, description="KL divergence of each latent unit that costs nothing."
    )
    autoencoder: AdamConfig = Field(
        default=AdamConfig(learning_rate=1e-3), description="Optimiser of encoder and decoder."
    )


class Autoencoder(nn.Module):
    """Encoder and decoder; `labels` (B,) reach both."""

    def __init__(self, config: VaeConfig, shape: ImageShape) -> None:
        super().__init__()
        num_classes, width = shape.num_classes, config.width
        self.downward = build_downward(config.network, width=width, shape=shape)
        self.features = LabelledCode(code_dim=self.downward.num_features, num_classes=num_classes)
        self.posterior = nn.Linear(self.features.width, 2 * config.latent_dim)
        self.code = LabelledCode(code_dim=config.latent_dim, num_classes=num_classes)
        self.upward = build_upward(
            config.network, code_dim=self.code.width, width=width, shape=shape
        )

    def encode(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance, (B, latent_dim) each, of images in [-1, 1]."""
        features = self.features(self.downward(images), labels)
        mean, log_variance = self.posterior(features).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """(B, C, H, W) logits of the pixels' means."""
        images: Tensor = self.upward(self.code(codes, labels))
        return images


class Vae(ImageModel):
    """The autoencoder and its evidence lower bound."""

    config_type = VaeConfig
    averaged_parts = frozenset({"autoencoder"})
    alarms = (
        Alarm("active_units", "the code says nothing of the image", at_least=0.5),
        Alarm("samples/class_spread", "the samples of a class are all alike", at_least=0.2),
    )
    config: VaeConfig

    def __init__(self, config: VaeConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.autoencoder = Autoencoder(config, shape)

    def parts(self) -> dict[str, nn.Module]:
        return {"autoencoder": self.autoencoder}

    def optimizer(self, part: str) -> torch.optim.Optimizer:
        return self.config.autoencoder.optimizer(self.parts()[part].parameters())

    def losses(self, batch: dict[str, Tensor], noise: Noise) -> Iterator[Loss]:
        images, labels = to_unit_range(batch["images"]), batch.get("labels")
        mean, log_variance = self.autoencoder.encode(images, labels)
        codes = mean + noise.normal(self.config.latent_dim) * torch.exp(0.5 * log_variance)
        logits = self.autoencoder.decode(codes, labels)
        reconstruction = self._surprise(logits, (images + 1) / 2).mean()
        by_unit = _divergence(mean, log_variance).mean(dim=0)
        # In eval mode the bound is judged, whose KL divergence has its full weight.
        weight = self.config.beta * self._warmth(noise.step) if self.training else 1.0
        free = self.config.free_nats if self.training else 0.0
        metrics = {
            "elbo": -(reconstruction + by_unit.sum()),
            "reconstruction": reconstruction,
            "kl": by_unit.sum(),
            "active_units": (mean.var(dim=0, correction=0) > ACTIVE_VARIANCE).sum().float(),
        }
        yield Loss("autoencoder", reconstruction + weight * by_unit.clamp(min=free).sum(), metrics)

    def _warmth(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.config.beta_warmup_steps))

    def _surprise(self, logits: Tensor, pixels: Tensor) -> Tensor:
        """(B,) nats: minus the log likelihood of pixels in [0, 1]."""
        if self.config.likelihood == "bernoulli":
            nats = functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none")
        else:
            deviation = self.config.pixel_deviation
            nats = 0.5 * ((logits.sigmoid() - pixels) / deviation).square()
            nats = nats + math.log(deviation * math.sqrt(2 * math.pi))
        return nats.flatten(1).sum(dim=1)

    @torch.no_grad()
    def log_likelihood(
        self, images: Tensor, labels: Tensor | None, *, num_codes: int, noise: Noise
    ) -> Tensor:
        """(B,) nats, a lower bound that rises to log p(x) with `num_codes` (Burda et al. eq. 8).

        `images`: (B, C, H, W) in [0, 1]; binarise them where published figures do.
        """
        mean, log_variance = self.autoencoder.encode(2 * images - 1, labels)
        deviation, weights = torch.exp(0.5 * log_variance), []
        for _ in range(num_codes):
            drawn = noise.normal(self.config.latent_dim)
            codes = mean + drawn * deviation
            of_image = -self._surprise(self.autoencoder.decode(codes, labels), images)
            of_code = 0.5 * (drawn.square() + log_variance - codes.square()).sum(dim=1)
            weights.append((of_image + of_code).double())
        return torch.stack(weights).logsumexp(dim=0) - math.log(num_codes)

    @torch.no_grad()
    def reconstruct(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """(B, C, H, W) uint8 of uint8 images, by way of their mean codes."""
        mean, _ = self.autoencoder.encode(to_unit_range(images), labels)
        return self._pictures(mean, labels)

    @torch.no_grad()
    def interpolate(self, images: Tensor, labels: Tensor | None, *, num: int) -> Tensor:
        """(num, C, H, W) uint8 from the first to the second of 2 images, `labels` the first's."""
        mean, _ = self.autoencoder.encode(to_unit_range(images), labels)
        shares = torch.linspace(0, 1, num, device=mean.device)[:, None]
        codes = (1 - shares) * mean[:1] + shares * mean[1:]
        return self._pictures(codes, None if labels is None else labels[:1].expand(num))

    def controls(self) -> Mapping[str, Control]:
        units = {
            f"latent_{i}": Control(-4.0, 4.0, "Latent unit, normal before it is set.")
            for i in range(1, self.config.latent_dim + 1)
        }
        temperature = Control(0.0, 2.0, "Standard deviation of the latent code.")
        return {"temperature": temperature, **units}

    def sample(self, requests: Sequence[SampleRequest]) -> Tensor:
        if not requests:
            return self.no_images()
        device = next(self.parameters()).device
        codes = torch.stack([self._code(request) for request in requests])
        return self._pictures(codes.to(device), self.labels(requests, device))

    def _code(self, request: SampleRequest) -> Tensor:
        code = torch.randn(self.config.latent_dim, generator=request.generator())
        code *= request.controls.get("temperature", 1.0)
        for index in range(self.config.latent_dim):
            code[index] = request.controls.get(f"latent_{index + 1}", code[index])
        return code

    def _pictures(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        return to_uint8(2 * self.autoencoder.decode(codes, labels).sigmoid() - 1)


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """(B, latent_dim) KL divergence of N(mean, variance) from N(0, 1) in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
