"""The privacy audit of a model that was trained with canaries: its scores, and their meaning."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from aigc_ops.core.artifacts import Checkpoint, Score, Scores
from aigc_ops.core.atomic_dirs import read_provenance
from aigc_ops.core.errors import EvaluationError
from aigc_ops.data.canaries import find_canaries
from aigc_ops.interfaces.canaries import Canaries, canaries_of
from aigc_ops.interfaces.evaluation import EvaluationContext, LoadedModel
from aigc_ops.interfaces.media import Section
from aigc_ops.statistics.comparability import score_of
from aigc_ops.statistics.intervals import Estimate
from aigc_ops.statistics.privacy import SHARES, PrivacyAudit, audit

EPSILON, ACCURACY = "canary_epsilon", "canary_accuracy"
MEANINGS = {
    EPSILON: "lower bound of epsilon (differential privacy) from guesses about canaries; 0: no "
    "leak was shown. The upper end is what a perfect attack would have shown",
    ACCURACY: "share of right guesses of which canaries were trained on; 0.5 by chance",
}
METHOD = "one training run, pure differential privacy (Steinke, Nasr & Jagielski 2023)"
HEADING = "Privacy audit with canaries"


def require_same_canaries(checkpoint: Checkpoint, num: int) -> Canaries | None:
    """Return the canaries of a checkpoint; raises EvaluationError unless they are `num`."""
    record = canaries_of(read_provenance(Path(checkpoint.uri)))
    trained = record.num if record else 0
    if trained != num:
        advice = (
            "set it to 0, or train with it"
            if not trained
            else f"set it to {trained}; only a run without canaries has a model without them"
        )
        raise EvaluationError(
            f"evaluation.canaries is {num}, but {checkpoint.uri} was trained with {trained} "
            f"canaries; {advice}"
        )
    return record


def canary_scores(
    candidate: LoadedModel, record: Canaries, context: EvaluationContext
) -> dict[str, Score]:
    """Return the bound of the audit, and the accuracy of its guesses."""
    found = find_canaries(context.ref, context.read("train"), record)
    scored = found.hooks.score(candidate, found.samples, context)
    result = audit(scored.values, found.included)
    terms = _terms(result, scored.method, record)
    bound = Estimate(result.epsilon, result.epsilon, result.ceiling)
    return {
        EPSILON: score_of(bound, {**terms, "interval": "95 %, one-sided: a lower bound"}),
        ACCURACY: score_of(
            result.accuracy,
            {**terms, "interval": f"{1 - 0.05 / len(SHARES):.1%}, Clopper-Pearson: of the guesses"},
        ),
    }


def _terms(result: PrivacyAudit, scored_by: str, record: Canaries) -> dict[str, JsonValue]:
    return {
        "n": result.num_guesses,
        "right": result.num_right,
        "canaries": result.num,
        "included": result.num_included,
        "shares": list(SHARES),
        "delta": 0,
        "method": METHOD,
        "scored_by": scored_by,
        "canaries_digest": record.canaries_digest,
        "seed": record.seed,
    }


def audit_text(values: Mapping[str, Score]) -> str | None:
    """Return the outcome of the audit in sentences; None if the model had no canaries."""
    bound, accuracy = values.get(EPSILON), values.get(ACCURACY)
    if bound is None or accuracy is None:
        return None
    terms = bound.contract
    outcome = (
        f"{terms['canaries']} random canaries, {terms['included']} of them trained on. Of "
        f"{terms['n']} guesses of which, {terms['right']} are right: {accuracy.value:.1%} "
        f"({accuracy.low:.1%} to {accuracy.high:.1%}, 50 % by chance). With 95 % confidence "
        f"epsilon is at least {bound.value:.2f}; a perfect attack would have shown "
        f"{bound.high:.2f}."
    )
    meaning = (
        "The model reveals which data it was trained on."
        if bound.value > 0
        else "No leak was shown, which does not prove that there is none."
    )
    return f"{outcome} {meaning} The audit scores canaries by: {terms['scored_by']}."


LIMITS = (
    "A canary is random, so the audit shows how well the model remembers rare data. It does not "
    "show copies of usual data, and a better attack may show more. The other scores compare with "
    "the real data, without canaries. A run with canaries is a diagnosis and is never promoted."
)


def audit_section(scores: Scores | None) -> list[Section]:
    """Return the section of a report or packet on the audit; empty without canaries."""
    text = audit_text(scores.values) if scores else None
    return [Section(HEADING, f"{text} {LIMITS}")] if text else []
