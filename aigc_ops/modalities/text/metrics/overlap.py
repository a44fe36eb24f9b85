"""Overlap of texts with training texts: shared runs of words, and the nearest text."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_ops.modalities.text.metrics.ngrams import ngrams, spans, words
from aigc_ops.statistics.frechet import Array

NUM_WORDS = 8  # of a run: shorter ones are often common phrases
NGram = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """Overlap of each of N texts with the training texts."""

    num_runs: Array
    """(N,) number of eight-word runs in each text."""
    num_found: Array
    """(N,) number of these that occur in a training text."""
    longest: NDArray[np.intp]
    """(N,) words in the longest run that occurs in a training text; 0 if shorter than eight."""

    def split(self, num: int) -> tuple["Overlap", "Overlap"]:
        """Return the overlap of the first `num` texts, and that of the other texts."""
        first, others = (
            Overlap(self.num_runs[rows], self.num_found[rows], self.longest[rows])
            for rows in (slice(num), slice(num, None))
        )
        return first, others


@dataclass(frozen=True)
class Nearest:
    """The training text that shares most word pairs with a text."""

    index: int
    similarity: float
    """Dice coefficient of the sets of word pairs, in 0..1; of words, for a text of one word."""


def overlap(
    texts: Sequence[str], train: Iterable[str], *, num_near: int
) -> tuple[Overlap, list[Nearest | None]]:
    """Return the overlap with training texts, and the nearest one for the first `num_near`.

    The share of runs that occur in training texts, compared with that of held-out texts, is
    from McCoy et al. 2023 ("RAVEN"). Letter case and white space are ignored.
    """
    # The index is built over the few texts, and the training texts are streamed past it: so
    # memory does not grow with the training data.
    runs, pairs = _Runs(texts), _Pairs(texts[:num_near])
    for index, text in enumerate(train):
        train_words = words(text)
        runs.add(train_words)
        pairs.add(index, train_words)
    return runs.overlap(), pairs.nearest


def nearest_passage(text: str, document: str) -> str:
    """Return the part of a document that shares most pairs of words with a text, of its length.

    Dots show where the document goes on.
    """
    places, wanted = spans(document), _pieces(words(text))
    num = max(len(words(text)), 1)
    if len(places) <= num:
        return document
    found = [piece in wanted for piece in ngrams(words(document), 2)] or [False]
    # The window with most of the pairs, from its first pair on; of equal windows the first.
    totals = np.convolve(found, np.ones(min(num, len(found))), mode="valid")
    window = int(totals.argmax())
    first = window + int(np.argmax(found[window : window + num]))
    last = min(first + num, len(places) - 1)
    passage = document[places[first][0] : places[last][1]]
    return f"{'… ' * (first > 0)}{passage}{' …' * (last < len(places) - 1)}"


class _Runs:
    """Positions of eight-word runs in the texts, and which of them occur in training texts."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = [words(text) for text in texts]
        # One flag per run; a run that occurs in many training texts counts once.
        self._met = [np.zeros(max(0, len(text) - NUM_WORDS + 1), bool) for text in self._texts]
        self._longest = np.zeros(len(texts), dtype=np.intp)
        self._positions = defaultdict[NGram, list[tuple[int, int]]](list)
        for number, text in enumerate(self._texts):
            for position, run in enumerate(ngrams(text, NUM_WORDS)):
                self._positions[run].append((number, position))

    def add(self, train_words: list[str]) -> None:
        """Record the runs of the texts that occur in this training text."""
        for start, run in enumerate(ngrams(train_words, NUM_WORDS)):
            for number, position in self._positions.get(run, ()):
                text = self._texts[number]
                self._met[number][position] = True
                # If the word before agrees as well, this match is part of a longer one, which
                # was measured to its end when it began. Measuring again at every position
                # would take quadratic time for a copied text.
                if position and start and text[position - 1] == train_words[start - 1]:
                    continue
                length = num_equal(text[position:], train_words[start:])
                self._longest[number] = max(self._longest[number], length)

    def overlap(self) -> Overlap:
        return Overlap(
            num_runs=np.array([len(met) for met in self._met], np.float64),
            num_found=np.array([met.sum() for met in self._met], np.float64),
            longest=self._longest,
        )


class _Pairs:
    """The nearest training text of each text, by shared pairs of words."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._pieces = [_pieces(words(text)) for text in texts]
        self._holders = defaultdict[NGram, list[int]](list)
        for number, pieces in enumerate(self._pieces):
            for piece in pieces:
                self._holders[piece].append(number)
        self.nearest: list[Nearest | None] = [None] * len(texts)

    def add(self, index: int, train_words: list[str]) -> None:
        """Record this training text for each text whose nearest one it is so far."""
        pieces = _pieces(train_words)
        shared = Counter(number for piece in pieces for number in self._holders.get(piece, ()))
        for number, count in shared.items():
            # Dice coefficient, so a long training text is not the nearest by its length alone.
            similarity = 2 * count / (len(pieces) + len(self._pieces[number]))
            best = self.nearest[number]
            # Ties keep the first training text, so the result does not depend on dict order.
            if best is None or similarity > best.similarity:
                self.nearest[number] = Nearest(index, similarity)


def _pieces(text_words: list[str]) -> set[NGram]:
    return set(ngrams(text_words, 2 if len(text_words) > 1 else 1))


def num_equal(words_a: Sequence[str], words_b: Sequence[str]) -> int:
    """Return the number of leading words that are equal."""
    num = 0
    for one, other in zip(words_a, words_b, strict=False):
        if one != other:
            break
        num += 1
    return num
