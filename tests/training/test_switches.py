"""Settings that change how training computes, each seen to be at work."""

import json
import os
from pathlib import Path

import pytest
import torch

from aigc_ops.compute.devices import torch_settings
from aigc_ops.core.errors import ConfigError, TrainingError
from aigc_ops.core.state_dir import home
from aigc_ops.laws.runs import assert_bit_equal
from aigc_ops.models.vae import Vae
from aigc_ops.training.state import Progress
from aigc_ops.training.watchdog import _note_best
from tests.conftest import striped_digits
from tests.training.runs import GAN, VAE, Recorder, run

DENSE = VAE.model_copy(update={"network": "fully_connected"})
DENSE_MODEL = Vae(DENSE, striped_digits(2).shape)


class Kept(Recorder):
    """Keeps the folder's name of each file beside its content."""

    def __init__(self):
        super().__init__()
        self.files, self.was_deterministic = {}, []

    def log_file(self, path, artifact_folder):
        self.files[f"{artifact_folder}/{path.name}"] = path.read_text()

    def log_metrics(self, metrics, *, step):
        super().log_metrics(metrics, step=step)
        self.was_deterministic.append(torch.are_deterministic_algorithms_enabled())


# torch 2.14's tracer looks at the .grad of what is no leaf, and so warns of itself.
traced = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def losses(tracker):
    return [m["loss/autoencoder"] for _, m in tracker.metrics if "loss/autoencoder" in m]


@traced
@pytest.mark.slow  # 25 kernels to compile
def test_compiled_networks_have_the_losses_of_plain_ones_and_resume(tmp_path, monkeypatch):
    # Each number of rows is compiled anew; the samples' would be most of this test.
    monkeypatch.setattr("aigc_ops.training.loop.show_samples", lambda *_: None)
    plain, compiled = Recorder(), Recorder()
    settings = {"precision": "fp32", "checkpoint_every": 2}
    run(DENSE, tmp_path / "plain", steps=4, tracker=plain, **settings)
    torch._dynamo.utils.counters.clear()
    run(DENSE, tmp_path / "compiled", steps=2, compile=True, tracker=compiled, **settings)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    run(DENSE, tmp_path / "compiled", steps=4, compile=True, tracker=compiled, **settings)
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-4)


def test_compiled_code_is_kept_in_a_private_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("aigc_ops.training.loop._compile", lambda _: None)
    run(DENSE, tmp_path, steps=1, compile=True, device="cpu")
    folder = home() / "torchinductor"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="has mode 755"):
        run(DENSE, tmp_path, steps=2, compile=True, device="cpu")


@pytest.mark.slow
@traced
def test_a_missing_compiler_is_told_in_plain_words(tmp_path, monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    try:
        with pytest.raises(TrainingError, match=r"no-such-compiler.*training\.compile false"):
            run(DENSE, tmp_path, steps=1, compile=True, device="cpu")
    finally:
        torch.compiler.reset()


def test_a_profile_holds_the_operators_and_changes_nothing(tmp_path):
    tracker = Kept()
    whole = run(GAN, tmp_path / "plain", steps=9)
    settings = {"steps": 9, "profile_steps": 2, "cuda_graphs": False}  # replays have no operators
    profiled = run(GAN, tmp_path / "profiled", tracker=tracker, **settings)
    assert_bit_equal(Path(whole.uri), Path(profiled.uri))
    text = (tmp_path / "profiled" / "trace.json").read_text()
    assert tracker.files == {"profile/trace.json": text}
    events = json.loads(text)["traceEvents"]
    steps = {e["name"] for e in events if e.get("name", "").startswith("ProfilerStep#")}
    assert len(steps) == 2
    convolutions = [e for e in events if e.get("name") == "aten::convolution_backward"]
    assert len(convolutions) >= 2
    assert all(event["dur"] > 0 for event in convolutions)


def test_only_a_deterministic_run_asks_for_deterministic_kernels(tmp_path):
    strict, free = Kept(), Kept()
    run(GAN, tmp_path / "strict", steps=2, deterministic=True, tracker=strict)
    run(GAN, tmp_path / "free", steps=2, tracker=free)
    assert all(strict.was_deterministic)
    assert not any(free.was_deterministic)


def test_determinism_on_a_gpu_also_fixes_the_workspace_of_cublas(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    with torch_settings(torch.device("cuda"), deterministic=True):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.benchmark


def test_the_switches_of_training_end_with_it():
    def switches() -> list[object]:
        cudnn = torch.backends.cudnn
        strict = torch.are_deterministic_algorithms_enabled()
        return [strict, cudnn.allow_tf32, cudnn.benchmark, torch.get_float32_matmul_precision()]

    before = switches()
    with torch_settings(torch.device("cuda"), deterministic=True):
        assert switches() != before
    with torch_settings(torch.device("cuda"), deterministic=False):
        assert torch.backends.cudnn.benchmark
    assert switches() == before


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_look_without_the_judged_figure_is_no_best_and_no_disappointment(value):
    progress = Progress(step=5)
    figures = {"other": 1.0} if value is None else {"heldout/loss": value}
    model = DENSE_MODEL
    _note_best(model, progress, {"heldout/loss": 2.0})
    progress.step = 9
    _note_best(model, progress, figures)
    assert (progress.best_step, progress.best_value) == (5, 2.0)
    assert progress.checkpoints_since_best == 0
    _note_best(model, progress, {"heldout/loss": 3.0})
    assert progress.checkpoints_since_best == 1


def test_early_stopping_without_a_heldout_split_ends_with_the_last_step(tmp_path):
    watch = {"every": 1, "early_stopping": 1}
    assert run(VAE, tmp_path, steps=4, checkpoint_every=1, watch=watch).step == 4


def test_a_run_too_short_for_a_profile_says_so(tmp_path):
    message = r"no trace\.json.*begin after 6 steps, but only 6 steps remain"
    with pytest.warns(UserWarning, match=message):
        run(GAN, tmp_path, steps=6, profile_steps=2)
