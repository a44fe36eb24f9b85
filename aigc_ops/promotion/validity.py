"""Why scores cannot carry a promotion."""

import math

from aigc_ops.core.artifacts import Scores
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.evaluation import COPIES
from aigc_ops.promotion.config import PromotionConfig


def invalid_reason(scores: Scores | None) -> str | None:
    """Return why these scores cannot be compared, None when they can."""
    if scores is None:
        return "it has no scores; evaluate it and register its checkpoint again"
    for key, score in scores.values.items():
        if not math.isfinite(score.value):
            return f"its {key} is {score.value}, not a finite number"
    if scores.primary not in scores.values:
        return f"its primary metric {scores.primary} was not measured"
    return None


def memorisation_reason(scores: Scores | None, config: PromotionConfig) -> str | None:
    """Return how surely the samples are copies of training data, None when they are not."""
    for key, score in scores.values.items() if scores else ():
        if key.startswith(COPIES) and score.low > config.max_copies:
            return (
                f"its {key} is {score.value:.1%} ({score.low:.1%} to {score.high:.1%}), surely "
                f"above promotion.max_copies of {config.max_copies:.1%}: it copies training "
                "data; the report shows the pairs"
            )
    return None


def unmeasured_note(scores: Scores | None) -> str | None:
    """Return what was not measured of copying, None when it was looked for."""
    if scores is None or any(key.startswith(COPIES) for key in scores.values):
        return None
    return find_modality(scores.modality).evaluation.not_examined
