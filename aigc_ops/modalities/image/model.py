"""Image data, and the contract that every image family keeps."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import JsonValue
from torch import Tensor

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import SampleRequest, check_controls, check_label


class Images(TrainingData):
    """Images of one shape and, where they have them, their classes."""

    shape: ImageShape
    is_resident = False

    @abc.abstractmethod
    def take(self, indices: Tensor) -> "ImageData":
        """The images at (N,) int64 indices, in their order."""


@dataclass(frozen=True)
class ImageData(Images):
    """Images resident in memory, in the dataset's own shape and range."""

    images: Tensor
    """(N, C, H, W) uint8."""
    labels: Tensor | None
    """(N,) int64 in 0..K-1, or None."""
    shape: ImageShape
    is_resident = True

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> "ImageData":
        labels = None if self.labels is None else self.labels[indices]
        return ImageData(self.images[indices], labels, self.shape)


class ImageModel(Generative[Tensor]):
    """A family whose samples are images in the dataset's own size and range."""

    modality: ClassVar[str] = "image"
    memory_format: ClassVar[torch.memory_format] = torch.channels_last
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

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.shape.class_names

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
            f"resize them with --data.image.size {nearest}"
        )
    return doublings
