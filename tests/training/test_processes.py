"""Two real processes, started as torchrun does, that train together over gloo."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from aigc_ops.__main__ import main
from aigc_ops.core.errors import ConfigError, TrainingError
from aigc_ops.core.state_dir import lock_state_dir
from aigc_ops.laws.runs import assert_bit_equal
from tests.conftest import ROOT, free_port, start_child
from tests.registry.conftest import empty_database, store
from tests.training.runs import GAN, VAE, Recorder, run, stream_of

__all__ = ["empty_database", "store"]

PROGRAM = """
import json, os, sys
from pathlib import Path
from tests.training.runs import GAN, VAE, Recorder, run, stream_of
model = {"gan": GAN, "vae": VAE}[sys.argv[1]]
tracker = Recorder()
settings = {"precision": "fp32", "ema_decay": 0.9, "num": 24, "device": "cpu"}
settings |= json.loads(sys.argv[3])
if shards := settings.pop("shards", None):
    settings["make"] = lambda _: stream_of(Path(shards))
folder = Path(sys.argv[2])
checkpoint = run(model, folder, tracker=tracker, **settings)
if os.environ.get("RANK", "0") == "0":
    print(json.dumps([m for _, m in tracker.metrics]))
"""


def command(*arguments: str) -> list[str]:
    script = Path(arguments[1]).with_suffix(".py")
    script.write_text(PROGRAM)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    return [sys.executable, *torchrun, str(script), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def trained(model: str, folder: Path, **settings: object) -> list[dict[str, float]]:
    done = subprocess.run(
        command(model, str(folder), json.dumps(settings)),
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    metrics: list[dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return metrics


@pytest.mark.parametrize(
    ("model", "streams"),
    [
        ("gan", True),
        pytest.param("gan", False, marks=pytest.mark.slow),
        pytest.param("vae", False, marks=pytest.mark.slow),
    ],
)
def test_two_processes_have_the_losses_and_weights_of_one(model, streams, shards, tmp_path):
    # Beyond the shards' 12 steps an epoch.
    settings = {"steps": 14, "batch_size": 8, "micro_batches": 2}
    alone = Recorder()
    lone = {"precision": "fp32", "num": 24, "device": "cpu", **settings}
    if streams:
        lone["make"] = lambda _: stream_of(shards)
        settings["shards"] = str(shards)
    run({"gan": GAN, "vae": VAE}[model], tmp_path / "one", tracker=alone, **lone)
    together = trained(model, tmp_path / "two", **settings)
    for (_, one), two in zip(alone.metrics, together, strict=True):
        for name in (name for name in one if name.startswith(("loss/", "gradient_norm/"))):
            assert two[name] == pytest.approx(one[name], rel=1e-5), name
    weights = [
        load_file(tmp_path / which / "step-00000014" / "model.safetensors")
        for which in ("one", "two")
    ]
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() < 1e-5, name


@pytest.mark.slow
def test_after_one_of_two_processes_is_killed_the_run_goes_on(tmp_path):
    settings = {"steps": 200, "batch_size": 8, "checkpoint_every": 10, "keep_checkpoints": 3}
    trained("gan", tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    arguments = command("gan", str(folder), json.dumps(settings))
    log = tmp_path / "log"
    with log.open("w") as said:
        torchrun = subprocess.Popen(
            arguments, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said
        )
    while len(list(folder.glob("step-*"))) < 2:
        assert torchrun.poll() is None
        time.sleep(0.02)
    workers = psutil.Process(torchrun.pid).children()
    workers[-1].send_signal(signal.SIGKILL)
    assert torchrun.wait(120) != 0
    assert "TrainingError: another process of this run has failed" in log.read_text()
    assert not (folder / "finished.json").exists()
    trained("gan", folder, **settings)
    assert_bit_equal(tmp_path / "whole" / "step-00000200", folder / "step-00000200")


def train_apart(folder, rank, port):
    """Train as one of two processes, each in its own folder, and write down what it refuses."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ.update(place | ranks | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"})
    settings = {"batch_size": 8, "num": 24, "precision": "fp32", "device": "cpu"}
    try:
        run(VAE, folder / str(rank) / "run", steps=4, **settings)
    except TrainingError as error:
        (folder / str(rank) / "refusal").write_text(str(error))


def test_processes_that_see_other_checkpoints_do_not_train(tmp_path):
    (tmp_path / "1").mkdir()
    run(VAE, tmp_path / "0" / "run", steps=2, batch_size=8, num=24, precision="fp32")
    port = free_port()
    children = [start_child(train_apart, tmp_path, rank, port) for rank in (0, 1)]
    for child in children:
        child.join()
    message = "checkpoint: step-00000002 in process 0, None in process 1"
    for rank in "01":
        refusal = (tmp_path / rank / "refusal").read_text()
        assert refusal.startswith(f"the processes disagree on the {message}")
    assert [path.name for path in tmp_path.glob("?/run/step-*")] == ["step-00000002"]


@pytest.mark.parametrize("here", [None, "3"])
def test_processes_that_torchrun_did_not_start_are_refused(here, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    if here:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    with pytest.raises(ConfigError, match=f"LOCAL_WORLD_SIZE {here or 'missing'}; start the"):
        run(VAE, tmp_path, steps=1)


def test_of_a_runs_stages_several_processes_share_the_training_alone(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["run", "configs/smoke.yaml"]) == 2
    assert "only `train` runs in several processes: torchrun" in capsys.readouterr().err


def test_a_command_without_training_answers_in_any_process(monkeypatch, store, capfd):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert main(["models", "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"models": []}


def train_as_one_of_two(log):
    """The command, in a process of two; what it says on standard error lies in the log."""
    os.environ["WORLD_SIZE"] = "2"
    with log.open("w") as said, redirect_stderr(said):
        code = main(["train", str(ROOT / "configs/smoke.yaml")])
    sys.exit(code)


def test_several_processes_do_not_wait_for_a_home_that_is_held(tmp_path):
    log = tmp_path / "log"
    with lock_state_dir(pytest.fail):
        child = start_child(train_as_one_of_two, log)
        child.join()
    assert child.exitcode == 1
    assert f"process {os.getpid()} holds the state directory; start again" in log.read_text()
