"""Validation in a process of its own."""

import multiprocessing
import signal
from concurrent.futures import Future
from pathlib import Path

import pytest
from making_data import write_images

from aigc_ops.data import DataConfig, open_dataset, warm
from aigc_ops.data.validation import ValidationConfig


def test_ctrl_c_does_not_wait_for_the_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(path=str(write_images(tmp_path / "images", ["1.png", "2.png", "3.png"])))
    warm.start()
    [child] = multiprocessing.active_children()

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        warm.validate(open_dataset(config), config, ValidationConfig(), folder=tmp_path / "report")
    child.join(30)
    assert child.exitcode == -signal.SIGTERM
