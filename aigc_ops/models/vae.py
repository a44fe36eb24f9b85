"""VAE: a variational autoencoder, conditional on the label if there is one.

Kingma & Welling 2014 (the evidence lower bound, eq. 10, and its reparameterised
estimate); Higgins et al. 2017 (beta); Kingma et al. 2016, eq. 15 (free bits); Sohn, Lee &
Yan 2015 (conditioning); Burda, Grosse & Salakhutdinov 2016 (importance weighting, active
units); Salakhutdinov & Murray 2008 (pixels drawn anew from their grey levels). A pixel in
[0, 1] is a Bernoulli's mean, the usual relaxation for digits and other near-binary images;
or `binarized`, a Bernoulli's draw; or the mean of a Gaussian of fixed standard deviation.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.interfaces.model import Alarm, FamilyConfig, Loss
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.interfaces.request import Control, SampleRequest
from aigc_ops.modalities.image.model import (
    ImageFigures,
    ImageLikelihoodModel,
    to_uint8,
    to_unit_range,
)
from aigc_ops.models.nn.blocks import LabelledCode
from aigc_ops.models.nn.networks import Network, build_downward, build_upward

ACTIVE_VARIANCE = 0.01  # of a unit's mean over the data, Burda et al. 2016, section 5.2
FEWEST_ROWS = 4  # over which that variance says something
NUM_PATHS = 10
NUM_STOPS = 10  # images on the path of an interpolation, its ends included


class VaeConfig(FamilyConfig):
    """VAE, conditional on the label when the data has one."""

    family: Literal["vae"] = "vae"
    network: Network = Field(default="convolutional", description="Encoder's and decoder's kind.")
    latent_dim: int = Field(default=16, ge=1, description="Length of the latent code.")
    width: int = Field(default=32, ge=4, description="Channels at half the image's size.")
    likelihood: Literal["bernoulli", "gaussian"] = Field(
        default="bernoulli", description="Distribution of a pixel; gaussian suits photographs."
    )
    binarized: bool = Field(
        default=False,
        description="Draw each pixel as 0 or 1 by its grey level, anew at each step: a bernoulli "
        "likelihood is then one that compares with published ones.",
    )
    pixel_deviation: float = Field(
        default=0.1, gt=0, le=1, description="Standard deviation of a gaussian pixel in [0, 1]."
    )
    beta: float = Field(default=1.0, ge=0, description="Weight of the KL divergence.")
    beta_warmup_steps: int = Field(
        default=0, ge=0, description="Steps over which the KL divergence's weight rises from 0."
    )
    free_nats: float = Field(
        default=0.0,
        ge=0,
        description="KL divergence of each latent unit that costs nothing, as a mean over the rows "
        "of a batch, or of each micro-batch and process.",
    )
    autoencoder: AdamConfig = Field(
        default=AdamConfig(learning_rate=1e-3), description="Optimiser of encoder and decoder."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.binarized and self.likelihood != "bernoulli":
            raise ValueError(
                f"binarized pixels are bernoulli ones, but likelihood is {self.likelihood}"
            )
        return self


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


class Vae(ImageLikelihoodModel):
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
        images, labels = self._images(batch["images"], noise), batch.get("labels")
        mean, log_variance = self.autoencoder.encode(images, labels)
        codes = mean + noise.normal(self.config.latent_dim) * torch.exp(0.5 * log_variance)
        logits = self.autoencoder.decode(codes, labels)
        reconstruction = self._surprise(logits, (images + 1) / 2).mean()
        by_unit = _divergence(mean, log_variance).mean(dim=0)
        # In eval mode the bound is judged, whose KL divergence has its full weight.
        weight = self._weight(noise) if self.training else 1.0
        free = self.config.free_nats if self.training else 0.0
        metrics = {
            "elbo": -(reconstruction + by_unit.sum()),
            "reconstruction": reconstruction,
            "kl": by_unit.sum(),
        }
        if len(mean) >= FEWEST_ROWS:
            variances = mean.var(dim=0, correction=0)
            metrics["active_units"] = (variances > ACTIVE_VARIANCE).sum().float()
        yield Loss("autoencoder", reconstruction + weight * by_unit.clamp(min=free).sum(), metrics)

    def _weight(self, noise: Noise) -> Tensor | float:
        """Of the KL divergence."""
        num_steps = self.config.beta_warmup_steps
        return self.config.beta * noise.ramp(num_steps) if num_steps else self.config.beta

    def _images(self, levels: Tensor, noise: Noise) -> Tensor:
        """Images in [-1, 1] of uint8 ones, as they are encoded and judged."""
        images = to_unit_range(levels)
        if self.config.binarized:
            images = noise.uniform(*images.shape[1:]).lt((images + 1) / 2) * 2.0 - 1.0
        return images

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
    def figures(self, batch: dict[str, Tensor], noise: Noise, *, num_draws: int) -> ImageFigures:
        """Nats of each image: `nll`, `elbo`, and the bound's parts `reconstruction` and `kl`.

        `nll` is an upper bound that falls to -log p(x) with `num_draws` importance samples
        (Burda et al. 2016, eq. 8).
        """
        images, labels = self._images(batch["images"], noise), batch.get("labels")
        mean, log_variance = self.autoencoder.encode(images, labels)
        deviation, pixels = torch.exp(0.5 * log_variance), (images + 1) / 2
        surprises, weights = [], []
        for _ in range(num_draws):
            drawn = noise.normal(self.config.latent_dim)
            codes = mean + drawn * deviation
            surprises.append(self._surprise(self.autoencoder.decode(codes, labels), pixels))
            of_code = 0.5 * (drawn.square() + log_variance - codes.square()).sum(dim=1)
            weights.append((of_code - surprises[-1]).cpu().double())
        reconstruction = torch.stack(surprises).mean(dim=0)
        kl = _divergence(mean, log_variance).sum(dim=1)
        nll = math.log(num_draws) - torch.stack(weights).logsumexp(dim=0)
        values = {"nll": nll, "elbo": -reconstruction - kl, "reconstruction": reconstruction}
        return ImageFigures({**values, "kl": kl}, self._terms())

    def _terms(self) -> dict[str, JsonValue]:
        terms: dict[str, JsonValue] = {
            "likelihood": self.config.likelihood,
            "pixels": "drawn 0 or 1 by grey level" if self.config.binarized else "grey levels",
        }
        if self.config.likelihood == "gaussian":
            terms["pixel_deviation"] = self.config.pixel_deviation
        return terms

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor], noise: Noise) -> Mapping[str, Tensor]:
        """Images beside their reconstructions, and paths between two images of a class."""
        images, labels = to_uint8(self._images(batch["images"], noise)), batch.get("labels")
        images = images.to(batch["images"].device)
        pairs = torch.stack([images.cpu(), self.reconstruct(images, labels)], dim=1)
        paths = [
            self.interpolate(images[ends], None if labels is None else labels[ends], num=NUM_STOPS)
            for ends in _ends(labels, len(images))[:NUM_PATHS]
        ]
        return {"reconstructions": pairs} | (
            {"interpolations": torch.stack(paths)} if paths else {}
        )

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


def _ends(labels: Tensor | None, num: int) -> list[Tensor]:
    """Indices (2,) of two images each, of one class where there are classes."""
    if labels is None:
        pairs = list(torch.split(torch.arange(num), 2))
    else:
        pairs = [(labels == label).nonzero()[:2, 0] for label in torch.unique(labels)]
    return [pair for pair in pairs if len(pair) == 2]


def _divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """(B, latent_dim) KL divergence of N(mean, variance) from N(0, 1) in nats."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
