"""A comparison of two models: on what was generated before, and by a settings' section."""

from pathlib import Path

import numpy as np
import pytest

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.data import DataConfig, open_dataset
from aigc_ops.evaluation import EvaluationConfig
from aigc_ops.evaluation.context import load
from aigc_ops.evaluation.paired import compare, compare_costs, median_interval, side_by_side
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import Picture
from aigc_ops.modalities.image.metrics import kept_samples
from aigc_ops.storage.checkpoints import read_checkpoint
from tests.evaluation.conftest import new_gan, stored
from tests.evaluation.test_scoring import FEW, judged

SMALL = {"input_size": 32, "num_controls": 0}


@pytest.fixture
def rival(tmp_path: Path) -> Checkpoint:
    """The GAN with other weights."""
    model = new_gan()
    for weight in model.generator.parameters():
        if weight.ndim > 1:
            weight.data.mul_(1.2)
    return stored(model, tmp_path / "rival")


def settings(num: int) -> EvaluationConfig:
    return EvaluationConfig(
        device="cpu", precision="fp32", image={"num_samples": num, "input_size": 32}
    )


@pytest.mark.filterwarnings(FEW)
def test_what_an_evaluation_generated_is_not_generated_again(
    gan: Checkpoint,
    rival: Checkpoint,
    image_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = DataConfig(path=str(image_folder))
    for name, checkpoint in {"a": gan, "b": rival}.items():
        judged(checkpoint, image_folder, tmp_path / name, **SMALL)
    drawn: list[int] = []
    sample = type(new_gan()).sample
    monkeypatch.setattr(
        "aigc_ops.models.gan.Gan.sample",
        lambda self, asked: drawn.append(len(asked)) or sample(self, asked),
    )

    def compared(num: int) -> tuple[float, int]:
        ref = open_dataset(data)
        cache = tmp_path / "cache"
        found = compare(gan, rival, ref, data, settings(num), seed=0, cache=cache)
        return found.difference, found.num

    difference, num = compared(20)
    assert (drawn, num) == ([], 20)
    assert difference != 0
    assert compared(80)[1] == 80
    assert drawn == [64, 16] * 2  # 20 are less than a whole batch, which is what can be used again
    assert compared(144)[1] == 144
    assert drawn == [64, 16] * 2 + [64, 16] * 2
    drawn.clear()
    assert compared(20)[0] == difference
    assert drawn == [20, 20]
    monkeypatch.setattr(kept_samples, "EVALUATION_VERSION", 2)
    compared(144)
    assert drawn[2:] == [64, 64, 16] * 2  # kept by another version of the evaluation
    monkeypatch.setattr(kept_samples, "code_digest", lambda: "other code")
    compared(144)
    assert drawn[8:] == [64, 64, 16] * 2  # a family may now sample otherwise


def test_a_registered_version_has_the_digest_of_the_run_that_trained_it(
    gan: Checkpoint, rival: Checkpoint, tmp_path: Path
) -> None:
    model = load(gan, settings(20)).model
    copy = read_checkpoint(Path(stored(model, tmp_path / "elsewhere").uri))
    digests = [load(each, settings(20)).content_digest for each in (gan, copy, rival)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.filterwarnings(FEW)
def test_images_are_shown_side_by_side_with_their_nearest_training_images(
    gan: Checkpoint, rival: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    data = DataConfig(path=str(image_folder))
    pair = [("version 2", gan), ("champion 1", rival)]
    sections = side_by_side(
        pair, open_dataset(data), data, settings(20), seed=0, cache=tmp_path / "cache"
    )
    headings = [section.heading for section in sections]
    assert headings == ["Samples from the same seeds", "Nearest training images"]
    for section in sections:
        names, media = zip(*section.items, strict=True)
        assert names == ("version 2", "champion 1")
        assert all(isinstance(medium, Picture) for medium in media)
        assert media[0].image.tobytes() != media[1].image.tobytes()


def test_the_number_of_images_grows_and_texts_are_scored_once() -> None:
    assert find_modality("image").evaluation.growing == "num_samples"
    assert find_modality("text").evaluation.growing is None
    config = settings(20).with_section("image", num_samples=40)
    assert config.section("image").num_samples == 40
    assert config.section("image").input_size == 32


def test_settings_by_their_former_names_are_those_of_today() -> None:
    former = EvaluationConfig(num_samples=7, extractor="inception-v3", text_extractor=None)
    image = {"num_samples": 7, "extractor": "inception-v3"}
    assert former == EvaluationConfig(image=image, text={"extractor": None})


def test_the_same_model_is_not_slower_than_itself(gan: Checkpoint) -> None:
    costs = compare_costs(gan, gan, settings(8), limit=2.0)
    assert costs.low <= costs.slowdown <= costs.high
    assert costs.low < 2  # whatever else the machine does
    assert costs.operations == 1


def test_the_interval_of_a_median_holds_it_whatever_the_distribution() -> None:
    generator = np.random.default_rng(0)
    for num in (9, 15, 25):
        draws = generator.pareto(1.0, size=(2000, num))  # of infinite mean
        held = [low <= 1.0 <= high for low, high in map(median_interval, draws.tolist())]
        assert np.mean(held) > 0.98, num
