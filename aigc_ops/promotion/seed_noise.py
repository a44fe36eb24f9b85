"""Seed noise: how far the score of a config varies from one training seed to another.

Two trainings of one config differ by more than their samples do. So a version may be
significantly better than the champion only because its seed was lucky.
"""

import math
from collections.abc import Sequence

from pydantic import Field

from aigc_ops.core.artifacts import Record
from aigc_ops.interfaces.evaluation import Paired
from aigc_ops.registry.trainings import Training
from aigc_ops.statistics.intervals import prediction_interval

MIN_TRAININGS = 5


class SeedNoise(Record):
    """What another seed of the champion's config would give, beside what the version gives."""

    trainings: tuple[Training, ...] = Field(
        description="Trainings of the champion's config and data, which differ by their seed."
    )
    value: float = Field(description="The version's primary score in the last analysis.")
    low: float | None = Field(
        description="Lower bound of one more training's score; None for fewer than two trainings."
    )
    high: float | None = Field(description="Upper bound of one more training's score.")
    level: float = Field(description="Confidence of each of the two bounds.")

    @property
    def is_known(self) -> bool:
        """Return whether there are enough trainings to decide by."""
        return len(self.trainings) >= MIN_TRAININGS

    @property
    def is_beyond(self) -> bool:
        """Return whether the version is better than another seed would be."""
        return self.low is not None and self.value < self.low

    @property
    def summary(self) -> str:
        """Return the comparison as a sentence."""
        num = len(self.trainings)
        known = f"{num} trainings" if num != 1 else "1 training"
        if not self.is_known:
            known = f"only {known}, {MIN_TRAININGS} are needed (train it with other seeds)"
        if self.low is None or self.high is None:
            return f"what another seed of the champion's config gives is not known: {known}"
        where = "beyond it" if self.is_beyond else "within it"
        if self.value > self.high:
            where = "beyond it, on the worse side"
        return (
            f"another seed of the champion's config gives {self.low:.5g} to {self.high:.5g} "
            f"(bounds at {self.level:.2%}, from {known}): this difference is {where}"
        )


def seed_noise(
    trainings: Sequence[Training], champion: int, paired: Paired, *, level: float
) -> SeedNoise:
    """Return what another seed of the champion's config would give in a comparison.

    The interval is that of one further training, each bound at `level`. The champion is one of the
    trainings, however lucky it was, so that its selection does not matter. The trainings' scores
    are taken relative to the champion's, because the comparison may use more samples.
    """
    bounds: tuple[float | None, float | None] = (None, None)
    own = next((each.value for each in trainings if each.version == champion), None)
    values = [each.value for each in trainings]
    # Distances vary by factors. A score that may be 0 or negative has none.
    if own is not None and len(values) > 1 and min(*values, paired.champion) > 0:
        low, high = prediction_interval([math.log(value / own) for value in values], level)
        bounds = (paired.champion * math.exp(low), paired.champion * math.exp(high))
    elif own is not None and len(values) > 1:
        low, high = prediction_interval([value - own for value in values], level)
        bounds = (paired.champion + low, paired.champion + high)
    return SeedNoise(
        trainings=tuple(trainings),
        value=paired.candidate,
        low=bounds[0],
        high=bounds[1],
        level=level,
    )
