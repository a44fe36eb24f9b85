"""GAN: a generator against a critic, by any of the field's usual networks and losses.

Goodfellow et al. 2014 (the game); Radford, Metz & Chintala 2016 (DCGAN); Zhang et al. 2019
and Brock, Donahue & Simonyan 2019 (residual networks with self-attention); Miyato &
Koyama 2018, eq. 3 (conditioning by projection); Chen et al. 2016 (InfoGAN's codes).
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
from aigc_ops.interfaces.model import Alarm, FamilyConfig, Loss
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.interfaces.request import Control, SampleRequest
from aigc_ops.modalities.image.model import ImageModel, to_uint8, to_unit_range
from aigc_ops.models.nn.augmentation import Augmentation, augment
from aigc_ops.models.nn.blocks import LabelledCode
from aigc_ops.models.nn.infogan_codes import Codes
from aigc_ops.models.nn.networks import Network, build_downward, build_upward

PREDICTOR_WIDTH = 128  # Chen et al. 2016, table 1
MAX_TRUNCATION = 4.0  # normal noise reaches beyond it once in 16,000 draws


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
    critic_width: int = Field(default=64, ge=4, description="Channels of the critic's first layer.")
    loss: Literal["non_saturating", "hinge", "least_squares", "wasserstein"] = Field(
        default="non_saturating",
        description="The game's loss; wasserstein wants a gradient_penalty, usually of 10.",
    )
    gradient_penalty: float = Field(
        default=0.0, ge=0, description="Weight of WGAN-GP's penalty between real and drawn images."
    )
    r1: float = Field(
        default=0.0, ge=0, description="Weight (gamma) of the R1 penalty on real images."
    )
    spectral_norm: bool = Field(
        default=False, description="Bound the critic's layers by their spectral norm."
    )
    generator_spectral_norm: bool = Field(
        default=False, description="Bound the generator's layers too, as SAGAN does."
    )
    critic_steps: int = Field(
        default=1, ge=1, description="Steps of the critic for each of the generator."
    )
    label_in: Literal["code", "norm"] = Field(
        default="code",
        description="Where the label enters the generator: beside the noise, or in batch norm.",
    )
    categorical_codes: Sequence[int] = Field(
        default=(), description="InfoGAN's categorical codes: the number of values of each."
    )
    continuous_codes: int = Field(
        default=0, ge=0, description="InfoGAN's continuous codes, uniform in -1 to 1."
    )
    code_weight: float = Field(
        default=1.0, ge=0, description="Weight of the information on the categorical codes."
    )
    continuous_code_weight: float = Field(
        default=0.1,
        ge=0,
        description="Weight of that on the continuous codes, which has no upper bound and would "
        "spoil the images.",
    )
    augmentations: Sequence[Augmentation] = Field(
        default=(),
        description="Differentiable augmentation for small data: color, translation, cutout.",
    )
    generator: AdamConfig = Field(
        default=AdamConfig(beta1=0.5), description="Optimiser of the generator."
    )
    critic: AdamConfig = Field(
        default=AdamConfig(beta1=0.5), description="Optimiser of the critic."
    )

    @field_validator("categorical_codes", "augmentations")
    @classmethod
    def _frozen(cls, values: Sequence[object]) -> Sequence[object]:
        return tuple(values)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.loss == "wasserstein" and not self.gradient_penalty and not self.spectral_norm:
            raise ValueError(
                "loss wasserstein needs a bounded critic; set gradient_penalty to 10, "
                "or spectral_norm"
            )
        if any(num < 2 for num in self.categorical_codes):
            raise ValueError(
                f"categorical_codes are {self.categorical_codes}; a code has at least 2 values"
            )
        if self.network == "fully_connected" and self.label_in == "norm":
            raise ValueError("label_in norm needs a convolutional or residual network")
        return self


class Generator(nn.Module):
    """Codes (B, code_dim) and labels (B,) to images (B, C, H, W) in [-1, 1]."""

    def __init__(self, config: GanConfig, *, code_dim: int, shape: ImageShape) -> None:
        super().__init__()
        in_norm = config.label_in == "norm"
        self.code = LabelledCode(code_dim=code_dim, num_classes=0 if in_norm else shape.num_classes)
        self.upward = build_upward(
            config.network,
            code_dim=self.code.width,
            width=config.generator_width,
            shape=shape,
            num_classes=shape.num_classes if in_norm else 0,
        )
        if config.generator_spectral_norm:
            self.upward.apply(_bound)

    def forward(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        return torch.tanh(self.upward(self.code(codes, labels), labels))


class Critic(nn.Module):
    """Images (B, C, H, W) in [-1, 1] and labels (B,) to logits (B,) and predicted codes."""

    def __init__(self, config: GanConfig, *, num_predicted: int, shape: ImageShape) -> None:
        super().__init__()
        # Batch norm would let a row's gradient penalty depend on its neighbours.
        normalise = not (config.spectral_norm or config.gradient_penalty or config.r1)
        self.downward = build_downward(
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
            self.apply(_bound)
            if self.embed is not None:
                spectral_norm(self.embed)

    def forward(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        features = self.downward(images)
        logits: Tensor = self.score(features)[:, 0].float()
        if self.embed is not None:
            logits = logits + (self.embed(labels) * features).sum(dim=1).float()
        return logits, None if self.predict is None else self.predict(features).float()


def _predictor(width: int, num_predicted: int) -> nn.Sequential:
    """InfoGAN's Q over the critic's features, with a layer of its own."""
    return nn.Sequential(
        nn.Linear(width, PREDICTOR_WIDTH),
        nn.LeakyReLU(0.2),
        nn.Linear(PREDICTOR_WIDTH, num_predicted),
    )


def _bound(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        spectral_norm(module)


def separation(of_real: Tensor, of_fake: Tensor) -> Tensor:
    """Share of (real, fake) pairs that the critic ranks rightly: 0.5 by chance, 1 saturated.

    The area under its ROC curve; it means the same for every loss.
    """
    return (of_real[:, None] > of_fake[None, :]).float().mean()


class Gan(ImageModel):
    """The two players and their game."""

    config_type = GanConfig
    averaged_parts = frozenset({"generator"})
    judged_by = "samples/coverage"
    more_is_better = True
    # Bounds: docs/training.md tells the healthy and the collapsed runs they were read from.
    alarms = (
        Alarm("samples/class_spread", "the samples of a class are all alike", at_least=0.2),
        Alarm("samples/duplicates", "nearly all samples repeat one another", at_most=0.9),
        Alarm("samples/coverage", "the samples are like no real image", at_least=0.01),
        Alarm(
            "critic/separation",
            "the critic tells all images apart (if they are few, set model.augmentations)",
            at_most=0.9995,
            unless=("samples/coverage", 0.3),
        ),
    )
    config: GanConfig

    def __init__(self, config: GanConfig, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.codes = Codes(config.categorical_codes, config.continuous_codes)
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
            codes = self.codes.draw(noise)
            normal = noise.normal(self.config.latent_dim)
            latent = torch.cat([normal, self.codes.standardised(codes)], dim=1)
            is_last = index + 1 == self.config.critic_steps
            with torch.set_grad_enabled(is_last):  # only the last is the generator's own
                fake = self.generator(latent, labels)
            yield self._critic_loss(real, fake.detach(), codes, labels, noise)
        of_fake, predicted = self._judge(fake, labels, noise)
        value, metrics = self._generator_loss(of_fake), dict[str, Tensor]()
        if predicted is not None:
            value = value + self._code_loss(predicted, codes)
            surprise = torch.stack(self.codes.surprise(predicted, codes)).sum(dim=0).mean()
            metrics["codes/mutual_information"] = self.codes.entropy() - surprise
        yield Loss("generator", value, metrics)

    def _judge(
        self, images: Tensor, labels: Tensor | None, noise: Noise
    ) -> tuple[Tensor, Tensor | None]:
        logits: tuple[Tensor, Tensor | None] = self.critic(
            augment(images, self.config.augmentations, noise), labels
        )
        return logits

    def _critic_loss(
        self, real: Tensor, fake: Tensor, codes: Tensor, labels: Tensor | None, noise: Noise
    ) -> Loss:
        if self.config.r1:
            real = real.requires_grad_()
        of_real, _ = self._judge(real, labels, noise)
        of_fake, predicted = self._judge(fake, labels, noise)
        value = _critic_game(self.config.loss, of_real, of_fake)
        if self.config.r1:  # Mescheder, Geiger & Nowozin 2018, eq. 9
            value = value + 0.5 * self.config.r1 * _squared_slopes(of_real, real).mean()
        if self.config.gradient_penalty:  # Gulrajani et al. 2017, eq. 3
            share = noise.uniform(1, 1, 1)
            between = augment(share * real + (1 - share) * fake, self.config.augmentations, noise)
            between = between.detach().requires_grad_()  # as the critic is shown images
            slopes = (_squared_slopes(self.critic(between, labels)[0], between) + 1e-12).sqrt()
            value = value + self.config.gradient_penalty * (slopes - 1).square().mean()
        if predicted is not None:
            value = value + self._code_loss(predicted, codes)
        return Loss("critic", value, {"critic/separation": separation(of_real, of_fake)})

    def _code_loss(self, predicted: Tensor, codes: Tensor) -> Tensor:
        """What both players pay for codes that the critic cannot read: Chen et al., eq. 6."""
        categorical, continuous = self.codes.surprise(predicted, codes)
        weights = self.config.code_weight, self.config.continuous_code_weight
        return weights[0] * categorical.mean() + weights[1] * continuous.mean()

    def _generator_loss(self, of_fake: Tensor) -> Tensor:
        if self.config.loss == "non_saturating":
            return functional.softplus(-of_fake).mean()
        if self.config.loss == "least_squares":
            return 0.5 * (of_fake - 1).square().mean()
        return -of_fake.mean()

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

    def _latent(self, request: SampleRequest) -> Tensor:
        """Noise and codes of one sample; truncated noise folds the normal's tails inwards."""
        noise = torch.randn(self.config.latent_dim, generator=request.generator())
        bound = request.controls.get("truncation")
        if bound is not None:
            # The same quantile of the normal cut to ±bound (Brock et al. 2019, section 3.1,
            # which draws again instead): a seed's sample moves smoothly with the bound.
            low, high = torch.special.ndtr(torch.tensor([-bound, bound]))
            cut = torch.special.ndtri(low + torch.special.ndtr(noise) * (high - low))
            noise = cut.clamp(-bound, bound)
        return torch.cat([noise, self.codes.standardised(self.codes.of_request(request))])


def _critic_game(loss: str, of_real: Tensor, of_fake: Tensor) -> Tensor:
    """The critic's loss, before penalties.

    Goodfellow et al. 2014, eq. 1; Miyato et al. 2018, eq. 16; Mao et al. 2017, eq. 9;
    Arjovsky, Chintala & Bottou 2017, eq. 2.
    """
    if loss == "non_saturating":
        return functional.softplus(-of_real).mean() + functional.softplus(of_fake).mean()
    if loss == "hinge":
        return functional.relu(1 - of_real).mean() + functional.relu(1 + of_fake).mean()
    if loss == "least_squares":
        return 0.5 * ((of_real - 1).square().mean() + of_fake.square().mean())
    return of_fake.mean() - of_real.mean()


def _squared_slopes(logits: Tensor, images: Tensor) -> Tensor:
    """(B,) squared norms of the logits' gradients with respect to the images."""
    [slopes] = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return slopes.float().square().flatten(1).sum(dim=1)
