"""What the watchdog sees and does, on games that really go wrong."""

import json
import math
from pathlib import Path

import pytest

from aigc_ops.core.errors import TrainingError
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.models.gan import Gan
from aigc_ops.models.vae import Vae
from aigc_ops.training import RunFolder, loop
from tests.training.runs import GAN, VAE, Recorder, real_digits, run

WATCH = {"every": 20, "grace_steps": 150, "patience": 2}
FAST = AdamConfig(learning_rate=2e-3, beta1=0.5)
HEALTHY = GAN.model_copy(
    update={"latent_dim": 16, "generator_width": 16, "critic_width": 16}
    | {"critic": FAST, "generator": FAST}
)
COLLAPSING = HEALTHY.model_copy(update={"generator": AdamConfig(learning_rate=0.1)})
LONG = {
    "steps": 300,
    "batch_size": 32,
    "num": 1000,
    "checkpoint_every": 20,
    "log_every": 10,
    "make": real_digits,
}


def test_a_gan_that_collapses_is_stopped_with_its_reasons_and_a_picture(tmp_path):
    tracker = Recorder()
    with pytest.raises(TrainingError, match=r"(?s)failed at step \d+: .*samples/\w+ is .*\.png"):
        run(COLLAPSING, tmp_path, tracker=tracker, watch=WATCH, **LONG)
    [report] = tracker.texts.values()
    assert "failed at step" in report
    assert [key for key, *_ in tracker.images if key == "watchdog"]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A run of the same networks that nothing is wrong with."""
    return run(HEALTHY, tmp_path_factory.mktemp("healthy"), watch=WATCH, **LONG)


def test_a_healthy_gan_of_the_same_networks_is_left_alone(healthy):
    assert healthy.step == 300


@pytest.mark.slow
def test_a_collapse_is_warned_of_or_ignored_as_configured(tmp_path, capsys):
    short, watch = {**LONG, "steps": 100}, {**WATCH, "grace_steps": 40}
    run(COLLAPSING, tmp_path / "warn", watch={**watch, "action": "warn"}, **short)
    assert "warning: at step" in capsys.readouterr().err
    run(COLLAPSING, tmp_path / "off", watch={**watch, "action": "off"}, **short)
    assert "warning" not in capsys.readouterr().err


def test_a_rollback_goes_on_from_the_last_healthy_checkpoint_with_lower_rates(healthy, tmp_path):
    """A healthy model whose generator's rate rises until it collapses."""
    tracker, settings = Recorder(), {**LONG, "checkpoint_every": 5, "warmup_steps": 1000}
    settings["steps"] = 100
    watch = {"every": 5, "action": "roll_back", "rollback_learning_rate": 1e-6, "patience": 2}
    checkpoint = run(
        COLLAPSING, tmp_path / "wild", tracker=tracker, watch=watch, initial=healthy, **settings
    )
    progress = json.loads((Path(checkpoint.uri) / "training.json").read_text())["progress"]
    assert checkpoint.step == 100
    assert progress["attempt"] in (1, 2)
    steps = [step for step, metrics in tracker.metrics if "loss/critic" in metrics]
    assert steps != sorted(steps)  # some steps were trained twice, in one tracked run
    figures = [metrics for _, metrics in tracker.metrics if "samples/class_spread" in metrics]
    assert min(f["samples/coverage"] for f in figures) < 0.01 < figures[-1]["samples/coverage"]


@pytest.mark.parametrize(
    ("best", "falls_at"), [(8, 8), (4, 7)], ids=["at the best figure so far", "after it"]
)
def test_a_second_fall_goes_back_to_a_checkpoint_that_lies_there(
    best, falls_at, tmp_path, monkeypatch
):
    """Looks at each step, checkpoints at each second; falls at step 5, and again later."""
    falls = iter((5, falls_at))

    class Scripted:
        steps, fall = 0, next(falls)

        def __init__(self, *_, **__): ...

        def measure(self, _):
            Scripted.steps += 1
            spread, coverage = 1.0, {4: 0.6, best: 0.9}.get(Scripted.steps, 0.5)
            if Scripted.steps == Scripted.fall:
                Scripted.fall, spread = next(falls, 0), 0.0
                Scripted.steps = 4  # where the rollback goes, both times
            return {"samples/class_spread": spread, "samples/coverage": coverage}

    monkeypatch.setattr(loop, "OnlineMetrics", Scripted)
    watch = {"every": 1, "action": "roll_back", "patience": 1, "grace_steps": 0}
    end = run(GAN, tmp_path, steps=12, checkpoint_every=2, watch={**watch, "max_rollbacks": 5})
    progress = json.loads((Path(end.uri) / "training.json").read_text())["progress"]
    assert (end.step, progress["attempt"]) == (12, 2)


def test_rollbacks_end_with_an_error(tmp_path):
    run(GAN, tmp_path, steps=2)
    wild = GAN.model_copy(update={"critic": AdamConfig(learning_rate=1e30)})
    watch = {"action": "roll_back", "rollback_learning_rate": 1.0, "max_rollbacks": 1}
    with pytest.raises(TrainingError, match="after 1 rollbacks"):
        run(wild, tmp_path, steps=6, watch=watch)


