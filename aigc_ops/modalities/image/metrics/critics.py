"""Whether a discriminator knows its training images by heart."""

from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from aigc_ops.core.artifacts import Score
from aigc_ops.interfaces.critics import (
    ADVICE,
    MEMORISED,
    MIN_SCORED,
    HasCritic,
    pairs_above,
    scored_rows,
)
from aigc_ops.interfaces.evaluation import EvaluationContext
from aigc_ops.interfaces.ingestion import SPLITS, Split
from aigc_ops.sampling.sampler import BATCH_SIZE, inference
from aigc_ops.statistics.comparability import INTERVAL, score_of
from aigc_ops.statistics.intervals import pairs_estimate

CRITIC_SCORE = "critic_train_above_heldout"
MOST_SCORED = 500  # images of each split


def critic_scores(model: Any, context: EvaluationContext) -> dict[str, Score]:
    """Return the share of pairs of which the critic ranks the training image above the held-out.

    Empty for models without a critic, and for too few images.
    """
    if not isinstance(model, HasCritic) or min(map(context.ref.num_rows, SPLITS)) < MIN_SCORED:
        return {}
    train, heldout = (_scores(model, context, split) for split in SPLITS)
    terms: dict[str, JsonValue] = {
        "n": len(train),
        "n_heldout": len(heldout),
        "data": context.ref.content_digest,
        "interval": INTERVAL,
    }
    return {CRITIC_SCORE: score_of(pairs_estimate(pairs_above(train, heldout).numpy()), terms)}


def critic_warning(values: dict[str, Score]) -> str | None:
    """Return a warning if the critic knows its training images by heart, else None."""
    score = values.get(CRITIC_SCORE)
    if score is None or score.value < MEMORISED:
        return None
    return (
        "The discriminator knows its training images by heart: it ranks them above held-out images "
        f"in {score.value:.0%} of the pairs ({score.low:.0%} to {score.high:.0%}; 50 % if it could "
        f"not tell them apart). What it teaches the generator is then noise: {ADVICE}."
    )


def _scores(model: Any, context: EvaluationContext, split: Split) -> Tensor:
    data = context.read(split)
    examples = model.examples(data.take(scored_rows(len(data), MOST_SCORED)))
    num = len(next(iter(examples.values())))
    with inference(model):
        scores = [
            model.critic_scores({k: rows[i : i + BATCH_SIZE] for k, rows in examples.items()})
            for i in range(0, num, BATCH_SIZE)
        ]
    return torch.cat(scores)
