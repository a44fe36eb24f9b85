"""Every command of the README, run as it stands there; the long ones in the slow tier."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image, ImageDraw

from aigc_ops.cli import pipeline_commands
from aigc_ops.cli.parser import parser
from aigc_ops.models import family_names
from tests.conftest import ROOT, answers, free_port

PREFECT = "PREFECT_HOME=$PWD/.aigc_ops/prefect prefect server start"
MLFLOW = "mlflow ui --backend-store-uri sqlite:///.aigc_ops/mlflow/mlflow.db"
SERVE = "aigc-ops serve models:/mnist-gan@champion"
SERVERS = {PREFECT: 4200, MLFLOW: 5000, SERVE: 3000}
QUICK = [
    "aigc-ops train configs/mnist-gan.yaml --help",
    "aigc-ops models",
    "aigc-ops sample models:/mnist-gan@champion --num 20 --out samples",
    "aigc-ops sample models:/mnist-gan@champion --set truncation=0.5 --out typical",
    "aigc-ops sample models:/mnist-gan@champion --interpolate 1 9 --label 3 --out path",
    "aigc-ops score data/mnist/heldout.parquet samples --extractor efficientnet-lite0",
]
LONG = [
    "make demo",
    "aigc-ops run configs/mnist-vae.yaml",
    "aigc-ops run configs/dialogue-gpt.yaml",
    "aigc-ops run configs/mnist-gan.yaml --training.steps 4000 --seed 1",
    "aigc-ops run configs/mnist-gan.yaml --name pets --data.path ~/pets --data.image.size 32",
    "aigc-ops run configs/dialogue-gpt.yaml --name notes --data.path ~/notes.txt",
]
OWN_HOME = "AIGC_OPS_HOME=home"  # where no small champion stands
TALK = "aigc-ops chat models:/dialogue-gpt@champion"
CURL = """curl -s localhost:3000/generate -H 'content-type: application/json' \
-d '{"label": 7, "seed": 1}' -o seven.png"""
DEPLOY = "PREFECT_API_URL=http://127.0.0.1:4200/api python -m flows"
SMOKE = "aigc-ops run configs/smoke.yaml --name mnist-gan --packaging.enabled false"
ELSEWHERE = ["make test", ". .venv/bin/activate"]  # what runs this test, and what it stands in


def commands(name: str) -> list[str]:
    """The commands of a README's shell blocks, without comments, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.S)
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    return [re.sub(r"\s+", " ", line.split("  #")[0].split(" # ")[0]).strip() for line in lines]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout with a small champion named as the demo's, and a user's home."""
    folder = tmp_path_factory.mktemp("readme")
    copy = folder / "aigc-ops"
    left_out = shutil.ignore_patterns(".venv", ".aigc_ops", ".git", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=left_out, symlinks=True)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    draw_pets(folder / "pets")
    (folder / "notes.txt").write_text("".join(f"note {i}: buy {i} eggs\n" for i in range(200)))
    (copy / ".venv").symlink_to(sys.prefix)  # so that make needs no other
    run(copy, SMOKE)
    return copy


def draw_pets(folder: Path) -> None:
    """200 colour pictures of two kinds, in two formats, with larger or smaller bodies anywhere."""
    rng = np.random.default_rng(0)
    for index in range(200):
        kind, suffix = ("cat", "jpg") if index % 2 else ("dog", "png")
        picture = Image.new("RGB", (64, 64), tuple(rng.integers(0, 100, 3).tolist()))
        left, top, side = rng.integers(0, 30, 3).tolist()
        box = (left, top, left + side + 10, top + side + 10)
        colour = tuple(rng.integers(120, 255, 3).tolist())
        draw = ImageDraw.Draw(picture)
        (draw.ellipse if kind == "cat" else draw.rectangle)(box, fill=colour)
        path = folder / kind / f"{index:03d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


def environment(checkout: Path) -> dict[str, str]:
    ours = ("PREFECT_", "MLFLOW_", "BENTOML_", "AIGC_OPS_")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(ours)},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(checkout.parent),
        "PYTHONPATH": str(checkout),
        # One worker and no job runners, which nothing here asks anything of.
        "MLFLOW_WORKERS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def run(checkout: Path, command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=checkout,
        env=environment(checkout),
        capture_output=True,
        text=True,
        timeout=3000,  # on a busy machine: a few minutes on a free one
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def ports() -> dict[int, int]:
    """Each port that the README names, and one that is free in its place when it is taken."""
    return {port: port if is_free(port) else free_port() for port in SERVERS.values()}


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def served(checkout: Path, command: str, ports: dict[int, int], ready: str) -> Iterator[str]:
    """The address of one of the README's servers, once `ready` answers there."""
    usual = SERVERS[command]
    url = f"http://127.0.0.1:{ports[usual]}"
    moved = "" if ports[usual] == usual else f" --port {ports[usual]}"
    with serving(checkout, command + moved, f"{url}/{ready}"):
        yield url


