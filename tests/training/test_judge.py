"""Figures of samples during training: laws on data whose answers are known."""

import math

import pytest
import torch

from aigc_ops.modalities.image.model import ImageData
from aigc_ops.modalities.image.monitor import SampleFigures, SampleMonitor
from aigc_ops.models.gan import Gan, GanConfig
from tests.conftest import striped_digits

REAL = striped_digits(400)
LABELS = [index % 2 for index in range(200)]


def figures(samples):
    found = SampleFigures(REAL, LABELS).compare(samples)
    return {name.removeprefix("samples/"): value for name, value in found.items()}


def test_real_images_are_covered_varied_and_at_no_distance():
    others = striped_digits(600)
    found = figures(others.images[400:600])
    assert found["coverage"] > 0.6
    assert found["duplicates"] < 0.05
    assert abs(found["energy_distance"]) < 0.01
    assert found["class_spread"] == pytest.approx(1.0, abs=0.05)


def test_one_image_repeated_is_all_duplicates_and_covers_next_to_nothing():
    found = figures(REAL.images[:1].expand(200, -1, -1, -1))
    assert found["duplicates"] == 1
    assert found["coverage"] < 0.05
    assert found["class_spread"] == 0
    assert found["energy_distance"] > 0.3


def test_one_image_a_class_shows_within_the_classes():
    found = figures(REAL.images[:2].repeat(100, 1, 1, 1))
    assert found["class_spread"] == 0
    half = torch.cat([REAL.images[:2].repeat(50, 1, 1, 1), REAL.images[:100]])
    assert 0 < figures(half)["class_spread"] < 0.9


@pytest.mark.parametrize("num", [2, 10, 40, 60, 120])
def test_a_model_that_knows_few_images_by_heart_is_no_collapsed_one(num):
    found = SampleFigures(REAL.take(torch.arange(num)), LABELS)
    known = REAL.images[torch.randint(num, (200,), generator=torch.Generator().manual_seed(1))]
    figures = found.compare(known)
    assert not [alarm for alarm in Gan.alarms if alarm.is_triggered(figures)]
    collapsed = found.compare(REAL.images[:2].repeat(100, 1, 1, 1))
    # Of two images, these two are all that there is to know.
    assert any(alarm.is_triggered(collapsed) for alarm in Gan.alarms) == (num > 2)


def test_noise_covers_nothing_though_it_is_varied():
    noise = torch.randint(0, 256, (200, 1, 8, 8), generator=torch.Generator().manual_seed(1))
    found = figures(noise.to(torch.uint8))
    assert found["coverage"] == 0
    assert found["energy_distance"] > 0.3


def test_data_without_classes_is_judged_as_one():
    data = ImageData(REAL.images, None, REAL.shape.model_copy(update={"class_names": ()}))
    found = SampleFigures(data, [None] * 200).compare(striped_digits(600).images[400:])
    assert found["samples/class_spread"] == pytest.approx(1.0, abs=0.05)


def test_one_image_a_class_shows_where_each_class_has_hardly_two():
    data = striped_digits(600)
    shape = data.shape.model_copy(update={"class_names": tuple(map(str, range(300)))})
    data = ImageData(data.images, torch.arange(600) % 300, shape)
    known = SampleFigures(data, [*range(200), *range(100)])
    alike = torch.cat([data.images[:200], data.images[:100]])
    assert known.compare(alike)["samples/class_spread"] == 0
    varied = torch.cat([data.images[:200], data.images[300:400]])
    assert known.compare(varied)["samples/class_spread"] == pytest.approx(1.0, abs=0.2)


def test_a_single_image_is_nothing_to_be_compared_with():
    data = ImageData(REAL.images[:1], None, REAL.shape.model_copy(update={"class_names": ()}))
    assert SampleFigures(data, [None] * 4).compare(REAL.images[:4]) == {}


def test_two_images_are_enough_to_be_compared_with():
    data = ImageData(REAL.images[:2], None, REAL.shape.model_copy(update={"class_names": ()}))
    found = SampleFigures(data, [None] * 4).compare(REAL.images[:4])
    assert found
    assert all(math.isfinite(value) for value in found.values())


def test_the_judge_draws_each_of_many_classes_twice():
    data = striped_digits(600)
    shape = data.shape.model_copy(update={"class_names": tuple(map(str, range(300)))})
    data = ImageData(data.images, torch.arange(600) % 300, shape)
    model = Gan(GanConfig(latent_dim=4, generator_width=4, critic_width=4), shape).eval()
    for parameter in model.generator.parameters():
        parameter.requires_grad_(False).zero_()
    assert SampleMonitor(data)(model)["samples/class_spread"] == 0


def test_a_class_of_equal_images_is_no_collapse():
    blank = REAL.images.clone()
    blank[REAL.labels == 0] = 0
    found = SampleFigures(ImageData(blank, REAL.labels, REAL.shape), LABELS).compare(blank[:200])
    assert found["samples/class_spread"] > 0.5
