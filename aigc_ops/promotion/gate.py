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

from aigc_ops.artifacts import Noun, Score, Scores, contract_differences
from aigc_ops.evaluation.paired import Paired
from aigc_ops.promotion.config import PromotionConfig

Outcome = Literal["promote", "keep", "undecided"]

HIGHER, LOWER = 1, -1
GUARDED = {
    "coverage": (HIGHER, "max_coverage_loss"),
    "label_agreement": (HIGHER, "max_agreement_loss"),
    "class_spread": (HIGHER, "max_spread_loss"),
    "near_duplicates": (LOWER, "max_duplicates_gain"),
    "repetition_4": (LOWER, "max_repetition_gain"),
    "general_bits_per_byte": (LOWER, "max_forgetting"),
}
"""Scores that must not get worse: which way is better, and the setting that says by how much."""


class Guard(Noun):
    """One respect in which a version must not be worse than the champion."""

    name: str
    candidate: float | None
    champion: float | None
    worse: float = Field(default=0, description="By how much it is worse; below 0 it is better.")
    low: float = 0
    high: float = 0
    limit: float
    setting: str = Field(description="The config's field that holds the limit.")
    unequal: str | None = Field(default=None, description="Why the two cannot be compared.")

    @property
    def state(self) -> Literal["holds", "fails", "unsure"]:
        """Surely within the limit, surely beyond it, or neither."""
        if self.unequal:
            return "unsure"
        if self.high <= self.limit:
            return "holds"
        return "fails" if self.low > self.limit else "unsure"

    @property
    def told(self) -> str:
        """The finding in a sentence."""
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
    guards: tuple[Guard, ...] = ()
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
    """How often the pair may be looked at, the number of samples doubling each time."""
    return 1 + max(0, math.floor(math.log2(max(1.0, config.max_samples / first))))


def judge(
    paired: Paired,
    guards: Sequence[Guard],
    config: PromotionConfig,
    *,
    look: int = 1,
    looks: int = 1,
) -> Ruling:
    """What the evidence of one look says."""
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
        reasons += [guard.told for guard in failed]
    elif outcome == "promote" and unsure:
        outcome = "undecided"
        reasons += [guard.told for guard in unsure]
    return Ruling(
        outcome=outcome, reasons=tuple(reasons), guards=tuple(guards), looks=look, num=paired.num
    )


def guards_of(mine: Scores, theirs: Scores, costs: Costs, config: PromotionConfig) -> list[Guard]:
    """Every guard of which one of the versions has a score; unsure where they do not compare."""
    found = []
    for name, (direction, setting) in GUARDED.items():
        here, there = mine.values.get(name), theirs.values.get(name)
        if why := unequal(name, mine, theirs):
            found.append(
                Guard(
                    name=name,
                    candidate=here.value if here else None,
                    champion=there.value if there else None,
                    limit=getattr(config, setting),
                    setting=setting,
                    unequal=why,
                )
            )
        elif here and there:
            found.append(_guard(name, here, there, direction, setting, config))
    return [
        *found,
        _ratio("time to draw", costs.slowdown, "max_slowdown", config),
        _ratio("bytes of weights", costs.growth, "max_growth", config),
    ]


def unequal(name: str, mine: Scores, theirs: Scores) -> str | None:
    """Why a score does not compare between two versions; None where it does or neither has it."""
    here, there = mine.values.get(name), theirs.values.get(name)
    if here and there:
        terms = contract_differences(here, there)
        return f"the contracts differ in {', '.join(terms)}" if terms else None
    if here or there:
        return f"the {'champion' if here else 'version'} has no such score"
    return None


def _guard(
    name: str, mine: Score, theirs: Score, direction: int, setting: str, config: PromotionConfig
) -> Guard:
    """By how much a score is worse, with an interval from the two scores' own.

    The interval is MOVER's (Zou & Donner 2008): wide enough for scores that are independent,
    and too wide, never too narrow, for these, which share their reference.
    """
    worse = direction * (theirs.value - mine.value)
    up = (theirs, mine) if direction == HIGHER else (mine, theirs)
    first, second = up
    low = worse - math.hypot(first.value - first.low, second.high - second.value)
    high = worse + math.hypot(first.high - first.value, second.value - second.low)
    return Guard(
        name=name,
        candidate=mine.value,
        champion=theirs.value,
        worse=worse,
        low=low,
        high=high,
        limit=getattr(config, setting),
        setting=setting,
    )


def _ratio(name: str, times: float, setting: str, config: PromotionConfig) -> Guard:
    return Guard(
        name=f"{name}, times the champion's",
        candidate=times,
        champion=1.0,
        worse=times,
        low=times,
        high=times,
        limit=getattr(config, setting),
        setting=setting,
    )
