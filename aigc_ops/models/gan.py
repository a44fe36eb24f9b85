"""GAN: a generator and a discriminator, with the field's usual networks and losses.

Goodfellow et al. 2014 (GAN); Radford, Metz & Chintala 2016 (DCGAN); Zhang et al. 2019
and Brock, Donahue & Simonyan 2019 (residual networks with self-attention); Miyato &
Koyama 2018, eq. 3 (conditioning by projection); Chen et al. 2016 (InfoGAN's codes). In code, fields
and metrics the discriminator is called `critic`, the name for Wasserstein losses.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.interfaces.discriminator import ADVICE, OVERFITTED
from aigc_ops.interfaces.model import Alarm, FamilyConfig, Loss
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.interfaces.request import Control, SampleRequest
from aigc_ops.modalities.image.model import ImageModel, to_uint8, to_unit_range
from aigc_ops.models.nn.augmentation import Augmentation, augment
from aigc_ops.models.nn.blocks import ClassConditionedLatent
from aigc_ops.models.nn.infogan_codes import InfoGanCodes
from aigc_ops.models.nn.interpolation import slerp
from aigc_ops.models.nn.networks import Network, build_downsampling, build_upsampling

PREDICTOR_WIDTH = 128  # Chen et al. 2016, table 1
MAX_TRUNCATION = 4.0  # |N(0, 1)| exceeds it with probability 1 / 16,000


class GanConfig(FamilyConfig):
    """GAN, conditional on the label when the data has one."""

    family: Literal["gan"] = "gan"
    network: Network = Field(
        default="convolutional",
        description="convolutional: DCGAN; residual: with self-attention, as SAGAN and BigGAN.",
    )
    latent_dim: int = Field(default=64, ge=1, description="Length of the noise vector.")
    generator_width: int = Field(
        default=64, ge=4, description="Channels of the generator's last hidden layer."
    )
    critic_width: int = Field(
        default=64, ge=4, description="Channels of the discriminator's first layer."
    )
    loss: Literal["non_saturating", "hinge", "least_squares", "wasserstein"] = Field(
        default="non_saturating",
        description="Adversarial loss; wasserstein needs a gradient_penalty, usually of 10.",
    )
    gradient_penalty: float = Field(
        default=0.0, ge=0, description="Weight of WGAN-GP's gradient penalty."
    )
    r1: float = Field(
        default=0.0, ge=0, description="Weight (gamma) of the R1 penalty on real images."
    )
    spectral_norm: bool = Field(
        default=False, description="Apply spectral norm to the discriminator's layers."
    )
    generator_spectral_norm: bool = Field(
        default=False, description="Apply it to the generator's layers too, as SAGAN does."
    )
    critic_steps: int = Field(
        default=1, ge=1, description="Discriminator steps per generator step."
    )
    label_in: Literal["code", "norm"] = Field(
        default="code",
        description="Where the label enters the generator: beside the noise, or in batch norm.",
    )
    categorical_codes: Sequence[int] = Field(
        default=(), description="InfoGAN's categorical codes: number of values per code."
    )
    continuous_codes: int = Field(
        default=0, ge=0, description="Number of InfoGAN's continuous codes, uniform in -1 to 1."
    )
    code_weight: float = Field(
        default=1.0, ge=0, description="Weight of the mutual-information loss of categorical codes."
    )
    continuous_code_weight: float = Field(
        default=0.1,
        ge=0,
        description="Weight of the mutual-information loss of continuous codes. It is unbounded, "
        "so large weights spoil the images.",
    )
    augmentations: Sequence[Augmentation] = Field(
        default=(),
        description="Differentiable augmentation for small data: color, translation, cutout.",
    )
    generator: AdamConfig = Field(
        default=AdamConfig(beta1=0.5), description="Optimiser of the generator."
    )
    critic: AdamConfig = Field(
        default=AdamConfig(beta1=0.5), description="Optimiser of the discriminator."
    )

    @field_validator("categorical_codes", "augmentations")
    @classmethod
    def _frozen(cls, values: Sequence[object]) -> Sequence[object]:
        # A list would make the frozen config unhashable and open to change.
        return tuple(values)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.loss == "wasserstein" and not self.gradient_penalty and not self.spectral_norm:
            raise ValueError(
                "loss wasserstein needs a Lipschitz-bounded critic; set gradient_penalty to 10, "
                "or spectral_norm"
            )
        if any(num < 2 for num in self.categorical_codes):
            raise ValueError(
                f"categorical_codes are {self.categorical_codes}; give each at least 2 values"
            )
        if self.network == "fully_connected" and self.label_in == "norm":
            raise ValueError("label_in norm needs a convolutional or residual network")
        return self


class Generator(nn.Module):
    """Network from codes (B, code_dim) and labels (B,) to images (B, C, H, W) in [-1, 1]."""

    def __init__(self, config: GanConfig, *, code_dim: int, shape: ImageShape) -> None:
        super().__init__()
        # `code` and `upward` are keys of stored weights, as are all attributes that hold layers.
        in_norm = config.label_in == "norm"
        self.code = ClassConditionedLatent(
            code_dim=code_dim, num_classes=0 if in_norm else shape.num_classes
        )
        self.upward = build_upsampling(
            config.network,
            code_dim=self.code.width,
            width=config.generator_width,
            shape=shape,
            num_classes=shape.num_classes if in_norm else 0,
        )
        if config.generator_spectral_norm:
            self.upward.apply(_add_spectral_norm)

    def forward(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        return torch.tanh(self.upward(self.code(codes, labels), labels))


class Critic(nn.Module):
    """Discriminator: images (B, C, H, W) in [-1, 1] and labels (B,) to logits (B,) and codes."""

    def __init__(self, config: GanConfig, *, num_predicted: int, shape: ImageShape) -> None:
        super().__init__()
        # With batch norm a row's gradient penalty would depend on the other rows (Gulrajani et al.
        # 2017, section 4).
        normalise = not (config.spectral_norm or config.gradient_penalty or config.r1)
        self.downward = build_downsampling(
            config.network, width=config.critic_width, shape=shape, normalise=normalise
        )
        width = self.downward.num_features
        self.score = nn.Linear(width, 1)
        self.embed = nn.Embedding(shape.num_classes, width) if shape.num_classes else None
        self.predict = _predictor(width, num_predicted) if num_predicted else None
        for head in (self.score, self.embed):
            if head is not None:
                nn.init.normal_(head.weight, 0.0, 0.02)
        if config.spectral_norm:
            self.apply(_add_spectral_norm)
            if self.embed is not None:  # the projection is a linear layer of the one-hot label
                spectral_norm(self.embed)

    def forward(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        features = self.downward(images)
        logits: Tensor = self.score(features)[:, 0].float()
        # Projection, Miyato & Koyama 2018, eq. 3: the label's embedding times the features.
        if self.embed is not None:
            logits = logits + (self.embed(labels) * features).sum(dim=1).float()
        return logits, None if self.predict is None else self.predict(features).float()


def _predictor(width: int, num_predicted: int) -> nn.Sequential:
    """Return InfoGAN's Q: a head with one hidden layer on the discriminator's features."""
    return nn.Sequential(
        nn.Linear(width, PREDICTOR_WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(PREDICTOR_WIDTH, num_predicted),
    )


def _add_spectral_norm(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        spectral_norm(module)


def separation(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Return the discriminator's area under the ROC curve: 0.5 by chance, 1 when saturated.

    This is the share of (real, fake) pairs that are ranked correctly.
    """
    # The accuracy at logit 0 would mean something else for each loss; the ranking does not.
    return (real_logits[:, None] > fake_logits[None, :]).float().mean()


