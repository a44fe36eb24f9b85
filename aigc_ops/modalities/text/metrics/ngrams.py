"""How varied texts are: distinct n-grams, repetition and self-BLEU, of words in any script."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aigc_ops.statistics.intervals import Estimate, jackknife, ratio_estimate

# Scripts without spaces count by character, others by word, and marks by themselves.
_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\W{_CHARACTER}]+|[^\w\s]")
REPEATED_LENGTH = 4
BLEU_LENGTH = 4
NO_MATCH = 0.1  # counted for an order without a match: Chen & Cherry 2014, method 1


def words(text: str) -> list[str]:
    """The text's words, lower-cased; a character of Chinese, Japanese or Korean is one."""
    return _WORD.findall(text.lower())


def spans(text: str) -> list[tuple[int, int]]:
    """Where each word of the text begins and ends."""
    return [match.span() for match in _WORD.finditer(text)]


def ngrams(found: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Each run of n of the words, in order."""
    return list(zip(*(found[start:] for start in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int) -> Estimate | None:
    """Different n-grams of all texts over all their n-grams (Li et al. 2016), in 0..1.

    It falls as texts are added, so it speaks of this number of texts alone. None when no
    text has n words.
    """
    found = [ngrams(words(text), n) for text in texts]
    if not any(found):
        return None

    def share(kept: NDArray[np.bool_]) -> float:
        chosen = [each for each, is_kept in zip(found, kept, strict=True) if is_kept]
        total = sum(map(len, chosen))
        return len(set().union(*chosen)) / total if total else 0.0

    return jackknife(share, len(texts))


def repetition(texts: Sequence[str], *, seed: int) -> Estimate | None:
    """Share of a text's 4-grams that stand in it before (Welleck et al. 2020), in 0..1.

    Taken over all texts; None when none has four words.
    """
    found = [ngrams(words(text), REPEATED_LENGTH) for text in texts]
    if not any(found):
        return None
    repeats = np.array([len(each) - len(set(each)) for each in found], dtype=np.float64)
    return ratio_estimate(repeats, np.array([len(each) for each in found], float), seed=seed)


def self_bleu(texts: Sequence[str]) -> Estimate | None:
    """Mean BLEU-4 of each text against all others (Zhu et al. 2018, "Texygen"), in 0..1.

    High when texts say the same. It rises as texts are added, so it speaks of this number of
    texts alone. Texygen's smoothing; unlike there, all other texts are references, a text of
    fewer than four words has no longer n-grams, and texts without words are left out. None
    when fewer than two texts have words.
    """
    found = [counted for text in texts if (counted := _counts(words(text)))]
    if len(found) < 2:
        return None

    def mean(kept: NDArray[np.bool_]) -> float:
        chosen = [each for each, is_kept in zip(found, kept, strict=True) if is_kept]
        return sum(_bleus(chosen)) / len(chosen) if len(chosen) > 1 else 0.0

    return jackknife(mean, len(found))


def _counts(found: list[str]) -> list[Counter[tuple[str, ...]]]:
    """How often each n-gram stands in a text, for n from 1 to 4 or its number of words."""
    return [Counter(ngrams(found, n)) for n in range(1, min(BLEU_LENGTH, len(found)) + 1)]


def _bleus(texts: Sequence[list[Counter[tuple[str, ...]]]]) -> list[float]:
    """BLEU of each text against all others (Papineni et al. 2002), from their counts."""
    most: dict[tuple[str, ...], list[int]] = {}  # an n-gram's two highest counts in a text
    for counts in texts:
        for gram, count in (item for order in counts for item in order.items()):
            most[gram] = sorted([*most.get(gram, ()), count], reverse=True)[:2]
    lengths = Counter(counts[0].total() for counts in texts)
    return [_bleu(counts, most, lengths) for counts in texts]


def _bleu(
    counts: list[Counter[tuple[str, ...]]],
    most: dict[tuple[str, ...], list[int]],
    lengths: Counter[int],
) -> float:
    logs = 0.0
    for order in counts:
        matches: float = 0
        for gram, count in order.items():
            first, second = (*most[gram], 0)[:2]
            # The others' highest count: where the highest is the text's own, the next one.
            matches += min(count, second if count == first else first)
        if not matches and order is counts[0]:
            return 0.0
        logs += math.log((matches or NO_MATCH) / order.total())
    own = counts[0].total()
    others = [length for length, num in lengths.items() if num > (length == own)]
    closest = min(others, key=lambda length: (abs(length - own), length))
    return math.exp(min(0.0, 1 - closest / own) + logs / len(counts))
