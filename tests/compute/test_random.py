"""Noise that does not depend on who draws it."""

import pytest
import torch

from aigc_ops.compute.random import Noise, ReplayedNoise, derive_seed
from aigc_ops.core.errors import ModelError


def draws(noise: Noise) -> list[torch.Tensor]:
    return [noise.normal(3), noise.uniform(2, 2), noise.integers(7), noise.normal(3)]


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_of_a_batch_meet_the_noise_of_the_whole(parts: int) -> None:
    whole = draws(Noise(5, 2, batch_size=8))
    size = 8 // parts
    rows = [slice(start, start + size) for start in range(0, 8, size)]
    apart = [draws(Noise(5, 2, rows=each, batch_size=8)) for each in rows]
    for index, expected in enumerate(whole):
        assert torch.equal(torch.cat([part[index] for part in apart]), expected)


def test_draws_steps_and_seeds_differ_and_repeat() -> None:
    first, _, _, fourth = draws(Noise(5, 2, batch_size=8))
    assert not torch.equal(first, fourth)
    for seed, step in ((5, 3), (6, 2)):
        assert not torch.equal(Noise(seed, step, batch_size=8).normal(3), first)
    assert torch.equal(Noise(5, 2, batch_size=8).normal(3), first)


def test_mixed_numbers_fit_a_seed_and_never_meet() -> None:
    found = {derive_seed(a, b) for a in range(100) for b in range(100)}
    assert len(found) == 10_000
    assert all(0 <= number < 2**63 for number in found)
    assert derive_seed(1, 2) != derive_seed(2, 1)


def all_kinds(noise: Noise) -> list[torch.Tensor]:
    return [noise.normal(2), noise.uniform(1), noise.integers(9, 3), noise.ramp(4)]


def test_replayed_noise_is_that_of_the_step_it_is_drawn_as() -> None:
    rows = slice(1, 3)
    first = Noise(3, 0, rows=rows, batch_size=4)
    all_kinds(first)
    fixed = ReplayedNoise(first)
    given = all_kinds(fixed)
    for step in (1, 7):
        fixed.refill(Noise(3, step, rows=rows, batch_size=4))
        expected = all_kinds(Noise(3, step, rows=rows, batch_size=4))
        for kind in (0, 1, 3):  # views of the memory that is filled anew; integers are copies
            assert torch.equal(given[kind], expected[kind])
    with pytest.raises(ModelError, match=r"use noise\.ramp"):
        _ = fixed.step
    for draw in (lambda: fixed.normal(2), lambda: ReplayedNoise(first).normal(3)):
        with pytest.raises(ModelError, match="differ in shape or number from the step before"):
            draw()


def test_a_ramp_ends_at_one() -> None:
    values = [Noise(0, step, batch_size=1).ramp(4).item() for step in range(6)]
    assert values == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
