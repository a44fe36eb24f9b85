"""How a modality scores a trained model, compares it with another one and shows both.

The evaluate stage and the promotion load models and data, and ask `EvaluationHooks` for the rest.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import JsonValue

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, Score
from aigc_ops.interfaces.media import Findings, Media, Section

if TYPE_CHECKING:
    from aigc_ops.compute.devices import DeviceName, PrecisionName
    from aigc_ops.interfaces.ingestion import Split
    from aigc_ops.interfaces.model import Generative

COPIES = "copies_in_"
"""Beginning of the names of scores that are shares of copies of training data, in 0..1.

A version whose share is surely above `promotion.max_copies` is not promoted.
"""


class EvaluationSettings(Protocol):
    """Settings of the evaluation that all modalities share."""

    @property
    def num_reference(self) -> int:
        """Most rows of the data that stand for all of it."""

    @property
    def batch_size(self) -> int | None:
        """Rows in a batch; None: the modality chooses."""

    @property
    def device(self) -> "DeviceName": ...

    @property
    def precision(self) -> "PrecisionName": ...


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint's model on its device, in eval mode."""

    checkpoint: Checkpoint
    model: "Generative[Any]"
    content_digest: str
    """Names weights and config: a registered version has that of the run that trained it."""


@dataclass(frozen=True)
class EvaluationContext:
    """The data and the settings of an evaluation or a comparison."""

    ref: DatasetRef
    read: Callable[["Split"], Any]
    """Reads a split as training data of the modality."""
    open_other: Callable[..., tuple[DatasetRef, Callable[["Split"], Any]]]
    """Opens another dataset of this modality by its path, `data` settings as keywords."""
    data_settings: Mapping[str, JsonValue]
    """Settings of the data by the names of `DataConfig.stable_dump`."""
    settings: EvaluationSettings
    section: Any
    """The modality's own section of the evaluation; None for a modality without any."""
    seed: int
    cache: Path
    """Folder that keeps statistics of the data."""


@dataclass(frozen=True)
class Evaluation:
    """Every score of a model, and what people look at beside them."""

    primary: str
    """Name of the score that decides promotion; lower is better."""
    values: Mapping[str, Score]
    preview: Media
    """Samples, written as `samples` with the medium's suffix."""
    findings: Findings = field(default_factory=Findings)
    """Notes and sections of the report."""
    files: Mapping[str, Media] = field(default_factory=dict)
    """Further files by their names, such as `controls.json`."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further metrics for the run's curves, which are not scores."""


@dataclass(frozen=True)
class Paired:
    """The candidate's primary score less the champion's; below 0 the candidate is better."""

    metric: str
    candidate: float
    champion: float
    error: float
    """Standard error of the difference."""
    freedom: int
    """Degrees of freedom of that error."""
    num: int
    """Samples, or held-out rows, of each."""

    @property
    def difference(self) -> float:
        return self.candidate - self.champion

    def bounds(self, level: float) -> tuple[float, float]:
        """Return the difference's lower and upper bound, each sure at a level (Student's t)."""
        from scipy.special import stdtrit

        reach = float(stdtrit(self.freedom, level)) * self.error
        return self.difference - reach, self.difference + reach


class EvaluationHooks(abc.ABC):
    """What a modality measures of trained models."""

    version: ClassVar[int] = 1
    """Part of every score's contract and of what is cached.

    Raise it when a change of code changes a score, the features of data or what a family
    generates: then values of before are computed again instead of compared.
    """
    growing: ClassVar[str | None] = None
    """The section's field with the number of samples, which each interim analysis doubles.

    The contract of the primary score holds that number as `n`. None: a comparison uses all of the
    data, so it is made once.
    """
    num_timed: ClassVar[int] = 8
    """Samples that are drawn of each of two models to compare their times."""
    not_examined: ClassVar[str] = "copies of training data were not looked for"
    """What a review says of scores without a share of copies."""

    @abc.abstractmethod
    def evaluate(self, candidate: LoadedModel, context: EvaluationContext) -> Evaluation:
        """Return every score of a model, under the contract that each may be compared by.

        Raises EvaluationError when model and data do not fit, or no score can be computed.
        """

    @abc.abstractmethod
    def compare(
        self, candidate: LoadedModel, champion: LoadedModel, context: EvaluationContext
    ) -> Paired:
        """Return how far apart two models are on the primary score.

        Both are given the same seeds and requests, and the same reference.
        """

    @abc.abstractmethod
    def side_by_side(
        self, models: Sequence[tuple[str, LoadedModel]], context: EvaluationContext
    ) -> list[Section]:
        """Return samples of one or two named models from the same seeds, for a review packet.

        The first section is shown before the scores, the others after them.
        """
