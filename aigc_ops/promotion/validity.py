"""Checks of scores before they may support a promotion: validity and memorisation."""

import math
from collections.abc import Mapping
from typing import Any

from aigc_ops.core.artifacts import Score, Scores
from aigc_ops.evaluation.canaries import audit_text
from aigc_ops.interfaces.canaries import canaries_of
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.evaluation import BASELINE, COPIES, COPY_POWER
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.gate import Ruling
from aigc_ops.statistics.copies import EXPECTED
from aigc_ops.statistics.intervals import share_estimate


def invalid_reason(scores: Scores | None) -> str | None:
    """Return why these scores cannot be compared, None if they can."""
    if scores is None:
        return "it has no scores; evaluate it and register its checkpoint again"
    # Comparisons with NaN are all false: the gate would be undecided instead of rejecting.
    for key, score in scores.values.items():
        if not math.isfinite(score.value):
            return f"its {key} is {score.value}, not a finite number"
    if scores.primary not in scores.values:
        return f"its primary metric {scores.primary} was not measured"
    return None


def canary_ruling(provenance: Mapping[str, Any], scores: Scores | None) -> Ruling | None:
    """Return the rejection of a version that was trained with canaries, None for others."""
    canaries = canaries_of(provenance)
    if canaries is None:
        return None
    reason = (
        f"a run with canaries is a diagnosis: it was trained with some of {canaries.num} random "
        "canaries and is never promoted; train without evaluation.canaries"
    )
    text = audit_text(scores.values) if scores else None
    return Ruling(outcome="keep", reasons=(reason, *([text] if text else [])))


def memorisation_reason(scores: Scores | None, config: PromotionConfig) -> str | None:
    """Return the evidence that samples copy training data, None if there is too little."""
    if scores is None:
        return None
    above = f"significantly above promotion.max_copies of {config.max_copies:.1%}"
    for key, score in scores.values.items():
        # The lower bound: a model is not rejected for a rate that chance explains. Where more than
        # 1 % of held-out data counts as copies, the limit is higher by as much.
        more = max(0.0, float(str(score.contract.get("expected", EXPECTED))) - EXPECTED)
        if key.startswith(COPIES) and score.low > config.max_copies + more:
            usual = f" plus the {more:.1%} of its held-out data" if more else ""
            return (
                f"its {key} is {_interval(score)}, {above}{usual}: it copies training data; the "
                "report shows the pairs"
            )
    # Few held-out samples give a wide control, so a copying model is found at any number of them,
    # and a clean one is never accused.
    for key, control in find_modality(scores.modality).evaluation.copy_controls.items():
        copied, real = scores.values.get(key), scores.values.get(control)
        if copied and real and copied.low > _highest(real) + config.max_copies:
            return (
                f"its {key} is {_interval(copied)}, against {_interval(real)} of held-out data, "
                f"{above} more: it repeats training data"
            )
    return None


def _interval(score: Score) -> str:
    return f"{score.value:.1%} ({score.low:.1%} to {score.high:.1%})"


def _highest(real: Score) -> float:
    """Return the upper bound of a share of held-out data."""
    # A bootstrap of few samples that all have none finds no variation at all. The exact bound of
    # as many samples is at least as wide then.
    num = int(str(real.contract.get("n") or 1))
    return max(real.high, share_estimate(round(real.value * num), num).high)


def unexamined_reason(scores: Scores | None, config: PromotionConfig) -> str | None:
    """Return why copying was not examined, and what would help; None if it was examined."""
    if scores is None:
        return None
    if not any(key.startswith(COPIES) for key in scores.values):
        return find_modality(scores.modality).evaluation.not_examined
    power = scores.values.get(COPY_POWER)
    if power and power.value < config.min_copy_power:
        return (
            f"only {power.value:.0%} of planted copies of training data were found, and "
            f"promotion.min_copy_power is {config.min_copy_power:.0%}: the data holds near "
            "relatives of its own rows (hold out whole groups, or look at the nearest pairs)"
        )
    return None


def floor_reason(scores: Scores) -> tuple[str, bool] | None:
    """Return why a first version is no better than a trivial model, and whether that is sure.

    None if it is better.
    """
    if reason := find_modality(scores.modality).evaluation.collapse_reason(scores):
        return f"it is collapsed: {reason}", True
    score, trivial = (scores.values.get(f"{p}{scores.primary}") for p in ("", BASELINE))
    if score and trivial and score.value >= trivial.value:
        reason = (
            f"its {scores.primary} of {score.value:.4g} ({score.low:.4g} to {score.high:.4g}) does "
            f"not beat the trivial baseline's {trivial.value:.4g}"
        )
        return reason, score.low > trivial.value
    return None


def first_version_ruling(scores: Scores, name: str, config: PromotionConfig) -> Ruling:
    """Return the ruling on a valid version of a model that has no champion."""
    reason = f"the first valid version while {name} has no champion"
    found = floor_reason(scores)
    if found is None:
        return Ruling(outcome="promote", reasons=(reason,))
    below, is_sure = found
    if not config.first_version_floor:
        note = f"{below}, which promotion.first_version_floor allows"
        return Ruling(outcome="promote", reasons=(reason, note))
    if is_sure:
        return Ruling(outcome="keep", reasons=(below,))
    return Ruling(outcome="undecided", reasons=(f"{below}; a person decides", reason))


def with_unexamined(ruling: Ruling, scores: Scores | None, config: PromotionConfig) -> Ruling:
    """Return the ruling for a version whose copies may not have been examined.

    What was not looked at never counts as clean: a person decides, unless the config allows it.
    """
    reason = unexamined_reason(scores, config)
    if reason is None:
        return ruling
    if config.unexamined == "allow":
        note = f"copies were not examined, which promotion.unexamined allows: {reason}"
        return ruling.model_copy(update={"reasons": (*ruling.reasons, note)})
    note = f"copies were not examined: {reason}"
    if ruling.outcome != "promote":
        return ruling.model_copy(update={"reasons": (*ruling.reasons, note)})
    update = {"outcome": "undecided", "reasons": (f"{note}; a person decides", *ruling.reasons)}
    return ruling.model_copy(update=update)
