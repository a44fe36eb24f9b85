"""How varied texts are: distinct n-grams and repetition, of words in any script."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aigc_ops.evaluation.statistics import Estimate, jackknife, ratio_estimate

# Scripts without spaces count by character, others by word, and marks by themselves.
_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\W{_CHARACTER}]+|[^\w\s]")
REPEATED_LENGTH = 4


def words(text: str) -> list[str]:
    """The text's words, lower-cased; a character of Chinese, Japanese or Korean is one."""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Each run of n words, in order."""
    found = words(text)
    return list(zip(*(found[start:] for start in range(n)), strict=False))


def distinct(texts: Sequence[str], n: int) -> Estimate | None:
    """Different n-grams of all texts over all their n-grams (Li et al. 2016), in 0..1.

    It falls as texts are added, so it speaks of this number of texts alone. None when no
    text has n words.
    """
    found = [ngrams(text, n) for text in texts]
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
    found = [ngrams(text, REPEATED_LENGTH) for text in texts]
    if not any(found):
        return None
    repeats = np.array([len(each) - len(set(each)) for each in found], dtype=np.float64)
    return ratio_estimate(repeats, np.array([len(each) for each in found], float), seed=seed)
