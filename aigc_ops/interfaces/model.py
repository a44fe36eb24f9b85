"""The contract every model family keeps.

A family names its trainable parts, yields (part, loss) pairs for a batch, and samples
from seeds. The loop, the evaluation, the registry and the service know nothing else of it.
"""

import abc
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, JsonValue
from torch import Tensor, nn

from aigc_ops.compute.random import Noise
from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import Control, SampleRequest

SamplesT = TypeVar("SamplesT")


class FamilyConfig(BaseModel):
    """A family's own settings; a subclass adds the literal `family` tag."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    added_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after the family's first release.

    At their default they are left out of the run key, so that unfinished runs go on.
    """

    family: str


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


class Generative(nn.Module, abc.ABC, Generic[SamplesT]):
    """A trainable generative model; aigc_ops/models/vae.py is a short, whole one."""

    modality: ClassVar[str]
    """Name of the modality of its samples."""
    can_stream: ClassVar[bool] = False
    """Whether samples are texts that can be sent piece by piece."""
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """Layout of weights and of batches with four dimensions."""
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

    def example_terms(self) -> dict[str, JsonValue] | None:
        """Return all that decides `examples` beside the data: equal terms give equal examples.

        None when making them again is as quick as reading them.
        """
        return None

    def write_examples(self, data: Any, folder: Path) -> None:
        """Write `examples` into an empty folder, a NumPy file of each name."""
        for name, rows in self.examples(data).items():
            np.save(folder / f"{name}.npy", rows.numpy())

    @abc.abstractmethod
    def losses(self, batch: dict[str, Tensor], noise: Noise) -> Iterator[Loss]:
        """Yield each part's loss; the loop steps that part before asking for the next.

        Draw all random numbers from `noise`, so that a resumed run meets the same ones. On a
        GPU what is computed is recorded once and replayed: what changes with the step comes
        from `noise.ramp`, and nothing else in Python may.
        """

    @abc.abstractmethod
    def sample(self, requests: Sequence[SampleRequest]) -> SamplesT:
        """Return one sample per request, in order; there may be no request."""

    @abc.abstractmethod
    def check(self, request: SampleRequest) -> None:
        """Raise ModelError when this model cannot serve the request."""

    def stream(self, request: SampleRequest) -> Generator[str, None, None]:  # noqa: ARG002
        """Yield the pieces of a text as they are generated; close it to cancel.

        Raises ModelError for a model whose samples do not come in pieces.
        """
        raise ModelError("samples of this model do not come piece by piece; leave stream out")

    def controls(self) -> Mapping[str, Control]:
        """What samples can be asked for beside label or prompt, by name."""
        return {}

    def released(self) -> "Generative[SamplesT]":
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

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each label 0..K-1 that samples are conditioned on; empty: there are no labels."""
        return ()

    @property
    def num_classes(self) -> int:
        """Number of labels; 0 for a model without."""
        return len(self.class_names)

    def example_units(self, batch: dict[str, Tensor]) -> int | Tensor:
        """Images or tokens in a batch, for the rate; a tensor () where counting takes the GPU."""
        return len(next(iter(batch.values())))
