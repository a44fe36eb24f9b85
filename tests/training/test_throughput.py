"""Throughput: the rate of the last seconds, without warm-up and pauses."""

import time

import pytest

from aigc_ops.training.throughput import Rate


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def _count(rate: Rate, clock: Clock, *, steps: int, seconds: float) -> None:
    for _ in range(steps):
        clock.seconds += seconds
        rate.count(8)


def test_a_change_of_speed_is_shown_within_seconds(clock: Clock) -> None:
    rate = Rate(warmup_steps=0)
    _count(rate, clock, steps=10_000, seconds=0.1)
    assert rate.value == pytest.approx(80)
    _count(rate, clock, steps=11, seconds=1)
    assert rate.value == pytest.approx(8)


def test_warmup_and_pauses_are_left_out(clock: Clock) -> None:
    rate = Rate(warmup_steps=2)
    _count(rate, clock, steps=2, seconds=30)
    assert rate.value is None
    _count(rate, clock, steps=4, seconds=0.5)
    with rate.paused():
        clock.seconds += 100
    assert rate.value == pytest.approx(16)
    _count(rate, clock, steps=4, seconds=0.5)
    assert rate.value == pytest.approx(16)


def test_a_step_longer_than_the_period_counts(clock: Clock) -> None:
    rate = Rate(warmup_steps=0)
    _count(rate, clock, steps=3, seconds=60)
    assert rate.value == pytest.approx(8 / 60)
