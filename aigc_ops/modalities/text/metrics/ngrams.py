"""Diversity of texts: distinct n-grams, repetition and self-BLEU, for words in any script."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aigc_ops.statistics.intervals import Estimate, jackknife, ratio_estimate

# In scripts without spaces each character counts as a word; so does each punctuation mark.
_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\W{_CHARACTER}]+|[^\w\s]")
REPEATED_LENGTH = 4
BLEU_LENGTH = 4
NO_MATCH = 0.1  # matches counted for an order without any: Chen & Cherry 2014, method 1


def words(text: str) -> list[str]:
    """Return the text's words in lower case; a Chinese, Japanese or Korean character is one."""
    return _WORD.findall(text.lower())


def spans(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each word in the text."""
    return [match.span() for match in _WORD.finditer(text)]


def ngrams(text_words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """Return all runs of n words, in order."""
    return list(zip(*(text_words[start:] for start in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int) -> Estimate | None:
    """Return the distinct n-grams over all n-grams of the texts, in 0..1 (Li et al. 2016).

    None if no text has n words. Values compare only between equal numbers of texts, because
    the share falls as texts are added.
    """
    grams = [ngrams(words(text), n) for text in texts]
    if not any(grams):
        return None

    def share(kept: NDArray[np.bool_]) -> float:
        chosen = [each for each, is_kept in zip(grams, kept, strict=True) if is_kept]
        total = sum(map(len, chosen))
        return len(set().union(*chosen)) / total if total else 0.0

    return jackknife(share, len(texts))


def repetition(texts: Sequence[str], *, seed: int) -> Estimate | None:
    """Return the share of 4-grams that occurred earlier in their text, over all texts, in 0..1.

    Welleck et al. 2020. None if no text has four words.
    """
    grams = [ngrams(words(text), REPEATED_LENGTH) for text in texts]
    if not any(grams):
        return None
    repeats = np.array([len(each) - len(set(each)) for each in grams], dtype=np.float64)
    # A ratio of sums, so that short texts do not weigh as much as long ones.
    return ratio_estimate(repeats, np.array([len(each) for each in grams], float), seed=seed)


def self_bleu(texts: Sequence[str]) -> Estimate | None:
    """Return the mean BLEU-4 of each text against all others, in 0..1; high: low diversity.

    Zhu et al. 2018 ("Texygen") and its smoothing. Deviations: all other texts are references,
    a text of fewer than four words is scored by its shorter n-grams, and texts without words
    are omitted. None if fewer than two texts have words. Values compare only between equal
    numbers of texts, because the mean rises as texts are added.
    """
    all_counts = [counts for text in texts if (counts := _counts(words(text)))]
    if len(all_counts) < 2:
        return None

    def mean(kept: NDArray[np.bool_]) -> float:
        chosen = [each for each, is_kept in zip(all_counts, kept, strict=True) if is_kept]
        return sum(_bleus(chosen)) / len(chosen) if len(chosen) > 1 else 0.0

    return jackknife(mean, len(all_counts))


def _counts(text_words: list[str]) -> list[Counter[tuple[str, ...]]]:
    """Count each n-gram of a text, for n from 1 to 4 or to its number of words."""
    return [Counter(ngrams(text_words, n)) for n in range(1, min(BLEU_LENGTH, len(text_words)) + 1)]


def _bleus(texts: Sequence[list[Counter[tuple[str, ...]]]]) -> list[float]:
    """Return the BLEU of each text against all others (Papineni et al. 2002)."""
    # BLEU clips by the highest count in any reference. With the two highest counts over all
    # texts, the highest over the others is known without comparing all pairs of texts.
    most: dict[tuple[str, ...], list[int]] = {}
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
            # The highest count among the others: if the highest is the text's own, the second.
            matches += min(count, second if count == first else first)
        # Smoothing applies to longer n-grams only; a text without any common word scores 0.
        if not matches and order is counts[0]:
            return 0.0
        logs += math.log((matches or NO_MATCH) / order.total())
    # Brevity penalty (Papineni et al. 2002, section 2.2.2): the reference of the closest length,
    # the shorter one of two. `num > (length == own)` excludes the text itself.
    own = counts[0].total()
    others = [length for length, num in lengths.items() if num > (length == own)]
    closest = min(others, key=lambda length: (abs(length - own), length))
    # Uniform weights over the orders that the text has.
    return math.exp(min(0.0, 1 - closest / own) + logs / len(counts))
