"""The contract every model family keeps, and the data it meets.

A family names its trainable parts, yields (part, loss) pairs for a batch, and samples
from seeds. The loop, the judges, the registry and the service know nothing else of it.
"""

import abc
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from torch import Tensor, nn

from aigc_ops.artifacts import ImageShape, Modality
from aigc_ops.errors import ModelError
from aigc_ops.noise import Noise
from aigc_ops.sample_request import (
    Control,
    Message,
    SampleRequest,
    check_controls,
    check_label,
)


class FamilyConfig(BaseModel):
    """A family's own settings; a subclass adds the literal `family` tag."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    family: str


class AdamConfig(BaseModel):
    """One part's Adam optimiser (Kingma & Ba 2015)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learning_rate: float = Field(default=2e-4, gt=0, description="Step size.")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="Decay of the first moment.")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Decay of the second moment.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decoupled weight decay.")

    def optimizer(
        self, parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]]
    ) -> torch.optim.Optimizer:
        """A fused AdamW over parameters or groups of them (Loshchilov & Hutter 2019).

        At a decay of 0 it is Adam.
        """
        return torch.optim.AdamW(
            parameters,
            lr=self.learning_rate,
            betas=(self.beta1, self.beta2),
            weight_decay=self.weight_decay,
            fused=True,
        )


class Images(abc.ABC):
    """Images of one shape and, where they have them, their classes."""

    shape: ImageShape
    groups: "Groups | None" = None
    """Which images are read together, where that matters."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def take(self, indices: Tensor) -> "ImageData":
        """The images at (N,) int64 indices, in their order."""


@dataclass(frozen=True)
class Groups:
    """Neighbouring images that are read at once, since reading one alone costs as much."""

    sizes: Sequence[int]
    """Images in each group, in their order."""
    at_once: int
    """Groups that memory holds."""


@dataclass(frozen=True)
class ImageData(Images):
    """Images resident in memory, in the dataset's own shape and range."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor | None
    """(N,) int64 in 0..K-1, or None."""
    shape: ImageShape

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> "ImageData":
        labels = None if self.labels is None else self.labels[indices]
        return ImageData(self.images[indices], labels, self.shape)


@dataclass(frozen=True)
class TextData:
    """Documents, or answers with the prompts they answer."""

    texts: Sequence[str]
    prompts: Sequence[str] | None = None
    """As many as texts, or None for plain documents."""
    histories: Sequence[Sequence[Message]] | None = None
    """The conversation before each prompt, oldest turn first; None: there is none."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_characters(self) -> int:
        """Characters of all that it holds."""
        return sum(map(len, self.parts()))

    def parts(self) -> Iterator[str]:
        """Every text, prompt and earlier turn, and what tells one from another, in order."""
        yield from self.texts
        if self.prompts is not None:
            yield "prompts"
            yield from self.prompts
        for place, history in enumerate(self.histories or ()):
            for message in history:
                yield f"{place} {message.role}"
                yield message.text

    def take(self, indices: Iterable[int]) -> "TextData":
        """The texts at these indices, in their order."""
        rows = list(indices)
        prompts = self.prompts and [self.prompts[row] for row in rows]
        histories = self.histories and [self.histories[row] for row in rows]
        return TextData([self.texts[row] for row in rows], prompts, histories)


Data = Images | TextData


class Loss(NamedTuple):
    """What a family yields; a plain (part, value) pair does as well."""

    part: str
    """The part to step."""
    value: Tensor
    """Scalar mean over the rows at hand."""
    metrics: Mapping[str, Tensor] = {}
    """Scalars worth a curve, means over the rows too; they cost no gradient."""
    weight: Tensor | None = None
    """What the rows count for beside a batch's other rows, in 0..1; None: each as much."""


@dataclass(frozen=True)
class Alarm:
    """A bound on a metric; training that stays beyond it has failed."""

    metric: str
    means: str
    """What has happened then, in words for a person."""
    at_least: float = -math.inf
    at_most: float = math.inf
    unless: tuple[str, float] | None = None
    """Another metric, and its least value at which this one means no harm."""

    def rings(self, figures: Mapping[str, float]) -> bool:
        """Whether the metric is there and beyond its bound; what is not a number is."""
        if self.metric not in figures:
            return False
        if self.unless and figures.get(self.unless[0], -math.inf) >= self.unless[1]:
            return False
        return not self.at_least <= figures[self.metric] <= self.at_most


