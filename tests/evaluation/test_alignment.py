"""Copies are found wherever they were moved to; what is merely alike is not nearer."""

import pytest
import torch

from aigc_ops.modalities.image.metrics.alignment import nearest_aligned
from aigc_ops.modalities.image.metrics.alterations import ALTERATIONS, altered

FAINT = {"blurred", "crop of 80 %"}


def pictures(num: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Smooth random pictures, uint8."""
    generator = torch.Generator().manual_seed(channels)
    coarse = torch.rand(num, channels, 6, 6, generator=generator)
    grown = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (255 * grown.clamp(0, 1)).to(torch.uint8)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 48, 64)], ids=str)
@pytest.mark.parametrize("name", sorted(set(ALTERATIONS) - FAINT))
def test_the_source_of_an_altered_copy_is_found(shape: tuple[int, int, int], name: str) -> None:
    train = pictures(200, *shape)
    found = nearest_aligned(altered(train[50:70], name), train)
    right = found.index == torch.arange(50, 70)
    assert right.float().mean() >= 0.9
    assert found.closeness[right].median() < 0.5


def test_other_pictures_are_near_none() -> None:
    both = pictures(240, 3, 32, 32)
    found = nearest_aligned(both[200:], both[:200])
    assert found.closeness.median() > 0.7
    assert torch.isfinite(found.closeness).all()


@pytest.mark.parametrize("side", [2, 3, 4, 8])
def test_tiny_and_flat_pictures_are_compared_too(side: int) -> None:
    train = pictures(40, 1, side, side)
    train[:5] = 255
    found = nearest_aligned(train[:10], train)
    assert torch.isfinite(found.closeness).all()


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_alteration_is_the_same_each_time_and_leaves_the_shape(name: str) -> None:
    images = pictures(7, 3, 20, 24)
    first = altered(images, name)
    assert first.shape == images.shape
    assert first.dtype == torch.uint8
    assert torch.equal(first, altered(images, name))
    assert not torch.equal(first, images)
