import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from aigc_ops.cli.output import score_lines
from aigc_ops.compute.random import sample_seeds
from aigc_ops.core.artifacts import Checkpoint, Score, Scores, contract_differences
from aigc_ops.core.errors import EvaluationError
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.evaluation import EvaluationConfig, evaluate
from aigc_ops.evaluation.report import meaning_of
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.modalities.image.extractors import weights as extractor_weights
from aigc_ops.modalities.image.metrics.controls import ControlsReport
from tests.evaluation.conftest import new_gan, new_vae, stored

pytestmark = pytest.mark.usefixtures("folded_once")
FEW = "ignore:fd_efficientnet_lite0 of 20 samples:UserWarning"
COMMON = {"num_reference", "batch_size"}
DEFAULTS = {"image": {"num_samples": 20, "input_size": 32}}
FEW_TEXTS = "ignore:fd_minilm of 64 samples:UserWarning"


class Recorder(SilentTracker):
    """Keeps what the stage reports."""

    def __init__(self) -> None:
        self.metrics: dict[str, tuple[float, int]] = {}
        self.images: list[str] = []
        self.files: list[str] = []

    def log_metrics(self, metrics: Any, *, step: int) -> None:
        self.metrics |= {name: (value, step) for name, value in metrics.items()}

    def log_image(self, key: str, image: Image.Image, *, step: int) -> None:
        self.images.append(key)

    def log_file(self, path: Path, artifact_folder: str) -> None:
        self.files.append(path.name)


def judged(
    checkpoint: Checkpoint,
    data: Path,
    folder: Path,
    *,
    seed: int = 0,
    tracker: SilentTracker | None = None,
    **settings: Any,
) -> Scores:
    """Scores of few samples, of small inputs; `settings` are the section's or common."""
    data_config = DataConfig(path=str(data))
    common = {name: settings.pop(name) for name in COMMON & settings.keys()}
    section = {**DEFAULTS.get(checkpoint.modality, {}), **settings}
    config = {"precision": "fp32", "device": "cpu", **common, checkpoint.modality: section}
    return evaluate(
        checkpoint,
        open_dataset(data_config),
        data_config,
        EvaluationConfig(**config),
        seed=seed,
        cache=folder.parent / "cache",
        folder=folder,
        tracker=tracker or SilentTracker(),
    )