class Generative(nn.Module, abc.ABC):
    """A trainable generative model; aigc_ops/models/vae.py is a short, whole one."""

    modality: ClassVar[Modality]
    config_type: ClassVar[type[FamilyConfig]]
    averaged_parts: ClassVar[frozenset[str]] = frozenset()
    """Parts whose exponential moving average is what samples (when the run keeps one)."""
    judged_by: ClassVar[str] = "heldout/loss"
    """The metric that picks the best checkpoint and stops early."""
    more_is_better: ClassVar[bool] = False
    """Whether a higher value of `judged_by` is the better one."""
    alarms: ClassVar[tuple[Alarm, ...]] = ()
    """What the watchdog looks for, with bounds that healthy runs keep."""

    config: Any

    @classmethod
    @abc.abstractmethod
    def from_data(cls, config: Any, data: Any) -> Self:
        """An untrained model that fits the training data's shape or vocabulary."""

    @classmethod
    @abc.abstractmethod
    def from_blueprint(cls, config: Any, blueprint: Mapping[str, JsonValue]) -> Self:
        """A model shaped as `blueprint()` says, its weights still to be loaded."""

    @abc.abstractmethod
    def blueprint(self) -> dict[str, JsonValue]:
        """What beside config and weights is needed to build this model again."""

    @abc.abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Trainable parts by name, in the order in which they are stepped."""

    def go_on(self, data: Any) -> None:
        """Be ready to be trained on such data, as a stored model that a training starts from.

        Raises ModelError when the config names something else to start from.
        """

    @abc.abstractmethod
    def optimizer(self, part: str) -> torch.optim.Optimizer:
        """A new optimiser over one part's parameters."""

    @abc.abstractmethod
    def examples(self, data: Any) -> dict[str, Tensor]:
        """Training examples: tensors of equal length N, indexed by the loop into batches."""

    @abc.abstractmethod
    def losses(self, batch: dict[str, Tensor], noise: Noise) -> Iterator[Loss]:
        """Yield each part's loss; the loop steps that part before asking for the next.

        Draw all random numbers from `noise`, so that a resumed run meets the same ones. On a
        GPU what is computed is recorded once and replayed: what changes with the step comes
        from `noise.ramp`, and nothing else in Python may.
        """

    @abc.abstractmethod
    def check(self, request: SampleRequest) -> None:
        """Raise ModelError when this model cannot serve the request."""

    def controls(self) -> Mapping[str, Control]:
        """What samples can be asked for beside label or prompt, by name."""
        return {}

    def released(self) -> "Generative":
        """The model as it is registered and served: without what only training needs."""
        return self

    def export(self, folder: Path) -> None:  # noqa: ARG002
        """Write the model into an empty folder in its field's exchange format.

        Raises ModelError when there is none.
        """
        raise ModelError(
            f"{self.config.family} models have no exchange format; the model's own folder holds "
            "safetensors and JSON"
        )

    def example_units(self, batch: dict[str, Tensor]) -> int | Tensor:
        """Images or tokens in a batch, for the rate; a tensor () where counting takes the GPU."""
        return len(next(iter(batch.values())))