class Gan(ImageModel):
    """Generator and discriminator with their losses."""

    config_type = GanConfig
    averaged_parts = frozenset({"generator"})
    membership_score = "logit of the discriminator"
    judged_by = "samples/coverage"
    higher_is_better = True
    # Bounds were read from the healthy and collapsed runs that docs/training.md describes.
    alarms = (
        Alarm("samples/class_spread", "the samples of a class are all alike", at_least=0.2),
        Alarm("samples/duplicates", "nearly all samples repeat one another", at_most=0.9),
        Alarm("samples/coverage", "the samples are like no real image", at_least=0.01),
        Alarm(
            "critic/separation",
            "the discriminator separates all images (if they are few, set model.augmentations)",
            at_most=0.9995,
            suppressed_when=("samples/coverage", 0.3),
        ),
        Alarm(
            "critic/membership_auc",
            f"the discriminator has memorised its training images ({ADVICE})",
            at_most=OVERFITTED,
            beside=("critic/separation", "samples/coverage"),
            is_warning=True,
        ),
    )
    config: GanConfig

    def __init__(self, config: GanConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.codes = InfoGanCodes(config.categorical_codes, config.continuous_codes)
        self.critic = Critic(config, num_predicted=self.codes.num_predicted, shape=shape)
        code_dim = config.latent_dim + self.codes.width
        self.generator = Generator(config, code_dim=code_dim, shape=shape)

    def parts(self) -> dict[str, nn.Module]:
        return {"critic": self.critic, "generator": self.generator}

    def optimizer(self, part: str) -> torch.optim.Optimizer:
        adam: AdamConfig = getattr(self.config, part)
        return adam.optimizer(self.parts()[part].parameters())

    def losses(self, batch: dict[str, Tensor], noise: Noise) -> Iterator[Loss]:
        real, labels = to_unit_range(batch["images"]), batch.get("labels")
        for index in range(self.config.critic_steps):
            codes = self.codes.sample(noise)
            normal = noise.normal(self.config.latent_dim)
            latent = torch.cat([normal, self.codes.standardise(codes)], dim=1)
            is_last = index + 1 == self.config.critic_steps
            # Only the last images get a generator step; the others need no graph.
            with torch.set_grad_enabled(is_last):
                fake = self.generator(latent, labels)
            yield self._critic_loss(real, fake.detach(), codes, labels, noise)
        # The loop has stepped the discriminator by now: the generator meets the updated one.
        fake_logits, predicted = self._discriminate(fake, labels, noise)
        value, metrics = self._generator_loss(fake_logits), dict[str, Tensor]()
        if predicted is not None:
            value = value + self._code_loss(predicted, codes)
            # I(c; G(z, c)) >= H(c) - E[-log Q(c|x)], Chen et al. 2016, eq. 5.
            nll = torch.stack(self.codes.nll(predicted, codes)).sum(dim=0).mean()
            metrics["codes/mutual_information"] = self.codes.entropy() - nll
        yield Loss("generator", value, metrics)

    def _discriminate(
        self, images: Tensor, labels: Tensor | None, noise: Noise
    ) -> tuple[Tensor, Tensor | None]:
        logits: tuple[Tensor, Tensor | None] = self.critic(
            augment(images, self.config.augmentations, noise), labels
        )
        return logits

    def _critic_loss(
        self, real: Tensor, fake: Tensor, codes: Tensor, labels: Tensor | None, noise: Noise
    ) -> Loss:
        # 1. Adversarial loss.
        if self.config.r1:
            real = real.requires_grad_()
        real_logits, _ = self._discriminate(real, labels, noise)
        fake_logits, predicted = self._discriminate(fake, labels, noise)
        value = _adversarial_loss(self.config.loss, real_logits, fake_logits)
        # 2. R1 penalty: Mescheder, Geiger & Nowozin 2018, eq. 9.
        if self.config.r1:
            value = value + 0.5 * self.config.r1 * _squared_norms(real_logits, real).mean()
        # 3. WGAN-GP: Gulrajani et al. 2017, eq. 3. The slope is taken at augmented images, because
        # those are what the critic sees. 1e-12: the square root has no gradient at 0.
        if self.config.gradient_penalty:
            weight = noise.uniform(1, 1, 1)
            between = augment(weight * real + (1 - weight) * fake, self.config.augmentations, noise)
            between = between.detach().requires_grad_()
            norms = (_squared_norms(self.critic(between, labels)[0], between) + 1e-12).sqrt()
            value = value + self.config.gradient_penalty * (norms - 1).square().mean()
        # 4. InfoGAN: the discriminator's features learn to predict the codes too.
        if predicted is not None:
            value = value + self._code_loss(predicted, codes)
        return Loss("critic", value, {"critic/separation": separation(real_logits, fake_logits)})

    def _code_loss(self, predicted: Tensor, codes: Tensor) -> Tensor:
        """Compute InfoGAN's mutual-information loss of both networks (Chen et al., eq. 6)."""
        categorical, continuous = self.codes.nll(predicted, codes)
        weights = self.config.code_weight, self.config.continuous_code_weight
        return weights[0] * categorical.mean() + weights[1] * continuous.mean()

    def _generator_loss(self, fake_logits: Tensor) -> Tensor:
        if self.config.loss == "non_saturating":
            return functional.softplus(-fake_logits).mean()
        if self.config.loss == "least_squares":
            return 0.5 * (fake_logits - 1).square().mean()
        return -fake_logits.mean()  # hinge and wasserstein

    @torch.no_grad()
    def discriminator_scores(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the discriminator's logits (N,) of uint8 images, without augmentation."""
        device = next(self.parameters()).device
        on_device = {name: rows.to(device) for name, rows in batch.items()}
        logits: Tensor = self.critic(to_unit_range(on_device["images"]), on_device.get("labels"))[0]
        return logits.cpu()

    def membership_scores(self, batch: dict[str, Tensor], noise: Noise) -> Tensor:  # noqa: ARG002
        return self.discriminator_scores(batch)

    def controls(self) -> Mapping[str, Control]:
        truncation = Control(
            0.0, MAX_TRUNCATION, "Bound on the noise: lower is more typical and less varied."
        )
        return {"truncation": truncation, **self.codes.controls()}

    def sample(self, requests: Sequence[SampleRequest]) -> Tensor:
        if not requests:
            return self.no_images()
        device = next(self.parameters()).device
        latents = torch.stack([self._latent(request) for request in requests])
        return to_uint8(self.generator(latents.to(device), self.labels(requests, device)))

    @torch.no_grad()
    def interpolate(self, start: SampleRequest, end: SampleRequest, num: int) -> Tensor:
        """Return (num, C, H, W) uint8 images between the samples of two requests.

        InfoGAN's codes are blended linearly.
        """
        device = next(self.parameters()).device
        normals = slerp(self._normal(start), self._normal(end), num)
        weights = torch.linspace(0, 1, num)[:, None]
        codes = torch.lerp(self._codes(start), self._codes(end), weights)
        noises = torch.stack([self._truncated(start, normal) for normal in normals])
        latents = torch.cat([noises, codes], dim=1).to(device)
        return to_uint8(self.generator(latents, self.labels([start] * num, device)))

    def _latent(self, request: SampleRequest) -> Tensor:
        """Return noise and codes of one sample, with the noise truncated if requested."""
        noise = self._truncated(request, self._normal(request))
        return torch.cat([noise, self._codes(request)])

    def _normal(self, request: SampleRequest) -> Tensor:
        return torch.randn(self.config.latent_dim, generator=request.generator())

    def _codes(self, request: SampleRequest) -> Tensor:
        return self.codes.standardise(self.codes.from_request(request))

    def _truncated(self, request: SampleRequest, noise: Tensor) -> Tensor:
        bound = request.controls.get("truncation")
        if bound is None:
            return noise
        # The same quantile of the normal truncated to ±bound. Brock et al. 2019, section 3.1,
        # sample again instead; here a seed's sample changes smoothly with the bound. The clamp
        # catches quantiles that round to 0 or 1, which `ndtri` maps to infinity.
        low, high = torch.special.ndtr(torch.tensor([-bound, bound]))
        cut: Tensor = torch.special.ndtri(low + torch.special.ndtr(noise) * (high - low))
        return cut.clamp(-bound, bound)


def _adversarial_loss(loss: str, real: Tensor, fake: Tensor) -> Tensor:
    """Compute the discriminator's loss from logits (B,), without penalties."""
    if loss == "non_saturating":  # Goodfellow et al. 2014, eq. 1: softplus(-x) = -log sigmoid(x)
        return functional.softplus(-real).mean() + functional.softplus(fake).mean()
    if loss == "hinge":  # Miyato et al. 2018, eq. 16
        return functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
    if loss == "least_squares":  # Mao et al. 2017, eq. 9
        return 0.5 * ((real - 1).square().mean() + fake.square().mean())
    return fake.mean() - real.mean()  # Arjovsky, Chintala & Bottou 2017, eq. 2


def _squared_norms(logits: Tensor, images: Tensor) -> Tensor:
    """Return squared norms (B,) of the logits' gradients with respect to the images."""
    # The sum's gradient holds every row's own, since without batch norm rows are independent.
    [gradients] = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradients.float().square().flatten(1).sum(dim=1)
