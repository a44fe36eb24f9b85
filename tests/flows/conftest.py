"""One home in which the whole chain has run once, from the command line."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

CONFIG = """\
data: {path: %s}
model: {family: gan, latent_dim: 4, generator_width: 4, critic_width: 4}
training: {steps: 2, batch_size: 8}
evaluation: {num_samples: 8, num_reference: 8}
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

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))},
            "AIGC_OPS_HOME": str(self.home),
            "OMP_NUM_THREADS": "1",
            "PYTHONFAULTHANDLER": "1",
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
        assert process.returncode == code, said
        assert output.count("\n") == 1, output
        return json.loads(output), said


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
def first(workplace: Workplace) -> Any:
    """The answer of the first run of the whole chain."""
    answer, said = workplace.run("run", workplace.config)
    assert "not pinned by DVC" in said
    assert "dvc add" in said
    return answer
