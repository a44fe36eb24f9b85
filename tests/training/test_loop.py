import os
import random
import resource
import shutil
import signal
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from aigc_ops.core.errors import CheckpointError, ModelError, TrainingError
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.data.config import DataConfig
from aigc_ops.interfaces.optimizer import AdamConfig
from aigc_ops.laws.runs import FILES, assert_bit_equal
from aigc_ops.models.gpt import GptConfig
from aigc_ops.training import RunFolder, TrainingConfig, TrainingJob, run_key, train
from aigc_ops.training.config import WatchConfig
from tests.conftest import CHILDREN, ref_of, striped_digits
from tests.training.runs import GAN, VAE, Recorder, run

DATA = DataConfig(path="anywhere")


@pytest.mark.parametrize("model", [GAN, VAE], ids=lambda m: m.family)
def test_checkpoints_that_do_not_fit_on_the_disk_stop_a_run_before_its_first_step(
    model, tmp_path, monkeypatch
):
    done = run(model, tmp_path / "done", steps=1)
    stored = sum((Path(done.uri) / name).stat().st_size for name in FILES)
    recorder = Recorder()
    space = SimpleNamespace(free=2 * stored - 2**15)  # two checkpoints, without their headers
    monkeypatch.setattr(shutil, "disk_usage", lambda _: space)
    with pytest.raises(TrainingError, match=r"checkpoints need .*--training\.keep-checkpoints"):
        run(model, tmp_path / "full", tracker=recorder, steps=4, checkpoint_every=1)
    assert not recorder.metrics
    assert not list((tmp_path / "full").glob("step-*"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * stored))
    assert run(model, tmp_path / "full", steps=1).step == 1


@pytest.mark.parametrize("model", [GAN, VAE], ids=lambda m: m.family)
@pytest.mark.parametrize("cut", [1, 7])  # in the first epoch of 20 / 6 steps, and in a later one
def test_a_run_cut_and_resumed_ends_bit_equal_to_an_uninterrupted_one(model, cut, tmp_path):
    whole = run(model, tmp_path / "whole", steps=10, checkpoint_every=cut)
    run(model, tmp_path / "cut", steps=cut, checkpoint_every=cut)
    resumed = run(model, tmp_path / "cut", steps=10, checkpoint_every=cut)
    assert resumed.step == 10
    assert_bit_equal(Path(whole.uri), Path(resumed.uri))


def test_runs_without_averages_and_with_them_differ_only_in_the_sampling_weights(tmp_path):
    plain = run(GAN, tmp_path / "plain", steps=5, ema_decay=0.0)
    averaged = run(GAN, tmp_path / "averaged", steps=5, ema_decay=0.9)
    live = load_file(Path(averaged.uri) / "training.safetensors")
    weights = load_file(Path(plain.uri) / "model.safetensors")
    sampled = load_file(Path(averaged.uri) / "model.safetensors")
    name = "generator.upward.layers.layers.1.weight"
    assert torch.equal(live[f"live.{name}"], weights[name])
    assert not torch.equal(sampled[name], weights[name])


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_killed_at_random_moments_ends_bit_equal_to_an_uninterrupted_one(kills, tmp_path):
    """Real child processes, each ended by SIGKILL while it trains, and a last one left alone."""
    settings = {"steps": 40 * kills, "checkpoint_every": 5, "keep_checkpoints": 3}
    folder, moment = tmp_path / "killed", random.Random(kills)
    for _ in range(kills):
        before = _last_step(folder)
        child = CHILDREN.Process(target=run, args=(GAN, folder), kwargs=settings)
        child.start()
        while _last_step(folder) == before:
            assert child.is_alive()
            time.sleep(0.005)
        time.sleep(moment.uniform(0, 0.15))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL  # else there was nothing left to kill
        assert RunFolder(folder).newest() is not None
    assert not (folder / "finished.json").exists()
    child = CHILDREN.Process(target=run, args=(GAN, folder), kwargs=settings)
    child.start()
    child.join()
    assert child.exitcode == 0
    whole = run(GAN, tmp_path / "whole", **settings)
    assert_bit_equal(Path(whole.uri), folder / Path(whole.uri).name)
    assert not list(folder.glob(".*.partial"))


def _last_step(folder: Path) -> str:
    return max((path.name for path in folder.glob("step-*")), default="")


def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning(tmp_path):
    checkpoint = run(GAN, tmp_path, steps=4, checkpoint_every=2)
    weights = Path(checkpoint.uri) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.warns(UserWarning, match=r"damaged checkpoint.*model\.safetensors"):
        again = run(GAN, tmp_path, steps=4, checkpoint_every=2)
    assert again.step == 4


def test_a_finished_run_is_returned_without_reading_the_data(tmp_path):
    first = run(GAN, tmp_path, steps=2)

    def unread(split):
        raise AssertionError("the data was read")

    data = striped_digits(20)
    again = train(
        TrainingJob(
            model=GAN,
            config=TrainingConfig(batch_size=6, steps=2),
            dataset=ref_of(data),
            read_data=unread,
            seed=3,
            folder=RunFolder(tmp_path),
            tracker=SilentTracker(),
        )
    )
    assert again == first


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_state(tmp_path):
    run(GAN, tmp_path, steps=2, checkpoint_every=2)
    wild = GAN.model_copy(update={"critic": AdamConfig(learning_rate=1e30)})
    with pytest.raises(TrainingError, match=r"(?s)loss/generator became nan.*step-00000002"):
        run(wild, tmp_path, steps=30, checkpoint_every=50)
    assert [p.name for p in tmp_path.glob("step-*")] == ["step-00000002"]


