"""Scores of the texts that a model draws: variety, likeness to held-out ones, what is copied."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from aigc_ops.core.artifacts import DatasetRef, Score
from aigc_ops.interfaces.evaluation import EvaluationContext
from aigc_ops.modalities.text.metrics import EVALUATION_VERSION
from aigc_ops.modalities.text.metrics.minilm import (
    MINILM_MISSING,
    TextExtractor,
    load_text_extractor,
)
from aigc_ops.modalities.text.metrics.ngrams import distinct, repetition, self_bleu
from aigc_ops.modalities.text.metrics.overlap import Nearest, Overlap, overlap
from aigc_ops.modalities.text.metrics.verbatim import Verbatim
from aigc_ops.modalities.text.model import TextData
from aigc_ops.statistics.comparability import (
    EXACT_INTERVAL,
    distance_contract,
    frechet_scores,
    score_of,
)
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.intervals import Estimate, frechet_estimate, ratio_estimate
from aigc_ops.statistics.kernel import kernel_scores
from aigc_ops.statistics.moments import FeatureSet
from aigc_ops.statistics.reference import reference_rows, reference_statistics

OTHER_TEXTS = "95 %, percentile bootstrap over texts: of other texts like these"
OF_THIS_NUMBER = "95 %, delete-a-group jackknife over texts: of this number of texts"
MAX_CHARACTERS = 20_000_000
"""Characters of training texts that are searched: some ten seconds."""
MAX_UNKNOWN = 0.05


@dataclass(frozen=True)
class Likeness:
    """How drawn texts lie to held-out ones among embeddings."""

    values: dict[str, Score]
    similarity: Array
    """(N,) cosine of each drawn text and the nearest held-out one."""
    note: str | None
    """What to know of the embeddings before the values are read."""


def variety(
    texts: Sequence[str], contract: Mapping[str, JsonValue], *, seed: int
) -> dict[str, Score]:
    """Return how varied drawn texts are; what no text is long enough to tell is left out."""
    found = {
        "distinct_1": (distinct(texts, 1), OF_THIS_NUMBER),
        "distinct_2": (distinct(texts, 2), OF_THIS_NUMBER),
        "repetition_4": (repetition(texts, seed=seed), OTHER_TEXTS),
        "self_bleu_4": (self_bleu(texts), OF_THIS_NUMBER),
    }
    return {
        name: score_of(estimate, {**contract, "interval": interval})
        for name, (estimate, interval) in found.items()
        if estimate is not None
    }


def likeness(
    texts: Sequence[str],
    heldout: TextData,
    terms: Mapping[str, JsonValue],
    context: EvaluationContext,
    *,
    decoding: JsonValue,
) -> Likeness | str | None:
    """Return distances of embeddings; what to install for them, with a warning, if need be.

    None when no extractor is configured. `terms` name the held-out texts, whose statistics are
    kept in the context's cache.
    """
    if context.section.extractor is None:
        return None
    extractor = load_text_extractor(context.settings)
    if extractor is None:
        warnings.warn(MINILM_MISSING, stacklevel=2)
        return MINILM_MISSING
    reference = reference_statistics(
        lambda: FeatureSet(extractor.features(heldout.texts, what="the data")),
        dict(terms),
        extractor,
        context.cache,
        version=EVALUATION_VERSION,
    )
    drawn = extractor.features(texts, what="the samples")
    distances = distance_contract(len(texts), extractor, terms, context.seed)
    contract = {**distances, "decoding": decoding}
    estimate = frechet_estimate(FeatureSet(drawn), reference.gaussian)
    values = frechet_scores(extractor, estimate, contract)
    del contract["below_width"]
    values |= kernel_scores(extractor, reference.features, drawn, contract)
    similarity = (drawn @ reference.features.T).max(axis=1).astype(np.float64)
    return Likeness(values, similarity, _unknown(extractor, heldout.texts))


def _unknown(extractor: TextExtractor, texts: Sequence[str]) -> str | None:
    """Return a note on texts that the extractor cannot read, None when it reads most."""
    share = extractor.unknown(texts)
    if share <= MAX_UNKNOWN:
        return None
    return (
        f"{extractor.identity.name} does not know {share:.0%} of the held-out texts' tokens, so "
        f"{extractor.metric} tells little of texts in their languages."
    )


def copied(
    texts: Sequence[str],
    heldout: TextData,
    train: TextData,
    ref: DatasetRef,
    *,
    decoding: JsonValue,
    seed: int,
) -> tuple[dict[str, Score], Overlap, list[Nearest | None]]:
    """Return what drawn texts share with the training texts, beside what held-out ones do.

    Of much training text a scattered selection is searched; the indices are those of `train`.
    """
    rows = searched(train.texts)
    both, near = overlap(
        [*texts, *heldout.texts], (train.texts[row] for row in rows), num_near=len(texts)
    )
    ours, theirs = both.split(len(texts))
    contract: dict[str, JsonValue] = {
        "dataset": ref.content_digest,
        "num_train": len(rows),
        "seed": seed,
        "interval": OTHER_TEXTS,
    }
    values: dict[str, Score] = {}
    of_ours: dict[str, JsonValue] = {"n": len(texts), "decoding": decoding, **contract}
    if ours.num_runs.sum():
        share = ratio_estimate(ours.num_found, ours.num_runs, seed=seed)
        values["train_overlap_8"] = score_of(share, of_ours)
    if theirs.num_runs.sum():
        share = ratio_estimate(theirs.num_found, theirs.num_runs, seed=seed)
        values["real_train_overlap_8"] = score_of(share, {"n": len(heldout), **contract})
    longest = float(ours.longest.max())
    values["longest_match"] = score_of(
        Estimate(longest, longest, longest),
        {**of_ours, "interval": "none: the most of these texts"},
    )
    return values, ours, [each and Nearest(rows[each.index], each.similarity) for each in near]


def searched(texts: Sequence[str]) -> Sequence[int]:
    """Return the training texts that are searched: all, where they are not too many."""
    num_characters = sum(map(len, texts))
    num = len(texts) * MAX_CHARACTERS // max(num_characters, MAX_CHARACTERS)
    return reference_rows(len(texts), max(1, num))


def recital_score(found: Verbatim, ref: DatasetRef) -> Score:
    """Return the share of training texts that come out word for word."""
    contract: dict[str, JsonValue] = {
        "n": found.num,
        "dataset": ref.content_digest,
        "num_heldout": found.num_heldout,
        "decoding": "greedy",
        "interval": EXACT_INTERVAL.replace("samples of this model", "training texts"),
    }
    return score_of(Estimate(found.share, found.low, found.high), contract)
