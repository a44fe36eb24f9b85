"""Two real processes, started by torchrun, that train together over gloo."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.training.runs import GAN, VAE, Recorder, assert_bit_equal, run, stream_of

PROGRAM = """
import json, sys
from pathlib import Path
from tests.training.runs import GAN, VAE, Recorder, run, stream_of
model = {"gan": GAN, "vae": VAE}[sys.argv[1]]
tracker = Recorder()
settings = {"precision": "fp32", "ema_decay": 0.9, "num": 24, "device": "cpu"}
settings |= json.loads(sys.argv[3])
if shards := settings.pop("shards", None):
    settings["make"] = lambda _: stream_of(Path(shards))
checkpoint = run(model, Path(sys.argv[2]), tracker=tracker, **settings)
import os
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
    settings = {"steps": 14, "batch_size": 8}  # beyond the shards' 12 steps an epoch
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
    torchrun = subprocess.Popen(
        arguments, env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while len(list(folder.glob("step-*"))) < 2:
        assert torchrun.poll() is None
        time.sleep(0.02)
    workers = psutil.Process(torchrun.pid).children()
    workers[-1].send_signal(signal.SIGKILL)
    assert torchrun.wait(120) != 0
    assert not (folder / "finished.json").exists()
    trained("gan", folder, **settings)
    assert_bit_equal(tmp_path / "whole" / "step-00000200", folder / "step-00000200")