def test_an_empty_training_split_is_refused(tmp_path):
    with pytest.raises(TrainingError, match="empty"):
        run(GAN, tmp_path, steps=2, num=0)


def test_weights_of_another_image_shape_are_refused(tmp_path):
    first = run(GAN, tmp_path / "first", steps=1)
    data = striped_digits(8, size=16)
    with pytest.raises(
        ModelError, match=r"trained on other images: height is 8 there and 16 here, width"
    ):
        train(
            TrainingJob(
                model=GAN,
                config=TrainingConfig(steps=1, batch_size=4),
                dataset=ref_of(data),
                read_data=lambda split: data,
                seed=0,
                folder=RunFolder(tmp_path / "second"),
                tracker=SilentTracker(),
                initial=first,
            )
        )


def test_training_goes_on_from_the_weights_it_is_given(tmp_path):
    first = run(GAN, tmp_path / "first", steps=3, ema_decay=0.0)
    frozen = GAN.model_copy(
        update={
            "critic": AdamConfig(learning_rate=1e-12),
            "generator": AdamConfig(learning_rate=1e-12),
        }
    )
    second = run(frozen, tmp_path / "second", steps=1, ema_decay=0.0, initial=first)
    before, after = (load_file(Path(c.uri) / FILES[0]) for c in (first, second))
    name = "generator.upward.layers.layers.1.weight"
    torch.testing.assert_close(after[name], before[name])


def test_metrics_and_grids_are_reported_by_step(tmp_path):
    tracker = Recorder()
    checkpoint = run(GAN, tmp_path, steps=6, sample_every=3, tracker=tracker, watch={"every": 3})
    steps = [step for step, metrics in tracker.metrics if "loss/critic" in metrics]
    assert steps == [1, 2, 3, 4, 5, 6]
    found = {name for _, metrics in tracker.metrics for name in metrics}
    for part in ("critic", "generator"):
        assert {f"{what}/{part}" for what in ("loss", "gradient_norm", "learning_rate")} <= found
    assert {"images_per_second", "critic/separation", "samples/coverage"} <= found
    assert [step for _, step, _ in tracker.images] == [3, 6]
    assert checkpoint.rate is not None
    assert checkpoint.rate > 0
    assert checkpoint.grid_uri is not None
    assert Path(checkpoint.grid_uri).stat().st_size > 0


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    run(GAN, tmp_path, steps=6, checkpoint_every=1, keep_checkpoints=2)
    kept = sorted(p.name for p in tmp_path.glob("step-*"))
    assert kept[-2:] == ["step-00000005", "step-00000006"]
    assert len(kept) <= 4  # the best and the last healthy one may be older


def test_other_versions_are_told_when_a_run_is_resumed(tmp_path):
    run(GAN, tmp_path, steps=2, precision="bf16")
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with pytest.warns(UserWarning, match=rf"threads is {threads} there.*not bit for bit"):
            run(GAN, tmp_path, steps=3, precision="bf16")
    finally:
        torch.set_num_threads(threads)
    with pytest.warns(UserWarning, match="precision is 'bf16' there and 'fp32' here"):
        run(GAN, tmp_path, steps=4, precision="fp32")


def test_the_run_key_changes_with_all_that_decides_the_weights_and_nothing_else():
    ref = ref_of(striped_digits(4))
    base = run_key(GAN, TrainingConfig(), ref, DATA, seed=0)
    assert base == run_key(GAN, TrainingConfig(log_every=7, checkpoint_every=9), ref, DATA, seed=0)
    assert base != run_key(GAN, TrainingConfig(), ref, DATA, seed=1)
    for watch in (WatchConfig(early_stopping=2), WatchConfig(action="roll_back")):
        often, seldom = (
            run_key(GAN, TrainingConfig(watch=watch, checkpoint_every=n), ref, DATA, seed=0)
            for n in (10, 500)
        )
        assert often != seldom, "the checkpoints are what is gone back to"
    assert base != run_key(GAN, TrainingConfig(batch_size=7), ref, DATA, seed=0)
    assert base != run_key(
        GAN.model_copy(update={"latent_dim": 5}), TrainingConfig(), ref, DATA, seed=0
    )
    resized = DATA.with_section("image", size=16)
    assert base != run_key(GAN, TrainingConfig(), ref, resized, seed=0)
    other = ref.model_copy(update={"content_digest": "1" * 64})
    assert base != run_key(GAN, TrainingConfig(), other, DATA, seed=0)


def test_the_run_key_changes_with_the_files_that_a_model_starts_from(tmp_path):
    def key():
        model = GptConfig(pretrained=str(tmp_path))
        return run_key(model, TrainingConfig(), ref_of(striped_digits(4)), DATA, seed=0)

    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    first = key()
    weights.touch()
    assert key() == first
    weights.write_bytes(b"two")
    assert key() != first


def test_a_disk_that_takes_no_more_is_told_with_what_to_free(tmp_path):
    run(GAN, tmp_path, steps=2)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))  # safetensors' own error
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written \(.*\); free space"):
            run(GAN, tmp_path, steps=4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert RunFolder(tmp_path).newest() == tmp_path / "step-00000002"


def test_no_space_left_keeps_the_earlier_checkpoint_and_says_what_to_free(tmp_path, monkeypatch):
    run(GAN, tmp_path, steps=2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device\); free space"):
        run(GAN, tmp_path, steps=4)
    monkeypatch.undo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert RunFolder(tmp_path).newest() == tmp_path / "step-00000002"
