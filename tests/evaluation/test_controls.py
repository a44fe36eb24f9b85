"""What is said of controls, on a model whose controls are known to work or to do nothing."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import ImageShape
from aigc_ops.interfaces.model import FamilyConfig, Loss
from aigc_ops.interfaces.request import Control, SampleRequest
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.metrics.controls import (
    NUM_ROWS,
    NUM_STEPS,
    TITLE_HEIGHT,
    VALUES_HEIGHT,
    ControlsReport,
    evaluate_controls,
    steps,
)
from aigc_ops.modalities.image.model import ImageModel
from tests.evaluation.conftest import image_extractor

SHAPE = ImageShape(channels=1, height=16, width=16, class_names=("left", "right"))
CONTROLS = {
    "light": Control(10.0, 200.0, "Brightness of the pattern."),
    "pattern": Control(0, 3, "All, half, columns or a chessboard.", is_integer=True),
    "count": Control(1, 40, "Brightness again, in whole numbers.", is_integer=True),
    "idle": Control(-1.0, 1.0, "Nothing."),
    "idle_pattern": Control(0, 3, "Nothing.", is_integer=True),
}
ROWS, COLUMNS = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
PATTERNS = [ROWS >= 0, ROWS >= 8, COLUMNS // 2 % 2 == 0, (ROWS // 4 + COLUMNS // 4) % 2 == 0]


class Lamp(ImageModel):
    """A lit pattern in noise; some of its controls move nothing."""

    def __init__(self, controls: Mapping[str, Control] = CONTROLS) -> None:
        super().__init__(FamilyConfig(family="lamp"), SHAPE)
        self._controls = controls

    def controls(self) -> Mapping[str, Control]:
        return self._controls

    def parts(self) -> dict[str, nn.Module]:
        raise NotImplementedError

    def optimizer(self, part: str) -> torch.optim.Optimizer:
        raise NotImplementedError

    def losses(self, batch: dict[str, Tensor], noise: Noise) -> Iterator[Loss]:
        raise NotImplementedError

    def sample(self, requests: Sequence[SampleRequest]) -> Tensor:
        return torch.stack([self._image(request) for request in requests])

    def _image(self, request: SampleRequest) -> Tensor:
        image = torch.randint(0, 40, (1, 16, 16), generator=request.generator())
        light = request.controls.get("light", 5 * request.controls.get("count", 24))
        image[0, PATTERNS[int(request.controls.get("pattern", 0))]] += int(light)
        return image.to(torch.uint8)


@pytest.fixture(scope="module")
def small_extractor() -> Extractor:
    """EfficientNet-Lite0 on small inputs, to be quick."""
    return image_extractor(input_size=32, precision="fp32")


@pytest.fixture(scope="module")
def report(small_extractor: Extractor) -> ControlsReport:
    found = evaluate_controls(Lamp(), small_extractor, num_controls=9, num_samples=2000, seed=0)
    assert found is not None
    return found[0]


def test_controls_that_move_the_picture_have_information_and_idle_ones_have_none(
    report: ControlsReport,
) -> None:
    found = report.controls
    assert found["light"].nats > 0.4
    assert found["count"].nats > 0.4
    assert 1.2 < found["pattern"].nats <= math.log(4)
    for name in ("idle", "idle_pattern"):
        assert found[name].nats < 0.05, name
    for each in found.values():
        assert each.shuffled_nats < 0.1


def test_the_report_says_of_what_it_was_made(report: ControlsReport) -> None:
    assert report.num_samples == 256
    assert report.extractor.input_size == 32
    assert report.controls["pattern"].most_nats == pytest.approx(math.log(4))
    assert report.controls["light"].most_nats is None
    assert report.controls["count"].most_nats is None  # too many values to be told apart
    assert report.metrics().keys() == {f"controls/{name}/nats" for name in CONTROLS}
    assert "lower bound" in json.loads(report.model_dump_json())["means"]


def test_the_report_is_the_same_again_and_another_by_another_seed(
    small_extractor: Extractor,
) -> None:
    def nats(seed: int) -> float:
        found = evaluate_controls(Lamp(), small_extractor, num_controls=1, num_samples=2, seed=seed)
        assert found is not None
        assert found[0].num_samples == 16
        return found[0].controls["light"].nats

    assert nats(0) == nats(0) != nats(1)


def test_controls_beyond_the_first_ones_asked_for_are_named(small_extractor: Extractor) -> None:
    found = evaluate_controls(Lamp(), small_extractor, num_controls=2, num_samples=16, seed=0)
    assert found is not None
    assert list(found[0].controls) == ["light", "pattern"]
    assert found[0].left_out == ("count", "idle", "idle_pattern")


def test_nothing_is_said_of_a_model_without_controls_or_when_none_are_asked_for(
    small_extractor: Extractor,
) -> None:
    for model, num in ((Lamp({}), 8), (Lamp(), 0)):
        assert (
            evaluate_controls(model, small_extractor, num_controls=num, num_samples=16, seed=0)
            is None
        )


def test_the_picture_has_a_titled_block_for_each_control_whose_columns_step_through_it(
    small_extractor: Extractor,
) -> None:
    found = evaluate_controls(Lamp(), small_extractor, num_controls=2, num_samples=16, seed=0)
    assert found is not None
    picture = found[1]
    cell, header = 64 + 2, TITLE_HEIGHT + VALUES_HEIGHT
    assert picture.height == 2 * (header + NUM_ROWS * cell + 2)
    assert picture.width == NUM_STEPS * cell + 2
    assert picture.crop((0, 0, picture.width, TITLE_HEIGHT)).getextrema()[0] < 50  # the name
    assert picture.crop((0, TITLE_HEIGHT, picture.width, header)).getextrema()[0] < 50
    first, last = (
        picture.crop((left, header + 2, left + 30, header + 32)).resize((1, 1)).getpixel((0, 0))
        for left in (2, 2 + 8 * cell)
    )
    assert isinstance(first, int)
    assert isinstance(last, int)
    assert 10 < first < 60  # a light of 10 over noise of 0 to 39
    assert 200 < last < 240  # a light of 200


@pytest.mark.parametrize(
    ("control", "values"),
    [
        (Control(0, 4, "", is_integer=True), [0, 1, 2, 3, 4]),
        (Control(1, 16, "", is_integer=True), [*range(1, 17)]),
        (Control(0, 80, "", is_integer=True), [0, 10, 20, 30, 40, 50, 60, 70, 80]),
        (Control(-2, 2, ""), [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2]),
    ],
)
def test_columns_step_from_low_to_high(control: Control, values: list[float]) -> None:
    assert steps(control) == values
