"""Checks of scores before they may support a promotion: validity and memorisation."""

import math

from aigc_ops.core.artifacts import Scores
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.evaluation import COPIES
from aigc_ops.promotion.config import PromotionConfig


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


def memorisation_reason(scores: Scores | None, config: PromotionConfig) -> str | None:
    """Return the evidence that samples copy training data, None if there is too little."""
    for key, score in scores.values.items() if scores else ():
        # The lower bound: a model is not rejected for a rate that chance explains.
        if key.startswith(COPIES) and score.low > config.max_copies:
            return (
                f"its {key} is {score.value:.1%} ({score.low:.1%} to {score.high:.1%}), "
                f"significantly above promotion.max_copies of {config.max_copies:.1%}: it copies "
                "training data; the report shows the pairs"
            )
    return None


def unmeasured_note(scores: Scores | None) -> str | None:
    """Return a note that copying was not measured, None if it was."""
    if scores is None or any(key.startswith(COPIES) for key in scores.values):
        return None
    return find_modality(scores.modality).evaluation.not_examined
