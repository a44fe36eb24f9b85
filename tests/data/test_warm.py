"""Validation in a process of its own."""

import multiprocessing
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from aigc_ops.data import DataConfig, open_dataset
from aigc_ops.data.validation import worker
from aigc_ops.data.validation.config import ValidationConfig
from tests.conftest import eventually
from tests.data.making_data import PROJECT, write_images


def test_ctrl_c_does_not_wait_for_the_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(path=str(write_images(tmp_path / "images", ["1.png", "2.png", "3.png"])))
    worker.start()
    [child] = multiprocessing.active_children()

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        worker.validate(
            open_dataset(config), config, ValidationConfig(), folder=tmp_path / "report"
        )
    # Not joined here: the pool's own thread may be collecting it.
    assert eventually(lambda: child.exitcode, seconds=30) == -signal.SIGTERM


def test_the_child_ends_with_a_parent_that_is_killed() -> None:
    code = (
        "import multiprocessing, time; from aigc_ops.data.validation import worker; worker.start();"
        "print(multiprocessing.active_children()[0].pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    time.sleep(2)  # until it watches
    parent.kill()
    parent.communicate()
    child.wait(timeout=20)
