"""Interface of evaluation: scoring a model, comparing two models, showing their samples.

The evaluate and promote stages load models and data; `EvaluationHooks` does the rest.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import JsonValue

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, Score, Scores
from aigc_ops.interfaces.media import Findings, Media, Section

if TYPE_CHECKING:
    from aigc_ops.compute.devices import DeviceName, PrecisionName
    from aigc_ops.interfaces.ingestion import Split
    from aigc_ops.interfaces.model import Generative

COPIES = "copies_in_"
"""Prefix of score names: the share of samples that copy training data, in 0..1.

A version is not promoted if the lower confidence bound exceeds `promotion.max_copies`.
"""
BASELINE = "baseline_"
"""Prefix of the primary score's name: that score of the modality's trivial baseline.

A first version that is no better is not promoted by itself.
"""
COPY_POWER = "copy_power"
"""Score name: the share of planted altered copies of training data that the check finds.

Below `promotion.min_copy_power`, copies count as not examined.
"""


class EvaluationSettings(Protocol):
    """Evaluation settings shared by all modalities."""

    # A protocol, because the evaluate stage's config is in a layer above this one.

    @property
    def num_reference(self) -> int:
        """Maximum number of reference rows."""

    @property
    def batch_size(self) -> int | None:
        """Rows per batch; None: the modality chooses."""

    @property
    def device(self) -> "DeviceName": ...

    @property
    def precision(self) -> "PrecisionName": ...


@dataclass(frozen=True)
class LoadedModel:
    """A loaded checkpoint: the model on its device, in eval mode."""

    checkpoint: Checkpoint
    model: "Generative[Any]"
    content_digest: str
    """Digest of weights and config; a registered version has the digest of its training run."""
    name: str = ""
    """Name in progress bars, such as `version 3`; empty: none."""


@dataclass(frozen=True)
class EvaluationContext:
    """Data and settings of an evaluation or a comparison."""

    ref: DatasetRef
    # Data. A split is decoded at the first `read` of it: not every score needs both splits.
    read: Callable[["Split"], Any]
    """Function that returns a split as the modality's training data."""
    open_other: Callable[..., tuple[DatasetRef, Callable[["Split"], Any]]]
    """Function that opens another dataset of this modality: its path, `data` fields as keywords."""
    data_settings: Mapping[str, JsonValue]
    """Data settings by the names of `DataConfig.stable_dump`, for digests."""
    # Settings
    settings: EvaluationSettings
    section: Any
    """The modality's own evaluation section; None if it has none."""
    seed: int
    cache: Path
    """Folder for cached statistics of the data."""


@dataclass(frozen=True)
class Evaluation:
    """All scores of a model, with samples, notes and further files."""

    primary: str
    """Name of the score that decides promotion; lower is better."""
    values: Mapping[str, Score]
    preview: Media
    """Samples; the file is named `samples` plus the medium's suffix."""
    findings: Findings = field(default_factory=Findings)
    """Notes and sections for the report."""
    files: Mapping[str, Media] = field(default_factory=dict)
    """Further files by name, such as `controls.json`."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further metrics for the run's curves. They are not scores: no gate or guard reads them."""


@dataclass(frozen=True)
class Paired:
    """Paired comparison: candidate's minus champion's primary score; negative is better."""

    metric: str
    candidate: float
    champion: float
    error: float
    """Standard error of the difference."""
    freedom: int
    """Degrees of freedom of the standard error."""
    num: int
    """Number of samples, or of held-out rows, per model."""

    @property
    def difference(self) -> float:
        return self.candidate - self.champion

    def bounds(self, level: float) -> tuple[float, float]:
        """Return the lower and upper confidence bound of the difference (Student's t).

        Each bound is one-sided at `level`, so both together cover 2 * level - 1.
        """
        from scipy.special import stdtrit

        # stdtrit is the quantile alone; importing scipy.stats for t.ppf takes much longer.
        reach = float(stdtrit(self.freedom, level)) * self.error
        return self.difference - reach, self.difference + reach


class EvaluationHooks(abc.ABC):
    """Interface of a modality for evaluating and comparing trained models."""

    # Increase `version` when a code change alters a score, the features of data or the samples
    # of a family. Cached statistics and earlier scores are then recomputed, not compared.
    version: ClassVar[int] = 1
    """Evaluation version: part of every score's evaluation conditions and of cache keys."""
    # The promote stage starts with the `n` of the primary score's evaluation conditions, and
    # doubles it until its sequential test decides.
    growing: ClassVar[str | None] = None
    """Name of the section's field with the number of samples; each interim analysis doubles it.

    None: a comparison uses all data, so there is a single analysis.
    """
    num_timed: ClassVar[int] = 8
    """Number of samples generated from each model to compare sampling times."""
    not_examined: ClassVar[str] = "this modality does not look for copies of training data"
    """Reason and cure when there is no score for copies of training data."""
    copy_controls: ClassVar[Mapping[str, str]] = {}
    """Name of a score that copying raises -> name of the same score of held-out data.

    A version whose score is significantly above that of held-out data is held back.
    """

    def collapse_reason(self, scores: Scores) -> str | None:  # noqa: ARG002 - an optional hook
        """Return why the scores are those of a collapsed model; None if they are not."""
        return None

    def require(  # noqa: B027 - a modality may need nothing
        self, ref: DatasetRef, section: Any, settings: EvaluationSettings
    ) -> None:
        """Raise EvaluationError for rows, weights or packages that an evaluation will lack.

        A run calls it before training. `section` is the modality's own evaluation section.
        """

    @abc.abstractmethod
    def evaluate(self, candidate: LoadedModel, context: EvaluationContext) -> Evaluation:
        """Return all scores of a model, each with its evaluation conditions.

        Two scores are comparable only if their evaluation conditions are equal. Raises
        EvaluationError when model and data do not fit, or no score can be computed.
        """

    @abc.abstractmethod
    def compare(
        self, candidate: LoadedModel, champion: LoadedModel, context: EvaluationContext
    ) -> Paired:
        """Return the paired difference of two models on the primary score.

        Both models get the same seeds and requests, and are compared with the same reference.
        """

    @abc.abstractmethod
    def side_by_side(
        self, models: Sequence[tuple[str, LoadedModel]], context: EvaluationContext
    ) -> list[Section]:
        """Return samples of one or two named models from the same seeds, for a review packet.

        The packet shows the first section before the scores and the others after them.
        """