@pytest.mark.filterwarnings(FEW)
def test_an_image_model_is_scored_with_its_contract(
    gan: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    scores = judged(gan, image_folder, tmp_path / "a", seed=5, input_size=None)
    assert scores.primary == "fd_efficientnet_lite0"
    assert scores.checkpoint_digest == gan.manifest_digest
    score = scores.values[scores.primary]
    assert 0 <= score.low < score.value < score.high
    ref = open_dataset(DataConfig(path=str(image_folder)))
    assert score.contract | {"reference": "-", "interval": "-"} == {
        "n": 20,
        "extractor": "efficientnet-lite0",
        "weights": extractor_weights.EFFICIENTNET_SHA256,
        "width": 1280,
        "input_size": 128,
        "resize": "bilinear-antialiased",
        "normalisation": "(x - 127) / 128",
        "precision": "fp32",
        "dataset": ref.content_digest,
        "split": "train",
        "num_reference": ref.num_train,
        "reference": "-",
        "seed": 5,
        "interval": "-",
        "below_width": True,
        "version": 1,
    }


@pytest.mark.filterwarnings(FEW)
def test_scores_are_the_same_again_and_others_by_another_seed(
    gan: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    first = judged(gan, image_folder, tmp_path / "one" / "a")
    again = judged(gan, image_folder, tmp_path / "other" / "a")
    other = judged(gan, image_folder, tmp_path / "one" / "b", seed=1)
    assert first.values == again.values
    assert first.values[first.primary].value != other.values[other.primary].value


@pytest.mark.filterwarnings(FEW)
def test_the_distance_is_told_for_several_seeds_where_asked(
    gan: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    several = judged(gan, image_folder, tmp_path / "a", num_seeds=3, num_controls=0)
    score = several.values[several.primary]
    second, _ = score.other_seeds
    alone = judged(gan, image_folder, tmp_path / "b", seed=sample_seeds(0, 3)[1], num_controls=0)
    assert second == pytest.approx(alone.values[alone.primary].value, rel=1e-6)
    assert len({score.value, *score.other_seeds}) == 3
    one = judged(gan, image_folder, tmp_path / "c", num_controls=0).values[several.primary]
    assert one == score.model_copy(update={"other_seeds": ()})
    assert contract_differences(one, score) == []
    assert "over 3 seeds" in (tmp_path / "a" / "report.html").read_text()
    assert "seeds" not in (tmp_path / "c" / "report.html").read_text()


@pytest.mark.filterwarnings(FEW)
def test_scores_and_grid_are_left_in_the_folder_and_reported(
    gan: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    tracker = Recorder()
    scores = judged(gan, image_folder, tmp_path / "a", tracker=tracker)
    assert Scores.model_validate(json.loads((tmp_path / "a" / "scores.json").read_text())) == scores
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "controls.json",
        "controls.png",
        "report.html",
        "samples.png",
        "scores.json",
    ]
    assert tracker.metrics["fd_efficientnet_lite0"] == (
        scores.values["fd_efficientnet_lite0"].value,
        gan.step,
    )
    assert tracker.images == ["evaluation", "controls"]
    assert tracker.files == ["controls.json", "report.html", "scores.json"]
    report = ControlsReport.model_validate_json((tmp_path / "a" / "controls.json").read_text())
    nats = report.controls["truncation"].nats
    assert tracker.metrics["controls/truncation/nats"] == (nats, gan.step)
    meanings = find_modality("image").meanings
    assert all(meaning_of(name, meanings) for name in scores.values)
    assert scores.values.keys() == {
        "fd_efficientnet_lite0",
        "baseline_fd_efficientnet_lite0",
        "kd_efficientnet_lite0",
        "precision",
        "recall",
        "density",
        "coverage",
        "near_duplicates",
        "exact_copies",
        "real_exact_copies",
        "label_agreement",
        "real_label_agreement",
        "label_agreement_ratio",
    }
    assert scores.values["label_agreement"].contract["n"] == 20
    shares = [scores.values[f"{name}label_agreement"].value for name in ("", "real_")]
    [line] = find_modality("image").summary(scores)
    reached = f"{shares[0]:.2f}, {shares[0] / shares[1]:.0%} of the {shares[1]:.2f} that held-out"
    assert reached in line
    assert line in (tmp_path / "a" / "report.html").read_text()
    assert line == score_lines(scores)[-1]
    num_train = open_dataset(DataConfig(path=str(image_folder))).num_train
    assert scores.values["real_label_agreement"].contract["n"] == math.ceil(num_train / 5)


@pytest.mark.filterwarnings(FEW)
def test_a_model_without_controls_leaves_no_file_of_them(
    gan: Checkpoint, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc_ops.models.gan.Gan.controls", lambda _: {})
    tracker = Recorder()
    judged(gan, image_folder, tmp_path / "a", tracker=tracker)
    names = {path.name for path in (tmp_path / "a").iterdir()}
    assert names == {"report.html", "samples.png", "scores.json"}
    assert tracker.images == ["evaluation"]


@pytest.mark.filterwarnings(FEW)
def test_the_grid_has_a_row_for_each_class(
    gan: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    from aigc_ops.modalities.image.pictures import grid
    from aigc_ops.sampling import sampler
    from aigc_ops.storage.checkpoints import load_model

    scores = judged(gan, image_folder, tmp_path / "a")
    model = load_model(Path(gan.uri))
    images = sampler.generate(model, sampler.requests(model, 20, seed=0))
    by_class = torch.stack([images[label + turn * 10] for label in range(10) for turn in range(2)])
    expected = grid(by_class, 2)
    with Image.open(scores.grid_uri) as shown:
        assert shown.tobytes() == expected.tobytes()


def test_fewer_samples_than_features_warn(
    gan: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    with pytest.warns(UserWarning, match="fewer than the extractor's 1280 features"):
        judged(gan, image_folder, tmp_path / "a")


@pytest.mark.filterwarnings("ignore:.*fewer than the extractor:UserWarning")
@pytest.mark.parametrize("num", [pytest.param(4, marks=pytest.mark.slow), 10])
def test_the_inception_score_is_told_of_ten_samples_and_more(
    gan: Checkpoint, image_folder: Path, random_weights: Path, tmp_path: Path, num: int
) -> None:
    settings = {"extractor": "inception-v3", "inception_weights": str(random_weights)}
    settings |= {"input_size": None}
    few = {"num_samples": num, "num_reference": 4, "num_controls": 0}
    scores = judged(gan, image_folder, tmp_path / "a", **settings, **few)
    assert any(name.startswith("inception_score_") for name in scores.values) == (num == 10)


@pytest.mark.filterwarnings(FEW)
def test_real_digits_are_nearer_than_those_of_an_untrained_model(
    gan: Checkpoint, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained = judged(gan, image_folder, tmp_path / "a").values["fd_efficientnet_lite0"]
    config = DataConfig(path=str(image_folder))
    real = read_split(open_dataset(config), config, "train").images[:20]
    monkeypatch.setattr(
        "aigc_ops.models.gan.Gan.sample", lambda _, asked: real[: len(asked)].clone()
    )
    copied = judged(gan, image_folder, tmp_path / "copied" / "b").values["fd_efficientnet_lite0"]
    assert copied.high < untrained.low


@pytest.mark.filterwarnings(FEW)
def test_equal_samples_have_a_value_and_no_spread(
    gan: Checkpoint, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = torch.zeros(20, 1, 28, 28, dtype=torch.uint8)
    monkeypatch.setattr("aigc_ops.models.gan.Gan.sample", lambda _, asked: black[: len(asked)])
    score = judged(gan, image_folder, tmp_path / "a").values["fd_efficientnet_lite0"]
    assert math.isfinite(score.value)
    assert score.high - score.low < 1e-3 * score.value


@pytest.mark.filterwarnings(FEW)
def test_a_vae_tells_how_likely_held_out_images_are(
    vae: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    tracker = Recorder()
    scores = judged(vae, image_folder, tmp_path / "a", seed=5, num_draws=4, tracker=tracker)
    ref = open_dataset(DataConfig(path=str(image_folder)))
    values = scores.values
    assert list(values)[-4:] == ["nll", "elbo", "reconstruction", "kl"]
    assert scores.primary == "fd_efficientnet_lite0"
    # Before training each pixel is 1 with about a half.
    assert values["nll"].value == pytest.approx(784 * math.log(2), rel=0.1)
    assert values["nll"].low < values["nll"].value < values["nll"].high
    assert -values["elbo"].value == pytest.approx(
        values["reconstruction"].value + values["kl"].value, rel=1e-6
    )
    assert values["nll"].contract | {"reference": "-", "interval": "-"} == {
        "n": ref.num_heldout,
        "dataset": ref.content_digest,
        "split": "heldout",
        "num_reference": ref.num_heldout,
        "reference": "-",
        "unit": "nats an image",
        "num_draws": 4,
        "likelihood": "bernoulli",
        "pixels": "drawn 0 or 1 by grey level",
        "precision": "fp32",
        "version": 1,
        "seed": 0,
        "interval": "-",
    }
    assert tracker.metrics["nll"] == (values["nll"].value, vae.step)
    assert tracker.images == ["evaluation", "controls", "reconstructions", "interpolations"]
    for name in ("reconstructions.png", "interpolations.png"):
        with Image.open(tmp_path / "a" / name) as picture:
            assert picture.width > 10 * 56


@pytest.mark.filterwarnings(FEW)
def test_figures_of_held_out_images_do_not_depend_on_batches_or_seeds(
    vae: Checkpoint, image_folder: Path, tmp_path: Path
) -> None:
    one = judged(vae, image_folder, tmp_path / "a", num_draws=2, batch_size=4)
    other = judged(vae, image_folder, tmp_path / "b", num_draws=2, batch_size=64, seed=1)
    for name in ("nll", "elbo", "kl"):
        assert one.values[name].value == pytest.approx(other.values[name].value, rel=1e-6)
        assert contract_differences(one.values[name], other.values[name]) == []


@pytest.mark.filterwarnings(FEW)
def test_a_vae_of_damaged_weights_is_refused(image_folder: Path, tmp_path: Path) -> None:
    model = new_vae()
    model.autoencoder.posterior.bias.data.fill_(math.nan)
    broken = stored(model, tmp_path / "broken")
    with pytest.raises(EvaluationError, match="the nll of a held-out image is not finite"):
        judged(broken, image_folder, tmp_path / "a")


def test_a_model_and_data_of_different_kinds_are_refused(
    gan: Checkpoint, text_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(EvaluationError, match=r"a model of images.*holds texts"):
        judged(gan, text_file, tmp_path / "a")


def test_a_model_of_another_size_is_refused(image_folder: Path, tmp_path: Path) -> None:
    small = stored(new_gan(size=16), tmp_path / "small")
    with pytest.raises(EvaluationError, match="16x16 with 1 channels, the data has 28x28"):
        judged(small, image_folder, tmp_path / "a")


@pytest.mark.filterwarnings(FEW_TEXTS)
def test_a_folder_that_cannot_be_written_is_named(
    gpt: Checkpoint, text_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(EvaluationError, match="taken: scores cannot be written"):
        judged(gpt, text_file, tmp_path / "taken")


def score(**contract: Any) -> Score:
    return Score(value=1, low=0, high=2, contract=contract)


def test_contracts_differ_by_the_names_of_their_terms() -> None:
    a = score(n=10, extractor="x", seed=0)
    assert contract_differences(a, score(n=10, extractor="x", seed=1)) == []
    assert contract_differences(a, score(n=20, extractor="y", seed=0)) == ["extractor", "n"]
    assert contract_differences(a, score(n=10, seed=0)) == ["extractor"]


def test_scores_that_name_their_code_compare_with_those_of_version_1() -> None:
    former = score(n=10, code="0123456789ab")
    assert contract_differences(former, score(n=10, code="ba9876543210")) == []
    assert contract_differences(former, score(n=10, version=1)) == []
    assert contract_differences(score(n=10, version=2), former) == ["version"]
    assert contract_differences(score(n=10), former) == ["version"]
