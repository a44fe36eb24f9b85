"""Interface of a model family.

A family names its trainable parts, yields (part, loss) pairs for a batch, and samples from seeds.
The training loop, the evaluation, the registry and the service use nothing else of it.
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
    """Fields added after the family's first release.

    At their default they are left out of the run key, so that unfinished runs resume.
    """

    family: str


class Loss(NamedTuple):
    """The loss of one trainable part; families may also yield a plain (part, value) pair."""

    part: str
    """Name of the part to step."""
    value: Tensor
    """Scalar mean over the rows of the micro-batch."""
    metrics: Mapping[str, Tensor] = {}
    """Scalar means over the same rows, for curves; they get no gradient."""
    # Needed where rows have unequal numbers of terms, such as tokens that count for the loss:
    # only then is the result independent of how a batch is split into micro-batches.
    weight: Tensor | None = None
    """Weight of this micro-batch among its batch's, in 0..1; None: rows count equally."""


@dataclass(frozen=True)
class Alarm:
    """A bound on a monitoring metric; training that stays out of bounds has failed."""

    metric: str
    message: str
    """Explanation for a person of what has gone wrong."""
    at_least: float = -math.inf
    at_most: float = math.inf
    suppressed_when: tuple[str, float] | None = None
    """Another metric and the value from which on it suppresses this alarm."""
    beside: tuple[str, ...] = ()
    """Further metrics that the message shows."""
    is_warning: bool = False
    """True: training goes on, and a person is warned once."""

    def is_triggered(self, figures: Mapping[str, float]) -> bool:
        """Return True if the metric is present and out of bounds; NaN is out of bounds."""
        if self.metric not in figures:
            return False
        if self.suppressed_when:
            other, least = self.suppressed_when
            if figures.get(other, -math.inf) >= least:
                return False
        # Not `value < at_least or value > at_most`: comparisons with NaN are false.
        return not self.at_least <= figures[self.metric] <= self.at_most


class Generative(nn.Module, abc.ABC, Generic[SamplesT]):
    """A trainable generative model; aigc_ops/models/vae.py is a short, complete example."""

    # Samples
    modality: ClassVar[str]
    """Name of the modality of the samples."""
    can_stream: ClassVar[bool] = False
    """True if samples are texts that can be sent in pieces."""
    # Training. `channels_last` suits convolutions: cuDNN's fp16 kernels need no transposes then.
    memory_format: ClassVar[torch.memory_format] = torch.contiguous_format
    """Memory format of 4-dimensional weights and batches."""
    config_type: ClassVar[type[FamilyConfig]]
    averaged_parts: ClassVar[frozenset[str]] = frozenset()
    """Parts that are sampled with their EMA weights, when the run keeps an EMA."""
    judged_by: ClassVar[str] = "heldout/loss"
    """Metric that selects the best checkpoint and decides early stopping."""
    higher_is_better: ClassVar[bool] = False
    """True if higher values of `judged_by` are better."""
    # Repeated alarms roll a run back or end it: choose bounds that every healthy run keeps.
    alarms: ClassVar[tuple[Alarm, ...]] = ()
    """Alarms of the watchdog."""

    config: Any

    @classmethod
    @abc.abstractmethod
    def from_data(cls, config: Any, data: Any) -> Self:
        """Return an untrained model that fits the training data's shape or vocabulary."""

    @classmethod
    @abc.abstractmethod
    def from_blueprint(cls, config: Any, blueprint: Mapping[str, JsonValue]) -> Self:
        """Return a model built from `blueprint()`'s result, with weights not yet loaded."""

    # The blueprint is JSON and the weights are safetensors, so loading a model executes nothing
    # that its folder contains, as unpickling would.
    @abc.abstractmethod
    def blueprint(self) -> dict[str, JsonValue]:
        """Return everything besides config and weights that rebuilds the model, as JSON."""

    @abc.abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Return the trainable parts by name, in the order in which they are stepped."""

    def prepare_finetuning(self, data: Any) -> None:
        """Prepare a loaded model for further training on this data.

        Raises ModelError when the config also names another model to start from.
        """

    @abc.abstractmethod
    def optimizer(self, part: str) -> torch.optim.Optimizer:
        """Return a new optimiser over one part's parameters."""

    @abc.abstractmethod
    def examples(self, data: Any) -> dict[str, Tensor]:
        """Return training examples: tensors of equal length N, which the loop indexes."""

    def example_terms(self) -> dict[str, JsonValue] | None:
        """Return all settings that affect `examples`, the key under which they are cached.

        None when computing examples is as quick as reading them from the cache.
        """
        return None

    def write_examples(self, data: Any, folder: Path) -> None:
        """Write `examples` into an empty folder, one NumPy file per name."""
        # A family with long examples should override this and write them as it computes them:
        # the files are memory-mapped later, so they may be larger than the memory.
        for name, rows in self.examples(data).items():
            np.save(folder / f"{name}.npy", rows.numpy())

    @abc.abstractmethod
    def losses(self, batch: dict[str, Tensor], noise: Noise) -> Iterator[Loss]:
        """Yield each part's loss; the loop steps that part before it requests the next loss.

        Take all random numbers from `noise`, so that a resumed run gets the same ones. Values
        that depend on the step must come from `noise.ramp`: on a GPU the kernels are captured
        in a CUDA graph and replayed, and Python code does not run again.
        """

    @abc.abstractmethod
    def sample(self, requests: Sequence[SampleRequest]) -> SamplesT:
        """Return one sample per request, in order; the list may be empty."""

    @abc.abstractmethod
    def check(self, request: SampleRequest) -> None:
        """Raise ModelError when this model cannot serve the request."""

    def stream(self, request: SampleRequest) -> Generator[str, None, None]:  # noqa: ARG002
        """Yield the pieces of a text as they are generated; close the generator to cancel.

        Raises ModelError for a model whose samples do not come in pieces.
        """
        raise ModelError("this model cannot stream its samples; leave stream out")

    def controls(self) -> Mapping[str, Control]:
        """Return the controls of a sample by name, besides label and prompt."""
        return {}

    def for_registry(self) -> "Generative[SamplesT]":
        """Return the model to register and serve, without parts that only training needs."""
        return self

    def export(self, folder: Path) -> None:  # noqa: ARG002
        """Write the model into an empty folder in a common exchange format, such as GGUF.

        Raises ModelError for a family without one.
        """
        raise ModelError(
            f"{self.config.family} models have no exchange format; the model's own folder holds "
            "safetensors and JSON"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels 0..K-1; empty for a model without labels."""
        return ()

    @property
    def num_classes(self) -> int:
        """Number of labels; 0 for a model without labels."""
        return len(self.class_names)

    def example_units(self, batch: dict[str, Tensor]) -> int | Tensor:
        """Return the number of images or tokens in a batch, for the throughput."""
        # A family that counts on the GPU returns a scalar tensor, so that the loop need not
        # wait for the device at every step.
        return len(next(iter(batch.values())))
