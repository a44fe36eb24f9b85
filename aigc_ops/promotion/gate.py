"""The gate: decides promote, keep or undecided from a paired comparison and guards.

promote: the version is significantly better than the champion. keep: the champion stays, because
the improvement is significantly below the minimum, or a guarded score is significantly worse.
undecided: neither; the comparison is repeated with more samples, and at the maximum a person
decides. Tests are one-sided at the config's false promotion rate, divided by the number of interim
analyses (Bonferroni), so that repeated analyses do not raise the rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from aigc_ops.core.artifacts import Record, Score, Scores, contract_differences
from aigc_ops.evaluation.paired import SamplingCosts
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.evaluation import Paired
from aigc_ops.promotion.config import PromotionConfig
from aigc_ops.promotion.seed_noise import SeedNoise

Outcome = Literal["promote", "keep", "undecided"]


class GuardResult(Record):
    """A guarded score or cost of a version against the champion's, and its limit."""

    name: str
    candidate: float | None
    champion: float | None
    worse: float = Field(
        default=0, description="Amount by which the version is worse; negative: it is better."
    )
    low: float = 0
    high: float = 0
    limit: float
    setting: str = Field(description="Dotted name of the limit in the config's `promotion`.")
    unequal: str | None = Field(
        default=None, description="Why the two are not comparable; None if they are."
    )

    @property
    def state(self) -> Literal["holds", "fails", "unsure"]:
        """Return holds, fails, or unsure where the interval contains the limit."""
        # Values under different evaluation conditions prove nothing in either direction.
        if self.unequal:
            return "unsure"
        if self.high <= self.limit:
            return "holds"
        return "fails" if self.low > self.limit else "unsure"

    @property
    def summary(self) -> str:
        """Return the result as a sentence."""
        if self.unequal:
            return f"{self.name} cannot be compared ({self.unequal}): {self.state}"
        return (
            f"{self.name} {self.candidate:.4g} against {self.champion:.4g}: worse by "
            f"{self.worse:.3g} ({self.low:.3g} to {self.high:.3g}), at most {self.limit:g} is "
            f"allowed (promotion.{self.setting}): {self.state}"
        )


class Ruling(Record):
    """The gate's outcome, with its reasons."""

    outcome: Outcome
    reasons: tuple[str, ...]
    guards: tuple[GuardResult, ...] = ()
    not_worse: bool = Field(
        default=False,
        description="Whether the version is significantly not worse than the champion by the "
        "minimum improvement, and no guard fails.",
    )
    looks: int = 1
    num: int | None = Field(
        default=None, description="Samples per model in the last interim analysis."
    )
    seed_noise: SeedNoise | None = Field(
        default=None, description="What another seed of the champion's config would give."
    )


@dataclass(frozen=True)
class Costs:
    """Costs of serving a version, relative to the champion."""

    sampling: SamplingCosts
    growth: float
    """Bytes of weights, divided by the champion's."""


def num_looks(first: int, config: PromotionConfig) -> int:
    """Return the maximum number of interim analyses; the number of samples doubles each time."""
    # Fixed before the first analysis: Bonferroni's division needs the number that may happen, not
    # the number that did.
    return 1 + max(0, math.floor(math.log2(max(1.0, config.max_samples / first))))


def judge(
    paired: Paired,
    guards: Sequence[GuardResult],
    config: PromotionConfig,
    *,
    look: int = 1,
    looks: int = 1,
) -> Ruling:
    """Return the gate's ruling on the evidence of one interim analysis."""
    # 1. Confidence bounds, each one-sided: a test of level alpha / looks per analysis keeps the
    #    family-wise error at alpha (Bonferroni), however the analyses depend on one another.
    level = 1 - config.false_promotion_rate / looks
    low, high = paired.bounds(level)
    worth = config.min_improvement * abs(paired.champion)
    against = (
        f"{paired.metric} {paired.candidate:.5g} against the champion's {paired.champion:.5g}, "
        f"lower is better: difference {paired.difference:.3g} ({low:.3g} to {high:.3g}, one-sided "
        f"bounds at {level:.2%}; n = {paired.num} each)"
    )
    # 2. The primary score. A negative difference is an improvement. The test for `keep` is first:
    #    a version may be significantly better and still significantly below the minimum.
    outcome: Outcome
    if low > -worth:
        outcome = "keep"
        verdict = (
            f"improvement significantly below {worth:.3g}, the minimum of "
            f"{config.min_improvement:.0%}"
        )
    elif high < 0:
        outcome, verdict = "promote", "significantly better"
    else:
        outcome, verdict = "undecided", "the interval allows both outcomes"
    reasons = [f"{against}: {verdict}"]
    # 3. Guards can only lower the outcome: a failed one rejects, an unsure one blocks a promotion.
    #    An unsure guard does not matter to a version that is rejected anyway.
    failed = [guard for guard in guards if guard.state == "fails"]
    unsure = [guard for guard in guards if guard.state == "unsure"]
    if failed:
        outcome = "keep"
        reasons += [guard.summary for guard in failed]
    elif outcome == "promote" and unsure:
        outcome = "undecided"
        reasons += [guard.summary for guard in unsure]
    return Ruling(
        outcome=outcome,
        reasons=tuple(reasons),
        guards=tuple(guards),
        not_worse=high < worth and not failed,
        looks=look,
        num=paired.num,
    )