@contextmanager
def serving(checkout: Path, command: str, url: str | None = None) -> Iterator[subprocess.Popen]:
    """A command that runs until it is stopped; ready when its address answers."""
    log = (checkout.parent / "server.log").open("w+")
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}" if "=" not in command.split()[0] else command],
        cwd=checkout,
        env=environment(checkout),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while url and not answers(url):
            assert process.poll() is None, Path(log.name).read_text()[-3000:]
            assert time.monotonic() < deadline, Path(log.name).read_text()[-3000:]
            time.sleep(0.3)
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


def test_every_command_of_the_readme_is_run_by_a_test():
    known = {*SERVERS, *QUICK, *LONG, TALK, CURL, DEPLOY, *ELSEWHERE}
    assert {c for c in commands("README.md") if c} == known


def test_both_languages_give_the_same_commands():
    assert commands("README.zh-CN.md") == commands("README.md")


def test_the_two_commands_and_their_output_stand_before_line_40():
    head = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    for wanted in ("make demo", "make test", "mermaid", "docs/digits.png", "champion"):
        assert wanted in head


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_every_file_that_the_readme_names_is_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", text)
    assert links
    for link in (first or second for first, second in links):
        assert (ROOT / link).exists(), link


@pytest.mark.parametrize("command", [c for c in commands("README.md") if c.startswith("aigc-ops ")])
def test_the_arguments_of_every_command_exist(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    arguments, flags = parser().parse_known_args(command.split()[1:])
    pipeline_commands.require_usage(arguments, flags)
    if "--help" not in command and hasattr(arguments, "config"):
        pipeline_commands._load_config(arguments, flags)


@pytest.mark.slow
@pytest.mark.parametrize("command", QUICK)
def test_a_quick_command_works(checkout, command):
    assert run(checkout, command).stdout


@pytest.mark.slow
def test_a_run_ends_with_commands_that_work_outside_the_environment_too(checkout):
    outside = {**environment(checkout), "PATH": os.defpath}
    again = (sys.executable, "-m", "aigc_ops", *SMOKE.split()[1:])
    done = subprocess.run(again, cwd=checkout, env=outside, capture_output=True, text=True)
    told = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()[1:])
    for words in (told["review"], told["MLflow"]):
        assert (checkout / words.split()[0]).is_file(), words


@pytest.mark.slow
def test_the_service_answers_the_readmes_request(checkout, ports):
    with served(checkout, SERVE, ports, "readyz") as url:
        if shutil.which("curl"):
            run(checkout, CURL.replace("localhost:3000", url.removeprefix("http://")))
            with Image.open(checkout / "seven.png") as seven:
                assert seven.size == (28, 28)
        with urlopen(f"{url}/livez", timeout=10) as answer:
            assert answer.status == 200


@pytest.mark.slow
def test_the_uis_open_and_prefect_shows_earlier_runs_and_offers_every_family(checkout, ports):
    with served(checkout, MLFLOW, ports, "health"), served(checkout, PREFECT, ports, "") as url:
        with urlopen(url, timeout=10) as answer:
            assert b"<html" in answer.read().lower()
        assert [flow_run["state_name"] for flow_run in held(url, "flow_runs")] == ["Completed"]
        with serving(checkout, DEPLOY.replace("http://127.0.0.1:4200", url)):
            deadline = time.monotonic() + 120
            while len(held(url, "deployments")) < len(family_names()):
                assert time.monotonic() < deadline
                time.sleep(0.5)


def held(url: str, what: str) -> list[dict[str, Any]]:
    """The Prefect server's flow runs or deployments."""
    headers = {"content-type": "application/json"}
    with urlopen(Request(f"{url}/api/{what}/filter", b"{}", headers), timeout=10) as answer:
        return json.load(answer)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("command", LONG)
def test_a_long_command_works(checkout, command):
    done = run(checkout, f"export {OWN_HOME}; {command}")
    if "--name" in command:  # too few rows are held out to look for copies
        assert "copies were not examined" in done.stdout
        assert "waits for a decision" in done.stdout
    else:
        assert "serve it" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_readmes_dialogue_model_talks(checkout):
    [train] = [command for command in LONG if command.endswith("dialogue-gpt.yaml")]
    run(checkout, f"{OWN_HOME} {train}")  # found finished when the test above has run
    assert run(checkout, f"echo 'What is AI?' | {OWN_HOME} {TALK}").stdout.strip()
