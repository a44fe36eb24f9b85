"""A discriminator that has memorised its training images, and one that has not."""

import re

import pytest
import torch
from safetensors.torch import load_file

from aigc_ops.interfaces.discriminator import OVERFITTED, pairs_above, scored_rows
from aigc_ops.interfaces.model import Alarm
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.models.gan import Gan
from aigc_ops.training.monitor import OnlineMetrics
from tests.training.runs import GAN, Recorder, real_digits, run

FAST = AdamConfig(learning_rate=2e-3, beta1=0.5)
NETWORKS = GAN.model_copy(
    update={"latent_dim": 16, "generator_width": 16, "critic_width": 16, "loss": "hinge"}
    | {"critic": FAST, "generator": FAST}
)
METRIC = "critic/membership_auc"
WATCH = {"every": 20, "patience": 2}
SETTINGS = {"batch_size": 32, "log_every": 20, "checkpoint_every": 1000, "num_heldout": 100}


def digits_of(num_train: int):
    """Real digits to train on, and 100 others."""
    digits = real_digits(num_train + 100)
    splits = {num_train: torch.arange(num_train), 100: torch.arange(num_train, num_train + 100)}
    return lambda num: digits.take(splits[num])


def watched(folder, num_train: int, **settings) -> Recorder:
    tracker = Recorder()
    make = digits_of(num_train)
    values = {**SETTINGS, "watch": WATCH, **settings}
    run(NETWORKS, folder, tracker=tracker, num=num_train, make=make, **values)
    return tracker


def curve(tracker: Recorder, name: str) -> list[float]:
    return [metrics[name] for _, metrics in tracker.metrics if name in metrics]


def warnings(tracker: Recorder) -> list[str]:
    return [text for name, text in tracker.texts.items() if "watchdog/warning" in name]


def test_a_critic_of_few_images_is_warned_of_once_with_the_figures(tmp_path, capsys):
    tracker = watched(tmp_path, 40, steps=500)
    found = curve(tracker, METRIC)
    assert len(found) == 25
    assert found[-1] > OVERFITTED
    [text] = warnings(tracker)
    assert "has memorised its training images" in text
    assert "model.augmentations" in text
    assert re.search(rf"{METRIC} is 0\.\d+, above 0.75 \(critic/separation is [01]", text)
    assert capsys.readouterr().err.count("memorised") == 1


def test_a_critic_of_many_images_is_not_warned_of(tmp_path):
    tracker = watched(tmp_path, 2000, steps=500)
    assert not warnings(tracker)
    assert max(curve(tracker, METRIC)) < OVERFITTED - 0.05


def test_a_critic_that_separates_nearly_all_pairs_is_no_evidence_on_its_own(tmp_path):
    # Young samples are easy to tell from digits, also for a discriminator that has memorised none.
    tracker = watched(tmp_path, 2000, steps=60)
    assert max(curve(tracker, "critic/separation")) > 0.95
    assert not warnings(tracker)


def test_the_weights_are_the_same_bit_for_bit_without_the_check(tmp_path, monkeypatch):
    settings = {"steps": 6, "watch": {"every": 2}}
    spectral = NETWORKS.model_copy(update={"spectral_norm": True})
    for name, model in (("plain", NETWORKS), ("spectral", spectral)):
        make = digits_of(40)
        checked = Recorder()
        words = {**SETTINGS, **settings, "num": 40, "make": make}
        run(model, tmp_path / name, tracker=checked, **words)
        assert len(curve(checked, METRIC)) == 3
        with monkeypatch.context() as patch:
            patch.setattr(OnlineMetrics, "_discriminator_figures", lambda *_: {})
            unchecked = Recorder()
            run(model, tmp_path / f"{name} unchecked", tracker=unchecked, **words)
        assert not curve(unchecked, METRIC)
        for file in ("model.safetensors", "training.safetensors"):
            one, other = (
                load_file(tmp_path / folder / "step-00000006" / file)
                for folder in (name, f"{name} unchecked")
            )
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one), (name, file)


@pytest.mark.parametrize("num_heldout", [0, 19])
def test_too_few_held_out_images_are_not_compared(num_heldout, tmp_path):
    tracker = Recorder()
    run(GAN, tmp_path, tracker=tracker, steps=2, num_heldout=num_heldout, watch={"every": 1})
    assert not curve(tracker, METRIC)


def test_the_share_of_pairs_counts_equal_scores_half():
    pairs = pairs_above(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0, 2.0]))
    assert pairs.tolist() == [[1, 0.5, 0], [1, 1, 1]]


def test_scored_rows_are_spread_over_sorted_data():
    assert scored_rows(10, 64).tolist() == list(range(10))
    assert scored_rows(1000, 3).tolist() == [0, 500, 999]


def test_a_warning_is_no_failure_and_leaves_the_model_healthy():
    alarms: dict[str, Alarm] = {alarm.metric: alarm for alarm in Gan.alarms}
    assert [name for name, alarm in alarms.items() if alarm.is_warning] == [METRIC]
