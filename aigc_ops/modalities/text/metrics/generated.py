"""Scores of generated texts: diversity, similarity to held-out texts, overlap, copies."""

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import JsonValue

from aigc_ops.core.artifacts import DatasetRef, Score
from aigc_ops.interfaces.evaluation import EvaluationContext
from aigc_ops.modalities.text.metrics import EVALUATION_VERSION
from aigc_ops.modalities.text.metrics.kept_texts import kept_embeddings
from aigc_ops.modalities.text.metrics.minilm import (
    MINILM_MISSING,
    TextExtractor,
    load_text_extractor,
)
from aigc_ops.modalities.text.metrics.ngrams import distinct, repetition, self_bleu
from aigc_ops.modalities.text.metrics.overlap import Nearest, Overlap, overlap
from aigc_ops.modalities.text.metrics.verbatim import VerbatimMemorisation
from aigc_ops.modalities.text.model import TextData
from aigc_ops.statistics.comparability import (
    EXACT_INTERVAL,
    distance_contract,
    frechet_scores,
    score_of,
)
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.intervals import (
    Estimate,
    frechet_estimate,
    ratio_estimate,
    share_estimate,
)
from aigc_ops.statistics.kernel import kernel_scores
from aigc_ops.statistics.moments import FeatureSet
from aigc_ops.statistics.reference import reference_rows, reference_statistics

# These two are stored in evaluation conditions, so a change of wording makes new scores
# incomparable with stored ones.
OTHER_TEXTS = "95 %, percentile bootstrap over texts: of other texts like these"
OF_THIS_NUMBER = "95 %, delete-a-group jackknife over texts: of this number of texts"
MAX_CHARACTERS = 20_000_000  # of training texts that are searched, in about ten seconds
MAX_UNKNOWN = 0.05  # share of tokens above which a report warns about the embeddings


@dataclass(frozen=True)
class Likeness:
    """Similarity of generated and held-out texts in embedding space."""

    values: dict[str, Score]
    similarity: Array
    """(N,) cosine of each generated text and the nearest held-out one."""
    note: str | None
    """A caveat of the embeddings, such as a language they do not cover."""


def variety(
    texts: Sequence[str], contract: Mapping[str, JsonValue], *, seed: int
) -> dict[str, Score]:
    """Return the diversity of generated texts; metrics that need longer texts are omitted."""
    estimates = {
        # distinct and self-BLEU change with the number of texts, so a bootstrap, which repeats
        # texts, would bias them; they get a jackknife and its narrower claim.
        "distinct_1": (distinct(texts, 1), OF_THIS_NUMBER),
        "distinct_2": (distinct(texts, 2), OF_THIS_NUMBER),
        "repetition_4": (repetition(texts, seed=seed), OTHER_TEXTS),
        "self_bleu_4": (self_bleu(texts), OF_THIS_NUMBER),
    }
    return {
        name: score_of(estimate, {**contract, "interval": interval})
        for name, (estimate, interval) in estimates.items()
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
    """Return distances of embeddings; a string says what to install, and is warned of too.

    None if no extractor is configured. `terms` identify the held-out texts, whose statistics
    are stored in the context's cache.
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
    generated = kept_embeddings(extractor, texts, context)
    distances = distance_contract(len(texts), extractor, terms, context.seed)
    contract = {**distances, "decoding": decoding}
    estimate = frechet_estimate(FeatureSet(generated), reference.gaussian)
    values = frechet_scores(extractor, estimate, contract)
    # Only the Fréchet distance needs more texts than features, for its covariance.
    del contract["below_width"]
    values |= kernel_scores(extractor, reference.features, generated, contract)
    # Embeddings have unit length, so their products are cosines.
    similarity = (generated @ reference.features.T).max(axis=1).astype(np.float64)
    return Likeness(values, similarity, _unknown(extractor, heldout.texts))


def _unknown(extractor: TextExtractor, texts: Sequence[str]) -> str | None:
    """Return a note if the extractor does not know many of the texts' tokens, else None."""
    share = extractor.unknown(texts)
    if share <= MAX_UNKNOWN:
        return None
    return (
        f"{extractor.identity.name} does not know {share:.0%} of the held-out texts' tokens, so "
        f"{extractor.metric} is unreliable for texts in their languages."
    )


def overlap_scores(
    texts: Sequence[str],
    heldout: TextData,
    train: TextData,
    ref: DatasetRef,
    *,
    decoding: JsonValue,
    seed: int,
) -> tuple[dict[str, Score], Overlap, list[Nearest | None]]:
    """Return the overlap of generated texts, and of held-out ones, with training texts.

    If there is much training text, an evenly spaced selection is searched. Indices are those
    of `train`.
    """
    # 1. Runs of words. Generated and held-out texts are searched in one pass over the training
    # texts. Only the generated ones need a nearest text.
    rows = search_rows(train.texts)
    both, near = overlap(
        [*texts, *heldout.texts], (train.texts[row] for row in rows), num_near=len(texts)
    )
    of_generated, of_heldout = both.split(len(texts))
    contract: dict[str, JsonValue] = {
        "dataset": ref.content_digest,
        "num_train": len(rows),
        "seed": seed,
        "interval": OTHER_TEXTS,
    }
    values: dict[str, Score] = {}
    terms: dict[str, JsonValue] = {"n": len(texts), "decoding": decoding, **contract}
    if of_generated.num_runs.sum():
        share = ratio_estimate(of_generated.num_found, of_generated.num_runs, seed=seed)
        values["train_overlap_8"] = score_of(share, terms)
    if of_heldout.num_runs.sum():
        share = ratio_estimate(of_heldout.num_found, of_heldout.num_runs, seed=seed)
        values["real_train_overlap_8"] = score_of(share, {"n": len(heldout), **contract})
    # 2. Whole texts. Short ones have no run of eight words, and recur in the data itself.
    known = {_digest(text) for text in train.texts}
    for name, part, conditions in (
        ("exact_copies", texts, terms),
        ("real_exact_copies", heldout.texts, {"n": len(heldout), **contract}),
    ):
        found = sum(_digest(text) in known for text in part)
        share = share_estimate(found, len(part))
        values[name] = score_of(share, {**conditions, "interval": EXACT_INTERVAL})
    longest = float(of_generated.longest.max())
    values["longest_match"] = score_of(
        Estimate(longest, longest, longest),
        {**terms, "interval": "none: the most of these texts"},
    )
    return values, of_generated, [n and Nearest(rows[n.index], n.similarity) for n in near]


def _digest(text: str) -> bytes:
    """Return a digest that ignores letter case and white space."""
    return hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()


def search_rows(texts: Sequence[str]) -> Sequence[int]:
    """Return the indices of the training texts to search: all, unless there are too many."""
    num_characters = sum(map(len, texts))
    num = len(texts) * MAX_CHARACTERS // max(num_characters, MAX_CHARACTERS)
    return reference_rows(len(texts), max(1, num))


def memorisation_score(memorisation: VerbatimMemorisation, ref: DatasetRef) -> Score:
    """Return the share of training texts that the model reproduces verbatim."""
    contract: dict[str, JsonValue] = {
        "n": memorisation.num,
        "dataset": ref.content_digest,
        "num_heldout": memorisation.num_heldout,
        "decoding": "greedy",
        "interval": EXACT_INTERVAL.replace("samples of this model", "training texts"),
    }
    return score_of(Estimate(memorisation.share, memorisation.low, memorisation.high), contract)
