"""Canaries of texts: random characters of the training texts, scored by their likelihood."""

import hashlib
from collections.abc import Sequence
from statistics import median
from typing import Generic, TypeVar, overload

import numpy as np

from aigc_ops.core.errors import EvaluationError
from aigc_ops.interfaces.canaries import CanaryHooks, CanaryScores
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.evaluation import EvaluationContext, LoadedModel
from aigc_ops.modalities.text.metrics.kept_texts import negative_log_likelihood
from aigc_ops.modalities.text.model import TextData, TextModel

MAX_READ = 10_000  # texts from which the characters and the usual length are taken
MIN_CHARACTERS, MAX_CHARACTERS = 16, 256
"""Length of a canary: shorter ones may be equal by chance, longer ones teach nothing more."""

Item = TypeVar("Item")


class TextCanaries(CanaryHooks):
    """Canaries of texts; where texts answer prompts, each canary has a random prompt."""

    def make(self, train: TrainingData, num: int, *, seed: int) -> TextData:
        """Return texts of the usual length, of characters drawn uniformly from the data's own."""
        assert isinstance(train, TextData), type(train)
        rows = range(0, len(train), -(-len(train) // MAX_READ))
        part = train.take(rows)
        alphabet = _alphabet(part.texts)
        generator = np.random.default_rng(seed)
        texts = _random_texts(alphabet, part.texts, num, generator)
        prompts = part.prompts and _random_texts(alphabet, part.prompts, num, generator)
        return TextData(texts, prompts, [()] * num if train.histories is not None else None)

    def digest(self, canaries: TrainingData) -> str:
        assert isinstance(canaries, TextData), type(canaries)
        digest = hashlib.sha256()
        for part in canaries.parts():
            digest.update(part.encode() + b"\0")
        return digest.hexdigest()

    def join(self, train: TrainingData, canaries: TrainingData) -> TextData:
        assert isinstance(train, TextData), type(train)
        assert isinstance(canaries, TextData), type(canaries)
        prompts = train.prompts and _Joined(train.prompts, canaries.prompts or ())
        histories = train.histories and _Joined(train.histories, canaries.histories or ())
        return TextData(_Joined(train.texts, canaries.texts), prompts, histories)

    def score(
        self,
        candidate: LoadedModel,
        canaries: TrainingData,
        context: EvaluationContext,  # noqa: ARG002
    ) -> CanaryScores:
        """Return log-likelihoods; of a model trained from a pretrained one, their gain.

        Canaries have equally many characters, so their likelihoods are comparable.
        """
        model = candidate.model
        assert isinstance(model, TextModel), type(model)
        assert isinstance(canaries, TextData), type(canaries)
        nats, _ = negative_log_likelihood(model, canaries, noun="canary text")
        origin = model.origin(canaries)
        if origin is None:
            return CanaryScores(-nats, "log-likelihood")
        origin.to(next(model.parameters()).device)
        before, _ = negative_log_likelihood(origin, canaries, noun="canary text")
        return CanaryScores(before - nats, "log-likelihood, less that of the pretrained model")


def _alphabet(texts: Sequence[str]) -> list[str]:
    characters = sorted({c for text in texts for c in text if c.isprintable()})
    if len(characters) < 2:
        raise EvaluationError(
            f"the training texts have {len(characters)} printable characters, and canaries need "
            "at least 2; set evaluation.canaries to 0"
        )
    return characters


def _random_texts(
    alphabet: Sequence[str], like: Sequence[str], num: int, generator: np.random.Generator
) -> list[str]:
    """Return random texts of the median length of others."""
    usual = int(median(map(len, like)))
    length = min(MAX_CHARACTERS, max(MIN_CHARACTERS, usual))
    places = generator.integers(len(alphabet), size=(num, length))
    return ["".join(alphabet[place] for place in row) for row in places]


class _Joined(Sequence[Item], Generic[Item]):
    """One sequence after another; the first may be on disk, so neither is copied."""

    def __init__(self, first: Sequence[Item], second: Sequence[Item]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row, num = range(len(self))[index], len(self._first)
        return self._first[row] if row < num else self._second[row - num]
