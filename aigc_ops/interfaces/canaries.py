"""Interface of canaries: random samples in the training data, whose leakage is measured.

After training, an audit guesses which canaries were trained on (`statistics/privacy.py`).
"""

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from aigc_ops.core.artifacts import Record, json_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from aigc_ops.compute.random import Noise
    from aigc_ops.interfaces.data import TrainingData
    from aigc_ops.interfaces.evaluation import EvaluationContext, LoadedModel

CANARIES = "canaries"
"""Key of the record in a checkpoint's provenance."""


class Canaries(Record):
    """The canaries of a training run; checkpoints of other runs have no such record."""

    num: int
    seed: int
    canaries_digest: str
    """SHA-256 over the canaries and which of them were trained on."""


def canaries_of(provenance: Mapping[str, Any]) -> Canaries | None:
    """Return the canaries that a model was trained with; None if it was trained without."""
    record = provenance.get(CANARIES)
    return Canaries.model_validate(record) if record else None


def digest_with(content_digest: str, canaries: Canaries | None) -> str:
    """Return the content digest of a dataset with these canaries, or without any."""
    if canaries is None:
        return content_digest
    return json_digest([content_digest, canaries.model_dump(mode="json")])


@dataclass(frozen=True)
class CanaryScores:
    """Scores of canaries under a model."""

    values: "NDArray[np.float64]"
    """(N,), higher for canaries that the model seems to have been trained on."""
    method: str
    """What is scored, for people and for evaluation conditions."""


@runtime_checkable
class MembershipModel(Protocol):
    """Optional interface of a family that can score how familiar given examples are."""

    membership_score: ClassVar[str]
    """What is scored, for people and for evaluation conditions."""

    def membership_scores(self, batch: "dict[str, Tensor]", noise: "Noise") -> "Tensor":
        """Return (B,) scores, higher for examples that the model was trained on."""


class CanaryHooks(abc.ABC):
    """Interface of a modality for canaries."""

    @abc.abstractmethod
    def make(self, train: "TrainingData", num: int, *, seed: int) -> "TrainingData":
        """Return random samples of the form of the training data; equal arguments, equal samples.

        They have labels or prompts where the data has them.
        """

    @abc.abstractmethod
    def digest(self, canaries: "TrainingData") -> str:
        """Return the SHA-256 (hex) of all content of the canaries."""

    @abc.abstractmethod
    def join(self, train: "TrainingData", canaries: "TrainingData") -> "TrainingData":
        """Return the training data followed by the canaries."""

    @abc.abstractmethod
    def score(
        self, candidate: "LoadedModel", canaries: "TrainingData", context: "EvaluationContext"
    ) -> CanaryScores:
        """Return the scores of canaries; nothing may depend on which were trained on."""
