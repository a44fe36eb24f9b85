"""Pixels of the trivial baseline have the mean and spread of the training images' pixels."""

import numpy as np
import pytest
import torch

from aigc_ops.core.artifacts import ImageShape
from aigc_ops.modalities.image.metrics.baseline import PixelGaussian
from aigc_ops.modalities.image.model import ImageData

SHAPE = ImageShape(channels=1, height=4, width=4, class_names=("dark", "light"))


def images(labels: torch.Tensor | None) -> ImageData:
    """Dark images with a spread of 2 levels, and half as many light ones with one of 20."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(3000, 1, 4, 4, generator=generator)
    dark, light = 40 + 2 * noise[:2000], 180 + 20 * noise[2000:]
    return ImageData(torch.cat([dark, light]).round().to(torch.uint8), labels, SHAPE)


def test_each_class_has_its_own_gaussian_and_its_share() -> None:
    labels = torch.tensor([0] * 2000 + [1] * 1000)
    drawn = PixelGaussian(images(labels)).sample(np.arange(3000), seed=1).double()
    light = drawn.mean(dim=(1, 2, 3)) > 100
    assert light.double().mean() == pytest.approx(1 / 3, abs=0.03)
    assert drawn[~light].mean() == pytest.approx(40, abs=0.2)
    assert drawn[~light].std() == pytest.approx(2, abs=0.1)
    assert drawn[light].mean() == pytest.approx(180, abs=1)
    assert drawn[light].std() == pytest.approx(20, abs=0.5)


def test_without_classes_there_is_one_gaussian() -> None:
    drawn = PixelGaussian(images(None)).sample(np.arange(2000), seed=1).double()
    assert drawn.mean(dim=(1, 2, 3)).std() < 30  # between both, not one of them
    assert drawn.mean() == pytest.approx(images(None).images.double().mean(), abs=4)


def test_an_image_is_the_same_in_any_block_and_another_by_another_seed() -> None:
    baseline = PixelGaussian(images(None))
    whole = baseline.sample(np.arange(10), seed=1)
    assert torch.equal(whole[4:6], baseline.sample(np.arange(4, 6), seed=1))
    assert not torch.equal(whole, baseline.sample(np.arange(10), seed=2))
