"""Scores of a discriminator that has memorised its training images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.evaluation import EvaluationConfig, evaluate
from aigc_ops.evaluation.paired import side_by_side
from aigc_ops.evaluation.report import meaning_of
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.discriminator import HasDiscriminator, pairs_above
from aigc_ops.modalities.image.metrics.discriminator import MEMBERSHIP_AUC
from aigc_ops.models.gan import Gan
from aigc_ops.statistics.intervals import pairs_estimate
from tests.evaluation.conftest import new_gan, new_vae

pytestmark = pytest.mark.usefixtures("folded_once")
FEW = "ignore:fd_efficientnet_lite0 of 20 samples:UserWarning"
SETTINGS = EvaluationConfig(
    precision="fp32", device="cpu", image={"num_samples": 20, "input_size": 32}
)


@pytest.fixture
def halves(image_folder: Path) -> DataConfig:
    return DataConfig(path=str(image_folder), heldout_fraction=0.5)


def memorise(monkeypatch: pytest.MonkeyPatch, data: DataConfig) -> None:
    """Let each discriminator score training images highest, as if memorised."""
    train = read_split(open_dataset(data), data, "train")
    known = {image.numpy().tobytes() for image in train.images}

    def scores(_, batch):
        return torch.tensor([float(i.numpy().tobytes() in known) for i in batch["images"]])

    monkeypatch.setattr(Gan, "discriminator_scores", scores)


@pytest.mark.filterwarnings(FEW)
@pytest.mark.parametrize("is_memorised", [True, False])
def test_report_scores_and_packet_warn_of_a_discriminator_that_has_overfitted(
    is_memorised, gan: Checkpoint, halves, tmp_path, monkeypatch
):
    ref = open_dataset(halves)
    if is_memorised:
        memorise(monkeypatch, halves)
    scores = evaluate(
        gan,
        ref,
        halves,
        SETTINGS,
        seed=0,
        cache=tmp_path / "cache",
        folder=tmp_path / "report",
        tracker=SilentTracker(),
    )
    score = scores.values[MEMBERSHIP_AUC]
    assert (score.contract["n"], score.contract["n_heldout"]) == (ref.num_train, ref.num_heldout)
    page = (tmp_path / "report" / "report.html").read_text()
    sections = side_by_side(
        [("version 2", gan)], ref, halves, SETTINGS, seed=0, cache=tmp_path / "cache"
    )
    texts = [section.text for section in sections if section.heading.startswith("Discriminator")]
    if is_memorised:
        assert (score.value, score.low, score.high) == (1, 1, 1)
        assert (
            "has memorised its training images: it ranks them above held-out images in 100" in page
        )
        assert [section.heading for section in sections][-1] == "Discriminator of version 2"
        assert "model.augmentations" in texts[0]
    else:  # untrained
        assert score.low < 0.5 < score.high
        assert "has memorised its training images:" not in page
        assert texts == []


def test_a_family_without_a_critic_has_no_such_score():
    assert isinstance(new_gan(), HasDiscriminator)
    assert not isinstance(new_vae(), HasDiscriminator)
    assert "training image" in meaning_of(MEMBERSHIP_AUC, find_modality("image").meanings)


def test_the_interval_of_pairs_covers_the_share_of_normal_scores():
    rng, covered = np.random.default_rng(0), 0
    expected = 0.7602  # of normal scores that are 1 apart: the normal distribution at 1 / sqrt(2)
    for _ in range(200):
        scores = (torch.from_numpy(rng.normal(mean, 1, 100)) for mean in (1, 0))
        found = pairs_estimate(pairs_above(*scores).numpy())
        covered += found.low <= expected <= found.high
    assert 0.90 <= covered / 200 <= 0.99
