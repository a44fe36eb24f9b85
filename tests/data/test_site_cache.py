"""Pickles planted where DVC keeps its site cache by default are not executed by what we start."""

import json
import os
import pickle
import re
import shutil
import sqlite3
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import dvc.dirs
import pytest

from aigc_ops.__main__ import main
from aigc_ops.core.errors import ConfigError
from aigc_ops.core.state_dir import home
from aigc_ops.data.dvc import check_pin, pull
from tests.data.making_data import PROJECT

Run = Callable[..., str]

MOVED = """
import os
import dvc.dirs

real = dvc.dirs.site_cache_dir

def moved(*configured):
    return real(*configured) if os.getenv("DVC_SITE_CACHE_DIR") or any(configured) else {shared!r}

dvc.dirs.site_cache_dir = moved
"""
"""Puts the folder that all users share, /var/tmp/dvc, elsewhere for a test's processes."""
VALIDATED = """
data: {path: data/mnist}
model: {family: vae}
"""


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"echo unpickled >> {self.marker}",)


def plant(site: Path, marker: Path) -> None:
    """Replace every value in DVC's databases by a pickle that writes to the marker."""
    payload = pickle.dumps(Bomb(marker), protocol=4)
    databases = list(site.rglob("cache.db"))
    assert databases
    for database in databases:
        with sqlite3.connect(database) as connection:
            connection.execute("update Cache set mode=4, raw=1, value=?", (payload,))
        connection.close()


def forget(clone: Path) -> None:
    """Remove the data and DVC's cache of it, so that the next pull looks for everything."""
    for folder in ("data/mnist", "data/dialogue", ".dvc/cache"):
        shutil.rmtree(clone / folder, ignore_errors=True)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for /var/tmp/dvc in the processes that a test starts."""
    folder = tmp_path / "shared"
    (tmp_path / "moving").mkdir()
    (tmp_path / "moving/sitecustomize.py").write_text(MOVED.format(shared=str(folder)))
    return folder


@pytest.fixture
def unset(run: Run, shared: Path) -> Run:
    """Run a program as in a shell where DVC_SITE_CACHE_DIR is unset."""
    path = f"{shared.parent / 'moving'}{os.pathsep}{PROJECT}"
    settings = (f"PYTHONPATH={path}", f"AIGC_OPS_HOME={shared.parent / 'home'}")

    def call(folder: Path, *words: str) -> str:
        program = {"dvc": "dvc", "aigc-ops": "aigc_ops"}[words[0]]
        start = ("env", "-u", "DVC_SITE_CACHE_DIR", *settings, sys.executable, "-m", program)
        return run(folder, *start, *words[1:])

    return call


@pytest.fixture
def unset_here(
    clone: Path, shared: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Run a command of aigc-ops in the clone likewise, but in this process."""
    monkeypatch.setattr("dvc.dirs.site_cache_dir", dvc.dirs.site_cache_dir)  # until the test ends
    exec(MOVED.format(shared=str(shared)), {})

    def call(*words: str) -> str:
        monkeypatch.chdir(clone)
        monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
        capfd.readouterr()
        code = main(list(words))
        said = "".join(capfd.readouterr())  # after a first command all is on standard error
        assert code == 0, said
        return said

    return call


@pytest.mark.parametrize(
    "place",
    [
        "the shared folder",
        pytest.param("one that the clone's config names", marks=pytest.mark.slow),
        pytest.param("the shared folder, in processes of their own", marks=pytest.mark.slow),
    ],
)
def test_planted_pickles_are_not_executed(
    clone: Path,
    unset: Run,
    unset_here: Callable[..., str],
    shared: Path,
    tmp_path: Path,
    place: str,
) -> None:
    if place.startswith("one"):
        shared = tmp_path / "named"
        unset(clone, "dvc", "config", "core.site_cache_dir", str(shared))
    marker = tmp_path / "marker"
    unset(clone, "dvc", "pull")
    forget(clone)
    plant(shared, marker)
    unset(clone, "dvc", "pull")
    assert marker.exists()  # what this test guards against is real: plain DVC runs them
    marker.unlink()
    forget(clone)
    plant(shared, marker)
    assert "is the data that DVC pins" in unset(clone, "aigc-ops", "data", "pull", "data")
    assert "up to date" in unset(clone, "aigc-ops", "dvc", "push")
    if place == "the shared folder":  # the others open the repository likewise
        (clone / "config.yaml").write_text(VALIDATED)
        assert "expectations hold" in unset_here("validate", "config.yaml")
        assert "as it is pinned" in checks_of(unset_here("doctor", "--json"))["data"]
    if place.endswith("in processes of their own"):
        (clone / "config.yaml").write_text(VALIDATED)
        assert "in sync" in unset(clone, "aigc-ops", "dvc", "status", "-c")
        assert "expectations hold" in unset(clone, "aigc-ops", "validate", "config.yaml")
        assert "as it is pinned" in checks_of(unset(clone, "aigc-ops", "doctor", "--json"))["data"]
    assert not marker.exists()


def checks_of(report: str) -> dict[str, str]:
    """What the doctor found, by check."""
    return {
        each["check"]: each["found"] for each in json.loads(report[report.index("{") :])["checks"]
    }


def test_a_pull_leaves_its_site_cache_private_and_refuses_another(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clone)
    pull("data")
    folder = home() / "dvc-site-cache"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.rglob("cache.db"))
    folder.chmod(0o755)
    with pytest.raises(ConfigError, match="has mode 755"):
        pull("data")
    (clone / "data/mnist/train.parquet").unlink()
    with pytest.raises(ConfigError, match="has mode 755"):
        check_pin("data/mnist")  # asks DVC, since the data has changed


def test_a_dvc_command_ends_as_dvc_does(clone: Path, unset: Run, run: Run) -> None:
    assert "usage: dvc" in unset(clone, "aigc-ops", "dvc", "add", "--help")
    told = run(clone, "aigc-ops", "dvc", "push", "nothing.dvc", check=False)
    assert "nothing.dvc" in told
    with pytest.raises(AssertionError, match="failed"):
        unset(clone, "aigc-ops", "dvc", "push", "nothing.dvc")
    with pytest.raises(AssertionError, match="no DVC command"):
        unset(clone, "aigc-ops", "dvc")


def test_make_and_the_docs_start_dvc_through_aigc_ops_alone() -> None:
    pages = [PROJECT / "Makefile", *PROJECT.glob("README*.md"), *PROJECT.glob("docs/*.md")]
    plain = re.compile(r"(?<!aigc-ops )\bdvc (add|checkout|fetch|pull|push|remote|status)\b")
    for page in pages:
        assert not plain.findall(page.read_text("utf-8")), page