class ImageModel(Generative):
    """A family whose samples are images in the dataset's own size and range."""

    modality: ClassVar[Modality] = "image"
    shape: ImageShape

    def blueprint(self) -> dict[str, JsonValue]:
        return {"shape": self.shape.model_dump(mode="json")}

    @classmethod
    def from_blueprint(cls, config: Any, blueprint: Mapping[str, JsonValue]) -> Self:
        return cls(config, ImageShape.model_validate(blueprint["shape"]))

    @classmethod
    def from_data(cls, config: Any, data: Images) -> Self:
        return cls(config, data.shape)

    def __init__(self, config: Any, shape: ImageShape) -> None:
        super().__init__()
        self.config = config
        self.shape = shape

    def examples(self, data: ImageData) -> dict[str, Tensor]:
        examples = {"images": data.images}
        if data.labels is not None:
            examples["labels"] = data.labels
        return examples

    @abc.abstractmethod
    def sample(self, requests: Sequence[SampleRequest]) -> Tensor:
        """(N, C, H, W) uint8 on the CPU, one image per request; N may be 0."""

    def check(self, request: SampleRequest) -> None:
        check_label(request, self.shape.num_classes)
        check_controls(request, self.controls())

    def no_images(self) -> Tensor:
        """(0, C, H, W) uint8: the answer to no requests."""
        return torch.empty(
            (0, self.shape.channels, self.shape.height, self.shape.width), dtype=torch.uint8
        )

    def labels(self, requests: Sequence[SampleRequest], device: torch.device) -> Tensor | None:
        """(N,) int64 labels of the requests; None for a model without classes."""
        if not self.shape.num_classes:
            return None
        return torch.tensor([request.label for request in requests], device=device)


class ImageFigures(NamedTuple):
    """What a family tells of given images."""

    values: Mapping[str, Tensor]
    """(B,) each: a figure of every image."""
    terms: Mapping[str, JsonValue]
    """What the figures depend on beside the images; they compare under equal terms alone."""


class ImageLikelihoodModel(ImageModel):
    """A family that, beside drawing, tells how likely given images are."""

    @abc.abstractmethod
    def figures(self, batch: dict[str, Tensor], noise: Noise, *, num_draws: int) -> ImageFigures:
        """Figures of a batch of examples, averaged over `num_draws` draws where they vary."""

    def pictures(self, batch: dict[str, Tensor], noise: Noise) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Pictures of what is made of examples, (rows, columns, C, H, W) uint8 each, by name."""
        return {}


class TextModel(Generative):
    """A family whose samples are texts."""

    modality: ClassVar[Modality] = "text"

    @abc.abstractmethod
    def sample(self, requests: Sequence[SampleRequest]) -> list[str]:
        """One continuation (or answer) per request, without its prompt; may be empty."""

    @abc.abstractmethod
    def examples(self, data: TextData, folder: Path | None = None) -> dict[str, Tensor]:
        """Training examples; with an empty folder they are written there as they are made.

        A NumPy file of each kind then, so that those of much text never fill the memory.
        """

    @abc.abstractmethod
    def example_terms(self) -> dict[str, JsonValue]:
        """All that decides `examples` beside the data: equal terms give equal examples."""

    @abc.abstractmethod
    def tokenizer_terms(self) -> dict[str, JsonValue]:
        """What the tokens are that figures a token count; those compare under equal terms alone."""

    def origin(self, data: TextData) -> "TextModel | None":  # noqa: ARG002
        """The model as it was before this training, for such data; None for one begun anew."""
        return None

    @abc.abstractmethod
    def stream(self, request: SampleRequest) -> Generator[str, None, None]:
        """The pieces of `sample`'s text as they come, whole characters; close it to cancel."""

    @abc.abstractmethod
    def log_likelihood(self, data: TextData) -> tuple[Tensor, Tensor]:
        """Log likelihood of each text given its prompt, (N,) float64 nats, and (N,) tokens.

        Every token of the text counts once, its end mark included.
        """


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 images in 0..255 as float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [-1, 1] as uint8 in 0..255 on the CPU, rounded to the nearest level."""
    levels = images.float().add(1.0).mul(127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).cpu()


def num_doublings(shape: ImageShape) -> int:
    """Times a base of 4 to 7 pixels doubles to the image's size; at least 1.

    Raises ModelError for images that are not square or of another size.
    """
    base, doublings = shape.height, 0
    while base > 7 and base % 2 == 0:
        base, doublings = base // 2, doublings + 1
    if shape.height != shape.width or not 4 <= base <= 7 or doublings == 0:
        nearest = min(
            (b << d for b in range(4, 8) for d in range(1, 9)),
            key=lambda size: abs(size - min(shape.height, shape.width)),
        )
        raise ModelError(
            f"images of {shape.height} x {shape.width} pixels do not fit a convolutional "
            f"model, which wants squares of 4 to 7 pixels times a power of two; "
            f"resize them with --data.image-size {nearest}"
        )
    return doublings
