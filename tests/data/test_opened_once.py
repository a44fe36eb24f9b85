"""One evaluation opens each file of its dataset at most once; the kernel counts."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from aigc_ops.core import file_contents
from tests.data.making_data import PROJECT, image_rows, write_splits

STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(STRACE is None, reason="strace is not installed")
ONCE = {"train.parquet": 1, "heldout.parquet": 1}
READ = """
import sys
from pathlib import Path
from aigc_ops.data import DataConfig, Dataset, open_dataset
config = DataConfig(path=sys.argv[1])
dataset = Dataset(open_dataset(config), config)
for split in sys.argv[2:]:
    assert len(dataset.read(split)) == dataset.ref.num_rows(split)
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A dataset of images that has not changed for some seconds."""
    rows = [image_rows(40, start=start, label=[0, 1] * 20) for start in (0, 40)]
    folder = write_splits(tmp_path / "repository" / "data", *rows)
    time.sleep(file_contents.SETTLED_SECONDS + 0.1)
    return folder


@pytest.fixture
def opened(tmp_path: Path) -> Callable[..., dict[str, int]]:
    """Runs Python and returns how often each file of a folder was opened by any of its threads."""

    def call(folder: Path, *arguments: str) -> dict[str, int]:
        trace = tmp_path / "trace"
        subprocess.run(
            [
                *("strace", "-f", "--seccomp-bpf", "-e", "trace=open,openat,openat2", "-o", trace),
                *(sys.executable, *arguments),
            ],
            cwd=folder.parent,
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            check=True,
        )
        return dict(Counter(re.findall(r'/data/(\w+\.parquet)", [^\n]* = \d', trace.read_text())))

    return call


@needs_strace
def test_a_dataset_is_opened_once_and_later_only_for_its_rows(
    data: Path, opened: Callable[..., dict[str, int]]
) -> None:
    assert opened(data, "-c", READ, str(data), "train", "heldout") == ONCE
    assert opened(data, "-c", READ, str(data)) == {}
    assert opened(data, "-c", READ, str(data), "heldout") == {"heldout.parquet": 1}


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("is_pinned", [False, True])
def test_an_evaluation_opens_its_data_once_and_a_repeated_one_not_at_all(
    data: Path,
    home: Path,
    opened: Callable[..., dict[str, int]],
    run: Callable[..., str],
    is_pinned: bool,
) -> None:
    if is_pinned:
        run(data.parent, "git", "init", "--quiet")
        run(data.parent, "dvc", "init", "--quiet")
        run(data.parent, "dvc", "add", "--quiet", "data")
    command = ("-m", "aigc_ops")
    smoke = (str(PROJECT / "configs/smoke.yaml"), "--data.path", str(data))
    opened(data, *command, "train", *smoke, "--training.device", "cpu")
    [checkpoint] = (home / "checkpoints").glob("*/step-*")
    shutil.rmtree(home / "cache")
    evaluate = (*command, "evaluate", str(checkpoint), "--evaluation.device", "cpu")
    assert opened(data, *evaluate) == ONCE
    assert opened(data, *evaluate) == {}
