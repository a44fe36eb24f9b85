"""One home in which the whole chain has run once, from the command line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, answers, eventually, free_port, process

CONFIG = """\
data: {path: %s}
model: {family: gan, latent_dim: 4, generator_width: 4, critic_width: 4}
training: {steps: 2, batch_size: 8}
evaluation: {image: {num_samples: 8, input_size: 32}, num_reference: 8}
promotion: {approval: automatic, max_samples: 8, unexamined: allow, first_version_floor: false}
"""


def write_images(folder: Path, *, num: int = 40, size: int = 16) -> Path:
    """A folder of colour noise in two classes."""
    rng = np.random.default_rng(0)
    for index in range(num):
        path = folder / ("cat" if index % 2 else "dog") / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (size, size, 3), dtype=np.uint8)).save(path)
    return folder


@dataclass(frozen=True)
class Workplace:
    """A home, a config over a folder of images, and the command line."""

    home: Path
    config: Path
    server: str | None = None
    """Address of a Prefect server; None: each run starts one for itself."""

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))},
            "AIGC_OPS_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
            **({"PREFECT_API_URL": self.server} if self.server else {}),
        }

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-m", "aigc_ops", *map(str, arguments)]

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, code: int = 0) -> tuple[Any, str]:
        """The JSON answer and what was said on standard error."""
        process = self.start(*arguments, "--json")
        output, said = ended(process)
        assert process.returncode == code, said + output
        assert output.count("\n") == 1, output
        return json.loads(output), said


CONSOLE = """\
import json, os, sys, traceback
from aigc_ops.__main__ import main
told = os.fdopen(os.dup(1), "w", buffering=1)
for line in sys.stdin:
    call = json.loads(line)
    for descriptor, path in ((1, call["out"]), (2, call["err"])):
        written = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(written, descriptor)
        os.close(written)
    try:
        code = main(call["argv"])
    except BaseException:  # one command's crash is not the next one's
        traceback.print_exc()
        code = "crashed"
    told.write(f"{code}\\n")
"""


class Console:
    """The command line in a process that stays: one command after another, imported once."""

    def __init__(self, workplace: Workplace, folder: Path) -> None:
        self._files = {"out": str(folder / "out.txt"), "err": str(folder / "err.txt")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", CONSOLE],
            cwd=ROOT,
            env=workplace.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, code: int = 0) -> tuple[Any, str]:
        """The JSON answer and what was said on standard error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        call = {"argv": [*map(str, arguments), "--json"], **self._files}
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        found = self._process.stdout.readline()
        output, said = (Path(self._files[name]).read_text() for name in ("out", "err"))
        assert found == f"{code}\n", said + output
        assert output.count("\n") == 1, output
        return json.loads(output), said

    def close(self) -> None:
        self._process.communicate(timeout=60)


def ended(process: subprocess.Popen[str], *, seconds: float = 300) -> tuple[str, str]:
    """What a process printed until it ended; one that does not end is shown where it stands."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # faulthandler prints every thread's stack
        output, said = process.communicate()
        raise AssertionError(f"still running after {seconds} s\n{output}\n{said}") from None


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("workplace")
    config = folder / "pets.yaml"
    config.write_text(CONFIG % write_images(folder / "images"))
    return Workplace(folder / ".aigc_ops", config)  # hidden, as the default home is


@pytest.fixture(scope="module")
def served(
    workplace: Workplace, first: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workplace]:
    """That home beside a Prefect server that stays, which later runs report to."""
    port = free_port()
    command = ("-m", "prefect", "server", "start", "--port", str(port))
    home = str(workplace.home / "prefect")
    with process(tmp_path_factory.mktemp("server") / "log", *command, PREFECT_HOME=home):
        eventually(lambda: answers(f"http://127.0.0.1:{port}/api/health"))
        yield replace(workplace, server=f"http://127.0.0.1:{port}/api")


@pytest.fixture(scope="module")
def console(served: Workplace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """The command line in that home, which reports to that server."""
    console = Console(served, tmp_path_factory.mktemp("console"))
    yield console
    console.close()


@pytest.fixture(scope="module")
def first(workplace: Workplace) -> Any:
    """The answer of the first run of the whole chain."""
    answer, said = workplace.run("run", workplace.config)
    assert "not pinned by DVC" in said
    assert "aigc-ops dvc add" in said
    return answer