def with_seed_noise(ruling: Ruling, noise: SeedNoise, config: PromotionConfig) -> Ruling:
    """Return the ruling with what another seed of the champion's config would give.

    Where the policy is `seed_noise`, a version that is no better than that is not promoted.
    """
    update: dict[str, object] = {"seed_noise": noise}
    needed = config.better_than == "seed_noise" and ruling.outcome != "keep"
    if not needed or (noise.is_known and noise.is_beyond):
        return ruling.model_copy(update={**update, "reasons": (*ruling.reasons, noise.summary)})
    if noise.is_known:
        update["outcome"] = "keep"
        first = f"{noise.summary} (promotion.better_than is seed_noise)"
    else:
        update["outcome"] = "undecided"
        first = f"{noise.summary}; a person decides (promotion.better_than is seed_noise)"
    return ruling.model_copy(update={**update, "reasons": (first, *ruling.reasons)})


def guards_of(
    candidate: Scores, champion: Scores, costs: Costs, config: PromotionConfig
) -> list[GuardResult]:
    """Return the results of all guards with a score; `unsure` where the two are not comparable."""
    results = []
    for name, guard in find_modality(candidate.modality).guards.items():
        score, reference = candidate.values.get(name), champion.values.get(name)
        limit, setting = getattr(config.guards, name), f"guards.{name}"
        # A guard that neither version was measured on, such as labels of unlabelled data, is not
        # listed. One that only one of them lacks is `unsure`.
        if reason := unequal(name, candidate, champion):
            results.append(
                GuardResult(
                    name=name,
                    candidate=score.value if score else None,
                    champion=reference.value if reference else None,
                    limit=limit,
                    setting=setting,
                    unequal=reason,
                )
            )
        elif score and reference:
            worse, low, high = _worse_by(score, reference, higher_is_better=guard.higher_is_better)
            results.append(
                GuardResult(
                    name=name,
                    candidate=score.value,
                    champion=reference.value,
                    worse=worse,
                    low=low,
                    high=high,
                    limit=limit,
                    setting=setting,
                )
            )
    return [
        *results,
        time_guard(costs.sampling, config),
        _size_guard(costs.growth, config),
    ]


def unequal(name: str, candidate: Scores, champion: Scores) -> str | None:
    """Return why two versions' scores are not comparable; None if they are, or neither has one."""
    score, reference = candidate.values.get(name), champion.values.get(name)
    if score and reference:
        terms = contract_differences(score, reference)
        return f"the evaluation conditions differ in {', '.join(terms)}" if terms else None
    if score or reference:
        return f"the {'champion' if score else 'version'} has no such score"
    return None


def _worse_by(
    candidate: Score, champion: Score, *, higher_is_better: bool
) -> tuple[float, float, float]:
    """Return by how much a score is worse, and the interval of that difference.

    The interval is MOVER's (Zou & Donner 2008), which combines two intervals into that of their
    difference.
    """
    first, second = (champion, candidate) if higher_is_better else (candidate, champion)
    worse = first.value - second.value
    # MOVER assumes independent scores. These share their reference data, so they correlate
    # positively: the interval is too wide here, never too narrow.
    low = worse - math.hypot(first.value - first.low, second.high - second.value)
    high = worse + math.hypot(first.high - first.value, second.value - second.low)
    return worse, low, high


def time_guard(costs: SamplingCosts, config: PromotionConfig) -> GuardResult:
    """Return the result of the guard of the sampling time."""
    counted = "" if costs.operations is None else f" ({costs.operations:.3g} times the operations)"
    return GuardResult(
        name=f"sampling time{counted}, times the champion's",
        candidate=costs.slowdown,
        champion=1.0,
        worse=costs.slowdown,
        low=costs.low,
        high=costs.high,
        limit=config.max_slowdown,
        setting="max_slowdown",
    )


def _size_guard(growth: float, config: PromotionConfig) -> GuardResult:
    # Exact, so it has no interval.
    return GuardResult(
        name="bytes of weights, times the champion's",
        candidate=growth,
        champion=1.0,
        worse=growth,
        low=growth,
        high=growth,
        limit=config.max_growth,
        setting="max_growth",
    )
