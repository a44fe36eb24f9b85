"""Overfitting of a discriminator, measured by membership inference (Hayes et al. 2019)."""

from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from aigc_ops.core.artifacts import Score
from aigc_ops.interfaces.discriminator import (
    ADVICE,
    MIN_SCORED,
    OVERFITTED,
    HasDiscriminator,
    pairs_above,
    scored_rows,
)
from aigc_ops.interfaces.evaluation import EvaluationContext
from aigc_ops.interfaces.ingestion import SPLITS, Split
from aigc_ops.sampling.sampler import BATCH_SIZE, inference
from aigc_ops.statistics.comparability import INTERVAL, score_of
from aigc_ops.statistics.intervals import pairs_estimate

MEMBERSHIP_AUC = "discriminator_membership_auc"
MOST_SCORED = 500  # images of each split


def discriminator_scores(model: Any, context: EvaluationContext) -> dict[str, Score]:
    """Return the AUC with which the discriminator ranks training images above held-out ones.

    Empty for models without a discriminator, and for too few images.
    """
    if (
        not isinstance(model, HasDiscriminator)
        or min(map(context.ref.num_rows, SPLITS)) < MIN_SCORED
    ):
        return {}
    train, heldout = (_scores(model, context, split) for split in SPLITS)
    terms: dict[str, JsonValue] = {
        "n": len(train),
        "n_heldout": len(heldout),
        "data": context.ref.content_digest,
        "interval": INTERVAL,
    }
    return {MEMBERSHIP_AUC: score_of(pairs_estimate(pairs_above(train, heldout).numpy()), terms)}


def overfitting_warning(values: dict[str, Score]) -> str | None:
    """Return a warning if the discriminator has overfitted, else None."""
    score = values.get(MEMBERSHIP_AUC)
    if score is None or score.value < OVERFITTED:
        return None
    return (
        "The discriminator has memorised its training images: it ranks them above held-out images "
        f"in {score.value:.0%} of the pairs ({score.low:.0%} to {score.high:.0%}; 50 % "
        f"without overfitting). Its gradients then mislead the generator: {ADVICE}."
    )


def _scores(model: Any, context: EvaluationContext, split: Split) -> Tensor:
    data = context.read(split)
    examples = model.examples(data.take(scored_rows(len(data), MOST_SCORED)))
    num = len(next(iter(examples.values())))
    with inference(model):
        scores = [
            model.discriminator_scores(
                {k: rows[i : i + BATCH_SIZE] for k, rows in examples.items()}
            )
            for i in range(0, num, BATCH_SIZE)
        ]
    return torch.cat(scores)
