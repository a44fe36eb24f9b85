"""Image data, and the interface that every image family implements."""

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
from aigc_ops.interfaces.conditions import check_label
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import SampleRequest, check_controls


class Images(TrainingData):
    """Images of one shape, with their classes if the data has any."""

    shape: ImageShape
    is_resident = False

    @abc.abstractmethod
    def take(self, indices: Tensor) -> "ImageData":
        """Return the images at (N,) int64 indices, in their order."""


@dataclass(frozen=True)
class ImageData(Images):
    """Images in memory, in the dataset's own shape and range."""

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
    # Convolutions are faster with channels last, on the CPU (oneDNN) and on GPUs (tensor cores).
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
        """Return (N, C, H, W) uint8 on the CPU, one image per request; N may be 0."""

    def check(self, request: SampleRequest) -> None:
        check_label(request, self.shape.num_classes)
        check_controls(request, self.controls())

    def no_images(self) -> Tensor:
        """Return (0, C, H, W) uint8, the result for no requests."""
        return torch.empty(
            (0, self.shape.channels, self.shape.height, self.shape.width), dtype=torch.uint8
        )

    def labels(self, requests: Sequence[SampleRequest], device: torch.device) -> Tensor | None:
        """Return the (N,) int64 labels of the requests; None for a model without classes."""
        if not self.shape.num_classes:
            return None
        return torch.tensor([request.conditions["label"] for request in requests], device=device)


class ImageFigures(NamedTuple):
    """Values of given images under a model, such as log-likelihood bounds."""

    values: Mapping[str, Tensor]
    """One value per image and name, (B,) each."""
    terms: Mapping[str, JsonValue]
    """Settings besides the images; values are comparable only when these terms are equal."""


class ImageLikelihoodModel(ImageModel):
    """A family that also estimates the likelihood of given images."""

    @abc.abstractmethod
    def figures(self, batch: dict[str, Tensor], noise: Noise, *, num_draws: int) -> ImageFigures:
        """Return values of a batch; estimates are averages over `num_draws` random draws."""

    def pictures(self, batch: dict[str, Tensor], noise: Noise) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return pictures such as reconstructions, by name; (rows, columns, C, H, W) uint8 each."""
        return {}


def to_unit_range(images: Tensor) -> Tensor:
    """Convert uint8 images in 0..255 to float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Convert float images in [-1, 1] to uint8 in 0..255 on the CPU, rounded."""
    # Round before the conversion, which would truncate, and clamp, since it would wrap around.
    levels = images.float().add(1.0).mul(127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).cpu()


def num_upsampling_stages(shape: ImageShape) -> int:
    """Return the number of 2x upsampling stages from a base of 4 to 7 pixels; at least 1.

    Raises ModelError for images that are not square or of another size.
    """
    base, num_stages = shape.height, 0
    while base > 7 and base % 2 == 0:
        base, num_stages = base // 2, num_stages + 1
    if shape.height != shape.width or not 4 <= base <= 7 or num_stages == 0:
        # Suggest the supported side that is nearest to the image's shorter side.
        nearest = min(
            (b << d for b in range(4, 8) for d in range(1, 9)),
            key=lambda size: abs(size - min(shape.height, shape.width)),
        )
        raise ModelError(
            f"images of {shape.height} x {shape.width} pixels do not fit a convolutional "
            f"model; expected squares of 4 to 7 pixels times a power of two; "
            f"resize them with --data.image.size {nearest}"
        )
    return num_stages
