"""The project's data as a clone has it: real repositories, real DVC."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.data.making_data import PROJECT


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a program in a folder, without a network, and returns what it prints."""
    state = tmp_path_factory.mktemp("state")
    (state / "site").mkdir(mode=0o700)
    environment = {
        **os.environ,
        "AIGC_OPS_HOME": str(state / "home"),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(state / "site"),  # of plain `dvc`, else shared by all users
        "GIT_CONFIG_GLOBAL": os.devnull,
        "HTTPS_PROXY": "http://127.0.0.1:9",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "PYTHONPATH": str(PROJECT),
    }

    def call(folder: Path, *words: str, check: bool = True) -> str:
        if words[0] == "dvc":
            words = (sys.executable, "-m", *words)
        if words[0] == "aigc-ops":
            words = (sys.executable, "-m", "aigc_ops", *words[1:])
        if words[0] == "git":
            words = ("git", "-c", "user.name=Test", "-c", "user.email=test@localhost", *words[1:])
        done = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        if check and done.returncode:
            raise AssertionError(f"{words} failed:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    return call


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory, run: Callable[..., str]) -> Path:
    """A git repository of what this project keeps of its data."""
    folder = tmp_path_factory.mktemp("origin")
    for name in ("data.dvc", ".dvcignore", ".gitignore"):
        shutil.copy(PROJECT / name, folder / name)
    shutil.copytree(PROJECT / "dvc-remote", folder / "dvc-remote")
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(PROJECT / ".dvc" / name, folder / ".dvc" / name)
    run(folder, "git", "init", "--quiet")
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "Data")
    return folder


@pytest.fixture
def clone(tmp_path: Path, origin: Path, run: Callable[..., str]) -> Path:
    """A fresh clone, nothing pulled."""
    run(tmp_path, "git", "clone", "--quiet", str(origin), "clone")
    return tmp_path / "clone"


@pytest.fixture(scope="session")
def pulled_once(
    tmp_path_factory: pytest.TempPathFactory, origin: Path, run: Callable[..., str]
) -> Path:
    folder = tmp_path_factory.mktemp("pulled")
    run(folder, "git", "clone", "--quiet", str(origin), "clone")
    run(folder / "clone", "dvc", "pull")
    return folder / "clone"


@pytest.fixture
def pulled(tmp_path: Path, pulled_once: Path) -> Path:
    """A clone with its data pulled, to be changed at will."""
    return Path(shutil.copytree(pulled_once, tmp_path / "pulled", symlinks=True))


@pytest.fixture(scope="session")
def sample_data(pulled_once: Path) -> Path:
    """The pulled sample data, to be read only."""
    return pulled_once / "data"
