"""The gate: promote, keep back or undecided, from paired evidence and guards.

A version is promoted when it is surely better than the champion, and kept back when it is
surely not better by what a change is worth, or surely worse in a guarded respect. What is not
sure is undecided: more samples are drawn, up to a budget, and then a person is asked. "Surely"
is one-sided at the config's false promotion rate, shared equally by all looks (Bonferroni), so
looking again does not raise the rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from aigc_ops.core.artifacts import Noun, Score, Scores, contract_differences
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.evaluation import Paired
from aigc_ops.promotion.config import PromotionConfig

Outcome = Literal["promote", "keep", "undecided"]


class GuardResult(Noun):
    """One respect in which a version must not be worse than the champion, and whether it is."""

    name: str
    candidate: float | None
    champion: float | None
    worse: float = Field(default=0, description="By how much it is worse; below 0 it is better.")
    low: float = 0
    high: float = 0
    limit: float
    setting: str = Field(description="Dotted name in the promotion's config that holds the limit.")
    unequal: str | None = Field(default=None, description="Why the two cannot be compared.")

    @property
    def state(self) -> Literal["holds", "fails", "unsure"]:
        """Return whether the result is surely within the limit, surely beyond it, or neither."""
        if self.unequal:
            return "unsure"
        if self.high <= self.limit:
            return "holds"
        return "fails" if self.low > self.limit else "unsure"

    @property
    def summary(self) -> str:
        """Return the finding in a sentence."""
        if self.unequal:
            return f"{self.name} cannot be compared ({self.unequal}): {self.state}"
        return (
            f"{self.name} {self.candidate:.4g} against {self.champion:.4g}: worse by "
            f"{self.worse:.3g} ({self.low:.3g} to {self.high:.3g}), at most {self.limit:g} is "
            f"allowed (promotion.{self.setting}): {self.state}"
        )


class Ruling(Noun):
    """What the gate says, with its reasons in plain words."""

    outcome: Outcome
    reasons: tuple[str, ...]
    guards: tuple[GuardResult, ...] = ()
    looks: int = 1
    num: int | None = Field(default=None, description="Samples of each of the two at this look.")


@dataclass(frozen=True)
class Costs:
    """What a version takes to serve, against the champion."""

    slowdown: float
    """Time for a sample over the champion's."""
    growth: float
    """Bytes of weights over the champion's."""


def num_looks(first: int, config: PromotionConfig) -> int:
    """Return how often the pair may be looked at, the number of samples doubling each time."""
    return 1 + max(0, math.floor(math.log2(max(1.0, config.max_samples / first))))


def judge(
    paired: Paired,
    guards: Sequence[GuardResult],
    config: PromotionConfig,
    *,
    look: int = 1,
    looks: int = 1,
) -> Ruling:
    """Return what the evidence of one look says."""
    level = 1 - config.false_promotion_rate / looks
    low, high = paired.bounds(level)
    worth = config.min_improvement * abs(paired.champion)
    against = (
        f"{paired.metric} {paired.candidate:.5g} against the champion's {paired.champion:.5g}, "
        f"lower is better: difference {paired.difference:.3g} ({low:.3g} to {high:.3g}, each bound "
        f"sure at {level:.2%}; n = {paired.num} of each)"
    )
    outcome: Outcome
    if low > -worth:
        outcome = "keep"
        said = (
            f"surely not better by {worth:.3g}, the {config.min_improvement:.0%} that a change "
            "is worth"
        )
    elif high < 0:
        outcome, said = "promote", "surely better"
    else:
        outcome, said = "undecided", "it may be better or not"
    reasons = [f"{against}: {said}"]
    failed = [guard for guard in guards if guard.state == "fails"]
    unsure = [guard for guard in guards if guard.state == "unsure"]
    if failed:
        outcome = "keep"
        reasons += [guard.summary for guard in failed]
    elif outcome == "promote" and unsure:
        outcome = "undecided"
        reasons += [guard.summary for guard in unsure]
    return Ruling(
        outcome=outcome, reasons=tuple(reasons), guards=tuple(guards), looks=look, num=paired.num
    )


def guards_of(
    candidate: Scores, champion: Scores, costs: Costs, config: PromotionConfig
) -> list[GuardResult]:
    """Return every guard of which a version has a score; unsure where the two do not compare."""
    results = []
    for name, guard in find_modality(candidate.modality).guards.items():
        ours, theirs = candidate.values.get(name), champion.values.get(name)
        limit, setting = getattr(config.guards, name), f"guards.{name}"
        if reason := unequal(name, candidate, champion):
            results.append(
                GuardResult(
                    name=name,
                    candidate=ours.value if ours else None,
                    champion=theirs.value if theirs else None,
                    limit=limit,
                    setting=setting,
                    unequal=reason,
                )
            )
        elif ours and theirs:
            worse, low, high = _worse_by(ours, theirs, higher_is_better=guard.higher_is_better)
            results.append(
                GuardResult(
                    name=name,
                    candidate=ours.value,
                    champion=theirs.value,
                    worse=worse,
                    low=low,
                    high=high,
                    limit=limit,
                    setting=setting,
                )
            )
    return [
        *results,
        _ratio("time to draw", costs.slowdown, "max_slowdown", config),
        _ratio("bytes of weights", costs.growth, "max_growth", config),
    ]


def unequal(name: str, candidate: Scores, champion: Scores) -> str | None:
    """Return why a score of two versions does not compare; None if it does, or neither has it."""
    ours, theirs = candidate.values.get(name), champion.values.get(name)
    if ours and theirs:
        terms = contract_differences(ours, theirs)
        return f"the contracts differ in {', '.join(terms)}" if terms else None
    if ours or theirs:
        return f"the {'champion' if ours else 'version'} has no such score"
    return None


def _worse_by(
    candidate: Score, champion: Score, *, higher_is_better: bool
) -> tuple[float, float, float]:
    """Return by how much a score is worse, with an interval from the two scores' own.

    The interval is MOVER's (Zou & Donner 2008): wide enough for scores that are independent,
    and too wide, never too narrow, for these, which share their reference.
    """
    first, second = (champion, candidate) if higher_is_better else (candidate, champion)
    worse = first.value - second.value
    low = worse - math.hypot(first.value - first.low, second.high - second.value)
    high = worse + math.hypot(first.high - first.value, second.value - second.low)
    return worse, low, high


def _ratio(name: str, times: float, setting: str, config: PromotionConfig) -> GuardResult:
    return GuardResult(
        name=f"{name}, times the champion's",
        candidate=times,
        champion=1.0,
        worse=times,
        low=times,
        high=times,
        limit=getattr(config, setting),
        setting=setting,
    )
