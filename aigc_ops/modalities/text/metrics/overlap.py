"""What texts share with the training texts: runs of words, and which one is nearest."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_ops.modalities.text.metrics.ngrams import ngrams, words
from aigc_ops.statistics.frechet import Array

NUM_WORDS = 8
Run = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """What each of N texts shares with the training texts."""

    num_runs: Array
    """(N,) runs of eight words in each."""
    num_found: Array
    """(N,) of them in a training text too."""
    longest: NDArray[np.intp]
    """(N,) words in the longest run that is in a training text too; 0 when it has no eight."""

    def split(self, num: int) -> tuple["Overlap", "Overlap"]:
        """That of the first `num` texts and that of the others."""
        first, others = (
            Overlap(self.num_runs[rows], self.num_found[rows], self.longest[rows])
            for rows in (slice(num), slice(num, None))
        )
        return first, others


@dataclass(frozen=True)
class Nearest:
    """The training text that shares most with a text."""

    index: int
    similarity: float
    """Dice coefficient of their pairs of words, in 0..1 (of their words, where one is a word)."""


def overlap(
    texts: Sequence[str], train: Iterable[str], *, num_near: int
) -> tuple[Overlap, list[Nearest | None]]:
    """What the texts share with the training texts, and the nearest to the first `num_near`.

    The share of runs found in training, against that of texts never trained on, is that of
    McCoy et al. 2023 ("RAVEN"). Letter case and spaces are passed over.
    """
    runs, pairs = _Runs(texts), _Pairs(texts[:num_near])
    for index, text in enumerate(train):
        there = words(text)
        runs.look(there)
        pairs.look(index, there)
    return runs.overlap(), pairs.nearest


class _Runs:
    """Where runs of eight words stand in the texts, and which were met in training."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [words(text) for text in texts]
        self._met = [np.zeros(max(0, len(text) - NUM_WORDS + 1), bool) for text in self._texts]
        self._longest = np.zeros(len(texts), dtype=np.intp)
        self._places = defaultdict[Run, list[tuple[int, int]]](list)
        for number, text in enumerate(self._texts):
            for place, run in enumerate(ngrams(text, NUM_WORDS)):
                self._places[run].append((number, place))

    def look(self, there: list[str]) -> None:
        """Note what of the texts stands in a training text of these words."""
        for start, run in enumerate(ngrams(there, NUM_WORDS)):
            for number, place in self._places.get(run, ()):
                here = self._texts[number]
                self._met[number][place] = True
                # One that goes on from the run before was followed to its end from there.
                if place and start and here[place - 1] == there[start - 1]:
                    continue
                length = num_equal(here[place:], there[start:])
                self._longest[number] = max(self._longest[number], length)

    def overlap(self) -> Overlap:
        return Overlap(
            num_runs=np.array([len(met) for met in self._met], np.float64),
            num_found=np.array([met.sum() for met in self._met], np.float64),
            longest=self._longest,
        )


class _Pairs:
    """Which training text shares most pairs of words with each text."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._pieces = [_pieces(words(text)) for text in texts]
        self._holders = defaultdict[Run, list[int]](list)
        for number, pieces in enumerate(self._pieces):
            for piece in pieces:
                self._holders[piece].append(number)
        self.nearest: list[Nearest | None] = [None] * len(texts)

    def look(self, index: int, there: list[str]) -> None:
        """Keep this training text where it is the nearest so far."""
        pieces = _pieces(there)
        shared = Counter(number for piece in pieces for number in self._holders.get(piece, ()))
        for number, count in shared.items():
            similarity = 2 * count / (len(pieces) + len(self._pieces[number]))
            best = self.nearest[number]
            if best is None or similarity > best.similarity:
                self.nearest[number] = Nearest(index, similarity)


def _pieces(found: list[str]) -> set[Run]:
    return set(ngrams(found, 2 if len(found) > 1 else 1))


def num_equal(here: Sequence[str], there: Sequence[str]) -> int:
    """Number of leading words that are equal."""
    num = 0
    for one, other in zip(here, there, strict=False):
        if one != other:
            break
        num += 1
    return num
