"""VAE: a variational autoencoder, conditional on the label if there is one.

Kingma & Welling 2014 (the evidence lower bound, eq. 10, and its reparameterised
estimate); Higgins et al. 2017 (beta); Kingma et al. 2016, eq. 15 (free bits); Sohn, Lee &
Yan 2015 (conditioning); Burda, Grosse & Salakhutdinov 2016 (importance weighting, active
units); Salakhutdinov & Murray 2008 (dynamic binarisation). A pixel in [0, 1] is a Bernoulli's
mean, the usual relaxation for digits and other near-binary images; or with `binarized` a sample
of the Bernoulli; or a Gaussian with a fixed standard deviation.
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
from aigc_ops.models.nn.blocks import ClassConditionedLatent
from aigc_ops.models.nn.interpolation import slerp
from aigc_ops.models.nn.networks import Network, build_downsampling, build_upsampling

# A latent unit is active if its mean varies by more over the data: Burda et al. 2016, section 5.2.
ACTIVE_VARIANCE = 0.01
MEMBERSHIP_DRAWS = 16  # codes per image, over which a membership score is averaged
MIN_ROWS = 4  # fewer rows do not estimate that variance
NUM_INTERPOLATIONS = 10
NUM_STEPS = 10  # images of an interpolation, both ends included


class VaeConfig(FamilyConfig):
    """VAE, conditional on the label when the data has one."""

    family: Literal["vae"] = "vae"
    network: Network = Field(default="convolutional", description="Kind of encoder and decoder.")
    latent_dim: int = Field(default=16, ge=1, description="Length of the latent code.")
    width: int = Field(default=32, ge=4, description="Channels at half the image's size.")
    likelihood: Literal["bernoulli", "gaussian"] = Field(
        default="bernoulli", description="Distribution of a pixel; gaussian suits photographs."
    )
    binarized: bool = Field(
        default=False,
        description="Dynamic binarisation: sample each pixel as 0 or 1 by its grey level at each "
        "step; bernoulli likelihoods are then comparable with published ones.",
    )
    pixel_deviation: float = Field(
        default=0.1, gt=0, le=1, description="Standard deviation of a gaussian pixel in [0, 1]."
    )
    beta: float = Field(default=1.0, ge=0, description="Weight of the KL divergence.")
    beta_warmup_steps: int = Field(
        default=0,
        ge=0,
        description="Steps over which the weight of the KL divergence rises from 0.",
    )
    free_nats: float = Field(
        default=0.0,
        ge=0,
        description="Free bits: KL divergence per latent unit, in nats, that is not penalised; a "
        "mean over the rows of a micro-batch of a process.",
    )
    autoencoder: AdamConfig = Field(
        default=AdamConfig(learning_rate=1e-3), description="Optimiser of encoder and decoder."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.binarized and self.likelihood != "bernoulli":
            raise ValueError(
                f"binarized pixels are bernoulli ones, but likelihood is {self.likelihood}; set "
                "likelihood to bernoulli, or binarized to false"
            )
        return self


class Autoencoder(nn.Module):
    """Encoder and decoder, both conditional on labels (B,) if there are classes."""

    def __init__(self, config: VaeConfig, shape: ImageShape) -> None:
        super().__init__()
        num_classes, width = shape.num_classes, config.width
        self.downward = build_downsampling(config.network, width=width, shape=shape)
        self.features = ClassConditionedLatent(
            code_dim=self.downward.num_features, num_classes=num_classes
        )
        self.posterior = nn.Linear(self.features.width, 2 * config.latent_dim)
        self.code = ClassConditionedLatent(code_dim=config.latent_dim, num_classes=num_classes)
        self.upward = build_upsampling(
            config.network, code_dim=self.code.width, width=width, shape=shape
        )

    def encode(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return mean and log variance, (B, latent_dim) each, of images in [-1, 1]."""
        # float32, because exp() of a bf16 log variance is too coarse for the KL divergence.
        features = self.features(self.downward(images), labels)
        mean, log_variance = self.posterior(features).float().chunk(2, dim=1)
        return mean, log_variance

    def decode(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """Return the logits (B, C, H, W) of the pixels' means."""
        images: Tensor = self.upward(self.code(codes, labels))
        return images


class Vae(ImageLikelihoodModel):
    """An autoencoder trained by the evidence lower bound (ELBO)."""

    config_type = VaeConfig
    averaged_parts = frozenset({"autoencoder"})
    membership_score = "evidence lower bound, less its maximum for these grey levels"
    alarms = (
        Alarm("active_units", "the latent code ignores the image", at_least=0.5),
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
        images, labels = self._prepared(batch["images"], noise), batch.get("labels")
        mean, log_variance = self.autoencoder.encode(images, labels)
        # Reparameterisation, Kingma & Welling 2014, eq. 10.
        codes = mean + noise.normal(self.config.latent_dim) * torch.exp(0.5 * log_variance)
        logits = self.autoencoder.decode(codes, labels)
        reconstruction = self._nll(logits, (images + 1) / 2).mean()
        kl_by_unit = _kl_divergence(mean, log_variance).mean(dim=0)
        # In eval mode the loss is the ELBO itself, in which the KL divergence has the weight 1.
        weight = self._kl_weight(noise) if self.training else 1.0
        free = self.config.free_nats if self.training else 0.0
        metrics = {
            "elbo": -(reconstruction + kl_by_unit.sum()),
            "reconstruction": reconstruction,
            "kl": kl_by_unit.sum(),
        }
        if len(mean) >= MIN_ROWS:
            variances = mean.var(dim=0, correction=0)
            metrics["active_units"] = (variances > ACTIVE_VARIANCE).sum().float()
        # Free bits, Kingma et al. 2016, eq. 15: the minimum applies to each unit's mean over rows.
        kl = kl_by_unit.clamp(min=free).sum()
        yield Loss("autoencoder", reconstruction + weight * kl, metrics)

    def _kl_weight(self, noise: Noise) -> Tensor | float:
        """Return beta, after a linear warm-up from 0."""
        num_steps = self.config.beta_warmup_steps
        return self.config.beta * noise.ramp(num_steps) if num_steps else self.config.beta

    def _prepared(self, levels: Tensor, noise: Noise) -> Tensor:
        """Return uint8 images in [-1, 1], binarised if configured."""
        images = to_unit_range(levels)
        if self.config.binarized:
            images = noise.uniform(*images.shape[1:]).lt((images + 1) / 2) * 2.0 - 1.0
        return images

    def _nll(self, logits: Tensor, pixels: Tensor) -> Tensor:
        """Return the negative log-likelihood (B,) in nats of pixels in [0, 1]."""
        if self.config.likelihood == "bernoulli":
            nats = functional.binary_cross_entropy_with_logits(logits, pixels, reduction="none")
        else:
            deviation = self.config.pixel_deviation
            nats = 0.5 * ((logits.sigmoid() - pixels) / deviation).square()
            nats = nats + math.log(deviation * math.sqrt(2 * math.pi))
        return nats.flatten(1).sum(dim=1)

    @torch.no_grad()
    def figures(self, batch: dict[str, Tensor], noise: Noise, *, num_draws: int) -> ImageFigures:
        """Return `nll`, `elbo`, `reconstruction` and `kl` of each image, in nats.

        `nll` is the importance-weighted upper bound on -log p(x) with `num_draws` samples
        (Burda et al. 2016, eq. 8). It decreases towards -log p(x) with their number.
        """
        images, labels = self._prepared(batch["images"], noise), batch.get("labels")
        mean, log_variance = self.autoencoder.encode(images, labels)
        deviation, pixels = torch.exp(0.5 * log_variance), (images + 1) / 2
        nlls, log_weights = [], []
        for _ in range(num_draws):
            normal = noise.normal(self.config.latent_dim)
            codes = mean + normal * deviation
            nlls.append(self._nll(self.autoencoder.decode(codes, labels), pixels))
            # log p(z) - log q(z|x); the constants of the two normal densities cancel.
            log_ratio = 0.5 * (normal.square() + log_variance - codes.square()).sum(dim=1)
            log_weights.append((log_ratio - nlls[-1]).cpu().double())
        reconstruction = torch.stack(nlls).mean(dim=0)
        kl = _kl_divergence(mean, log_variance).sum(dim=1)
        # The mean of the weights is taken in log space: exp(-1000) is 0 even in float64.
        nll = math.log(num_draws) - torch.stack(log_weights).logsumexp(dim=0)
        values = {"nll": nll, "elbo": -reconstruction - kl, "reconstruction": reconstruction}
        return ImageFigures({**values, "kl": kl}, self._terms())

    @torch.no_grad()
    def membership_scores(self, batch: dict[str, Tensor], noise: Noise) -> Tensor:
        images, labels = self._prepared(batch["images"], noise), batch.get("labels")
        mean, log_variance = self.autoencoder.encode(images, labels)
        deviation, pixels = torch.exp(0.5 * log_variance), (images + 1) / 2
        nlls = []
        for _ in range(MEMBERSHIP_DRAWS):
            codes = mean + noise.normal(self.config.latent_dim) * deviation
            nlls.append(self._nll(self.autoencoder.decode(codes, labels), pixels))
        # Images differ in the least value that their grey levels allow, which is no membership.
        least = self._nll(torch.logit(pixels, eps=1e-6), pixels)
        elbo = -torch.stack(nlls).mean(dim=0) - _kl_divergence(mean, log_variance).sum(dim=1)
        return elbo + least

    def _terms(self) -> dict[str, JsonValue]:
        # Stored with each score: likelihoods compare only under equal terms, so no text may change.
        terms: dict[str, JsonValue] = {
            "likelihood": self.config.likelihood,
            "pixels": "drawn 0 or 1 by grey level" if self.config.binarized else "grey levels",
        }
        if self.config.likelihood == "gaussian":
            terms["pixel_deviation"] = self.config.pixel_deviation
        return terms

    @torch.no_grad()
    def pictures(self, batch: dict[str, Tensor], noise: Noise) -> Mapping[str, Tensor]:
        """Return images with their reconstructions, and interpolations within a class."""
        images, labels = to_uint8(self._prepared(batch["images"], noise)), batch.get("labels")
        images = images.to(batch["images"].device)
        pairs = torch.stack([images.cpu(), self._reconstruct(images, labels)], dim=1)
        interpolations = [
            self._interpolate(images[ends], None if labels is None else labels[ends], num=NUM_STEPS)
            for ends in _interpolation_pairs(labels, len(images))[:NUM_INTERPOLATIONS]
        ]
        pictures = {"reconstructions": pairs}
        if interpolations:
            pictures["interpolations"] = torch.stack(interpolations)
        return pictures

    @torch.no_grad()
    def reconstruct(self, samples: Tensor, requests: Sequence[SampleRequest]) -> Tensor:
        """Return reconstructions (N, C, H, W) of uint8 images, uint8, from the mean codes."""
        device = next(self.parameters()).device
        return self._reconstruct(samples.to(device), self.labels(requests, device))

    def _reconstruct(self, images: Tensor, labels: Tensor | None) -> Tensor:
        mean, _ = self.autoencoder.encode(to_unit_range(images), labels)
        return self._decode(mean, labels)

    @torch.no_grad()
    def interpolate(self, start: SampleRequest, end: SampleRequest, num: int) -> Tensor:
        """Return (num, C, H, W) uint8 images between the samples of two requests."""
        device = next(self.parameters()).device
        normals = slerp(self._normal(start), self._normal(end), num)
        codes = torch.stack([self._code(start, normal) for normal in normals])
        return self._decode(codes.to(device), self.labels([start] * num, device))

    def _interpolate(self, images: Tensor, labels: Tensor | None, *, num: int) -> Tensor:
        """Return (num, C, H, W) uint8, interpolated linearly between the codes of 2 images.

        The first image's label is used throughout.
        """
        mean, _ = self.autoencoder.encode(to_unit_range(images), labels)
        weights = torch.linspace(0, 1, num, device=mean.device)[:, None]
        codes = (1 - weights) * mean[:1] + weights * mean[1:]
        return self._decode(codes, None if labels is None else labels[:1].expand(num))

    def controls(self) -> Mapping[str, Control]:
        units = {
            f"latent_{i}": Control(-4.0, 4.0, "Latent unit; N(0, 1) unless set.")
            for i in range(1, self.config.latent_dim + 1)
        }
        temperature = Control(0.0, 2.0, "Standard deviation of the latent code.")
        return {"temperature": temperature, **units}

    def sample(self, requests: Sequence[SampleRequest]) -> Tensor:
        if not requests:
            return self.no_images()
        device = next(self.parameters()).device
        codes = torch.stack([self._code(request) for request in requests])
        return self._decode(codes.to(device), self.labels(requests, device))

    def _normal(self, request: SampleRequest) -> Tensor:
        return torch.randn(self.config.latent_dim, generator=request.generator())

    def _code(self, request: SampleRequest, normal: Tensor | None = None) -> Tensor:
        """Return the code (latent_dim,) of a request, from its own noise or from a given one."""
        # All units are sampled before some are set, so that setting one does not change the others.
        code = (self._normal(request) if normal is None else normal) * request.controls.get(
            "temperature", 1.0
        )
        for index in range(self.config.latent_dim):
            code[index] = request.controls.get(f"latent_{index + 1}", code[index])
        return code

    def _decode(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        return to_uint8(2 * self.autoencoder.decode(codes, labels).sigmoid() - 1)


def _interpolation_pairs(labels: Tensor | None, num: int) -> list[Tensor]:
    """Return indices (2,) of pairs of images, of one class if there are classes."""
    if labels is None:
        pairs = list(torch.split(torch.arange(num), 2))
    else:
        pairs = [(labels == label).nonzero()[:2, 0] for label in torch.unique(labels)]
    return [pair for pair in pairs if len(pair) == 2]


def _kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return the KL divergence (B, latent_dim) of N(mean, variance) from N(0, 1) in nats."""
    # Kingma & Welling 2014, appendix B.
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
