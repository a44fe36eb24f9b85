"""Folders that are replaced, and kills in the middle of it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aigc_ops.core.atomic_dirs import verify_folder, write_folder
from aigc_ops.core.errors import CheckpointError
from aigc_ops.training import RunFolder
from tests.conftest import ROOT

KILLED = """
import os, signal, shutil, sys
from pathlib import Path
from aigc_ops.core.atomic_dirs import write_folder
target, moment = Path(sys.argv[1]), sys.argv[2]
rename, rmtree = Path.rename, shutil.rmtree
def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def rename_once(path, to):
    Path.rename = killed
    return rename(path, to)
if moment == "between the renames":
    Path.rename = rename_once
else:
    shutil.rmtree = killed
write_folder(target, lambda folder: (folder / "file").write_text("new"))
"""


def written(target: Path, text: str) -> str:
    return write_folder(target, lambda folder: (folder / "file").write_text(text))


def kill_while_replacing(target: Path, moment: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(target), moment],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert child.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("moment", "text"), [("between the renames", "old"), ("before the old one is removed", "new")]
)
@pytest.mark.parametrize("how", ["read", "found", "written"])
def test_a_kill_while_a_folder_is_replaced_leaves_the_old_or_the_new_one(
    moment, text, how, tmp_path
):
    target = tmp_path / "step-00000002"
    written(target, "old")
    kill_while_replacing(target, moment)
    if how == "read":
        verify_folder(target)
    elif how == "found":
        assert RunFolder(tmp_path).newest() == target
    else:
        text = "newest"
        written(target, text)
        assert [path.name for path in tmp_path.iterdir() if "retired" in path.name] == []
    verify_folder(target)
    assert (target / "file").read_text() == text


def test_a_folder_that_never_was_is_still_missing(tmp_path):
    with pytest.raises(CheckpointError, match="not a model folder"):
        verify_folder(tmp_path / "none")
