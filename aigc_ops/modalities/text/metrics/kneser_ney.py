"""The trivial baseline of texts: an interpolated Kneser-Ney n-gram over bytes.

Kneser & Ney 1995, with the three discounts of Chen & Goodman 1999. A model of texts that does not
beat it has learnt less than counting gives. A document is start, prompt, turn, text and end, as for
`Vocabulary`. Only the bytes of the text, and its end, are predicted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc_ops.modalities.text.model import TextData
from aigc_ops.statistics.frechet import Array

# Nine bits a symbol: 256 bytes and three marks. Seven symbols fit into 63 bits.
BITS, MAX_ORDER = 9, 7
END, TURN, START = 256, 257, 258
NUM_SYMBOLS = 258  # that can be predicted: the bytes, the end and the turn
LEAST = 0.1  # discount: with none, a symbol that was never met would be impossible
HELD_OUT_EVERY = 10
"""Part of the training texts by which the order is chosen."""

MAX_BYTES, MAX_BYTES_FOR_ORDER = 8 * 2**20, 2**20
"""Bytes of training text that are counted: about 10 seconds, and 500 MB of memory."""

Codes = NDArray[np.uint64]


@dataclass(frozen=True)
class _Order:
    """Counts of the runs of one length; the arrays are sorted by their codes."""

    runs: Codes
    counts: Array
    contexts: Codes
    totals: Array
    """Sum of the counts in each context."""
    spare: Array
    """Mass that the discounts take from each context, for the lower orders."""
    discounts: Array
    """Discount of the counts 0, 1, 2, and 3 or more."""


class KneserNey:
    """An n-gram model of bytes."""

    def __init__(self, data: TextData, order: int) -> None:
        """Count the runs of up to `order` symbols (1 to 7) in the documents."""
        self.order = order
        symbols, _ = _symbols(data)
        runs = _codes(symbols, order)[symbols != START]  # the start is given, never predicted
        highest, counts = np.unique(runs, return_counts=True)
        levels = [_order(highest, counts.astype(np.float64))]
        # The lower orders count in how many ways a run is preceded, not how often it occurs.
        for length in range(order - 1, 0, -1):
            mask = np.uint64((1 << (BITS * length)) - 1)
            highest, counts = np.unique(highest & mask, return_counts=True)
            levels.append(_order(highest, counts.astype(np.float64)))
        self._levels = levels[::-1]

    def negative_log_likelihood(self, data: TextData) -> Array:
        """Return the negative log-likelihood of each text and its end, (N,) in nats."""
        symbols, documents = _symbols(data)
        scored = documents >= 0
        nats = -np.log(self._probabilities(symbols)[scored])
        return np.bincount(documents[scored], nats, minlength=len(data)).astype(np.float64)

    def _probabilities(self, symbols: NDArray[np.uint64]) -> Array:
        """Return the probability of each symbol after those before it."""
        probability = np.full(len(symbols), 1 / NUM_SYMBOLS)
        for length, level in enumerate(self._levels, start=1):
            runs = _codes(symbols, length)
            contexts = runs >> np.uint64(BITS)
            total = _lookup(level.contexts, level.totals, contexts)
            count = _lookup(level.runs, level.counts, runs)
            discount = level.discounts[np.minimum(count, 3).astype(int)]
            spare = _lookup(level.contexts, level.spare, contexts)
            known = total > 0
            mixed = (count - discount + spare * probability) / np.where(known, total, 1)
            probability = np.where(known, mixed, probability)
        return probability


def fit_baseline(train: TextData) -> tuple[KneserNey, int]:
    """Return the n-gram of the order that fits best, and the number of bytes that it counts.

    Of much training text, the first documents in a fixed random order are counted.
    """
    order = choose_order(_limited(train, MAX_BYTES_FOR_ORDER))
    counted = _limited(train, MAX_BYTES)
    return KneserNey(counted, order), sum(len(text.encode()) for text in counted.texts)


def _limited(data: TextData, max_bytes: int) -> TextData:
    """Return documents of at most `max_bytes` together, but at least one."""
    sizes = np.array([len(text.encode()) for text in data.texts])
    if sizes.sum() <= max_bytes:
        return data
    rows = np.random.default_rng(0).permutation(len(data))
    num = max(1, int((np.cumsum(sizes[rows]) <= max_bytes).sum()))
    return data.take(sorted(rows[:num].tolist()))


def choose_order(data: TextData) -> int:
    """Return the order that predicts a tenth of the training texts best from the others."""
    rows = np.arange(len(data))
    is_test = rows % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    if not is_test.any():
        return 1
    train, test = data.take(rows[~is_test].tolist()), data.take(rows[is_test].tolist())
    nats = [
        KneserNey(train, order).negative_log_likelihood(test).sum()
        for order in range(1, MAX_ORDER + 1)
    ]
    return 1 + int(np.argmin(nats))


def _symbols(data: TextData) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return all symbols in a row, and the document of each that is predicted, else -1."""
    prompts: Sequence[str] = data.prompts if data.prompts is not None else [""] * len(data)
    symbols, documents = [], []
    for index, (prompt, text) in enumerate(zip(prompts, data.texts, strict=True)):
        # As many marks as the longest context, so that no run reaches into another document.
        before = [START] * (MAX_ORDER - 1) + [*prompt.encode(), TURN]
        after = [*text.encode(), END]
        symbols += before + after
        documents += [-1] * len(before) + [index] * len(after)
    return np.array(symbols, np.uint64), np.array(documents, np.int64)


def _codes(symbols: NDArray[np.uint64], length: int) -> Codes:
    """Return the code of the run that ends at each symbol; runs before the first are of marks."""
    codes = np.zeros(len(symbols), np.uint64)
    for distance in range(length - 1, -1, -1):
        shifted = np.full(len(symbols), START, np.uint64)
        shifted[distance:] = symbols[: len(symbols) - distance]
        codes = (codes << np.uint64(BITS)) | shifted
    return codes


def _order(runs: Codes, counts: Array) -> _Order:
    contexts, rows = np.unique(runs >> np.uint64(BITS), return_inverse=True)
    # 1. The discounts, by how many runs occur once, twice, three and four times.
    n1, n2, n3, n4 = (max(1.0, float((counts == num).sum())) for num in (1, 2, 3, 4))
    share = n1 / (n1 + 2 * n2)
    discounts = np.array(
        [
            0,
            1 - 2 * share * n2 / n1,
            2 - 3 * share * n3 / n2,
            3 - 4 * share * n4 / n3,
        ]
    ).clip([0, *[LEAST] * 3], [0, 1, 2, 3])
    # 2. Totals of the contexts, and what the discounts take from them.
    taken = discounts[np.minimum(counts, 3).astype(int)]
    return _Order(
        runs=runs,
        counts=counts,
        contexts=contexts,
        totals=np.bincount(rows, counts).astype(np.float64),
        spare=np.bincount(rows, taken).astype(np.float64),
        discounts=discounts,
    )


def _lookup(keys: Codes, values: Array, wanted: Codes) -> Array:
    """Return the value of each wanted key; 0 for one that is absent."""
    places = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0.0)