def test_a_loss_that_is_not_finite_is_rolled_back_too(tmp_path):
    run(GAN, tmp_path, steps=2, checkpoint_every=2)
    wild = GAN.model_copy(update={"critic": AdamConfig(learning_rate=1e30)})
    watch = {"action": "roll_back", "rollback_learning_rate": 1e-34}
    tracker, settings = Recorder(), {"checkpoint_every": 50, "log_every": 6, "watch": watch}
    assert run(wild, tmp_path, tracker=tracker, steps=6, **settings).step == 6
    assert all(math.isfinite(value) for value in tracker.metrics[-1][1].values())


def test_training_ends_early_with_the_best_checkpoint_which_is_kept(tmp_path):
    """A learning rate that wrecks the model: the held-out loss is best at the beginning."""
    wrecked = VAE.model_copy(update={"autoencoder": AdamConfig(learning_rate=0.1)})
    settings = {"checkpoint_every": 2, "watch": {"every": 2, "early_stopping": 3, "action": "off"}}
    early = run(wrecked, tmp_path, steps=200, num_heldout=8, keep_checkpoints=1, **settings)
    newest = RunFolder(tmp_path).newest()
    assert newest is not None
    assert early.step < 200
    assert int(newest.name.removeprefix("step-")) - early.step == 2 * 3
    again = run(wrecked, tmp_path, steps=200, num_heldout=8, keep_checkpoints=1, **settings)
    assert again == early


def test_several_steps_of_the_critic_are_one_curve_and_no_false_alarm(tmp_path):
    tracker = Recorder()
    run(GAN.model_copy(update={"critic_steps": 3}), tmp_path, tracker=tracker, steps=2)
    found = [m["critic/separation"] for _, m in tracker.metrics if "critic/separation" in m]
    assert len(found) == 2
    assert all(0 <= value <= 1 for value in found)


@pytest.mark.parametrize(
    ("coverage", "rings"),
    [({}, True), ({"samples/coverage": 0.29}, True), ({"samples/coverage": 0.3}, False)],
)
def test_a_saturated_critic_is_a_failure_where_the_samples_cover_little(coverage, rings):
    [alarm] = (each for each in Gan.alarms if each.metric == "critic/separation")
    assert alarm.is_triggered({"critic/separation": 1.0, **coverage}) is rings
    assert not alarm.is_triggered(coverage)
    assert not alarm.is_triggered({"critic/separation": 0.9})


@pytest.mark.parametrize("rate", [1e30, 1e12])  # squares of weights overflow, or only activations
def test_wrecked_weights_are_no_last_good_state_and_are_not_returned_to(rate, tmp_path):
    sound = run(VAE, tmp_path, steps=2, precision="fp32")
    wild = VAE.model_copy(update={"autoencoder": AdamConfig(learning_rate=rate)})
    for _ in range(2):  # a second start meets the same good state, not the wrecked one
        with pytest.raises(TrainingError, match=r"good checkpoint is .*step-00000002"):
            run(wild, tmp_path, steps=9, checkpoint_every=1, precision="fp32")
        assert RunFolder(tmp_path).newest() == Path(sound.uri)


def test_a_gradient_that_is_not_finite_stops_the_run_at_its_own_step(tmp_path, monkeypatch):
    monkeypatch.setattr(Vae, "_nll", _with_infinite_slopes(Vae._nll))
    with pytest.raises(TrainingError, match=r"step 1: gradient_norm/autoencoder became (nan|inf)"):
        run(VAE, tmp_path, steps=3, checkpoint_every=1)
    assert RunFolder(tmp_path).newest() is None


def test_gradients_that_no_scale_makes_finite_are_no_end_of_training(tmp_path, monkeypatch):
    monkeypatch.setattr(Vae, "_nll", _with_infinite_slopes(Vae._nll))
    with pytest.raises(TrainingError, match="gradients are inf or NaN at every loss scale"):
        run(VAE, tmp_path, steps=20, checkpoint_every=50, precision="fp16")


def _with_infinite_slopes(surprise):
    def changed(model, logits, pixels):
        zero = logits - logits.detach()
        return surprise(model, logits, pixels) + zero.sqrt().flatten(1).sum(dim=1)

    return changed


def test_an_unhealthy_young_checkpoint_is_none_to_go_back_to(tmp_path):
    """Its coverage is 0: the generator barely learns, and no alarm counts within its grace."""
    still = GAN.model_copy(update={"generator": AdamConfig(learning_rate=1e-12)})
    watch = {"every": 2, "grace_steps": 1000}
    end = run(still, tmp_path, steps=6, num=200, checkpoint_every=2, watch=watch)
    progress = json.loads((Path(end.uri) / "training.json").read_text())["progress"]
    assert not progress["is_healthy"]
    assert progress["last_healthy"] == 0


def test_switched_off_the_watchdog_draws_no_samples_but_for_early_stopping(tmp_path):
    for early_stopping, expected in ((0, False), (3, True)):
        tracker, watch = Recorder(), {"every": 1, "action": "off", "early_stopping": early_stopping}
        run(GAN, tmp_path / str(early_stopping), tracker=tracker, steps=2, watch=watch)
        assert any("samples/coverage" in m for _, m in tracker.metrics) == expected


def test_a_vae_in_parts_of_one_row_is_no_collapsed_one(tmp_path, capsys):
    watch = {"every": 2, "grace_steps": 0, "patience": 1, "action": "warn"}
    run(VAE, tmp_path, steps=4, micro_batches=6, watch=watch)
    assert "active_units" not in capsys.readouterr().err
