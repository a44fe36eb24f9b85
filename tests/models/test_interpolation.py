"""Paths between latent codes."""

import pytest
import torch

from aigc_ops.models.nn.interpolation import slerp


def codes(*seeds: int, width: int = 16) -> list[torch.Tensor]:
    return [torch.randn(width, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


@pytest.mark.parametrize("num", [2, 3, 9])
def test_a_path_begins_and_ends_exactly_at_its_codes(num: int) -> None:
    start, end = codes(0, 1)
    path = slerp(start, end, num)
    assert path.shape == (num, 16)
    assert torch.equal(path[0], start)
    assert torch.equal(path[-1], end)


def test_codes_of_one_length_keep_it_and_advance_by_equal_angles() -> None:
    start, end = (code / code.norm() for code in codes(0, 1))
    path = slerp(start, end, 9)
    assert torch.allclose(path.norm(dim=1), torch.ones(9), atol=1e-5)
    assert (torch.lerp(start, end, 0.5).norm() < 0.9).item()  # as the straight line does not
    cosines = (path[:-1] * path[1:]).sum(dim=1)
    assert torch.allclose(cosines, cosines[:1].expand(8), atol=1e-5)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_codes_without_a_plane_are_joined_by_a_straight_line(factor: float) -> None:
    [start] = codes(0)
    path = slerp(start, factor * start, 5)
    assert torch.allclose(path[2], start * (1 + factor) / 2, atol=1e-6)


def test_one_dimension_has_only_the_straight_line() -> None:
    path = slerp(torch.tensor([1.0]), torch.tensor([3.0]), 3)
    assert path[:, 0].tolist() == [1, 2, 3]
