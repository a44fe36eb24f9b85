"""Packaging that must not succeed leaves no Bento and no process."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from aigc_ops.core.artifacts import ModelVersion
from aigc_ops.core.atomic_dirs import write_folder
from aigc_ops.core.errors import CheckpointError, PackagingError
from aigc_ops.models.gan import Gan
from aigc_ops.serving.bento import packaging
from aigc_ops.serving.bento.packaging import package
from aigc_ops.serving.bento.store import find_bento
from aigc_ops.serving.config import PackagingConfig
from aigc_ops.storage.checkpoints import write_model
from tests.conftest import start_child
from tests.serving.conftest import copy_of, registered, version_of


def stored(home: Path) -> list[Path]:
    """Every Bento and model in the store, and whatever was left beside them."""
    places = ("bentos", "models", "unconfirmed")
    return [path for place in places for path in (home / "bentoml" / place).glob("*")]


def test_samples_unlike_the_golden_ones_are_no_success(
    gan: Gan, home: Path, tmp_path: Path
) -> None:
    folder = registered(gan, tmp_path / "mnist-gan", levels=2)
    with pytest.raises(PackagingError, match="2 levels from its golden sample, allowed are 1"):
        package(version_of(folder), folder, config=PackagingConfig())
    assert stored(home) == []
    assert find_bento(version_of(folder)) is None


def test_a_service_that_cannot_start_is_told_by_its_log(
    gan_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIGC_OPS_MAX_NUM", "none")
    with pytest.raises(PackagingError, match=r"(?s)did not start.*AIGC_OPS_MAX_NUM=none"):
        package(version_of(gan_folder), gan_folder, config=PackagingConfig())
    assert stored(home) == []


def test_a_service_that_is_slow_to_start_is_given_up(gan_folder: Path, home: Path) -> None:
    config = PackagingConfig(boot_timeout_seconds=1)
    with pytest.raises(PackagingError, match="not ready after 1 s"):
        package(version_of(gan_folder), gan_folder, config=config)
    assert stored(home) == []


@pytest.mark.parametrize(
    "signum", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_a_killed_packaging_takes_its_server_with_it(
    gan_folder: Path, home: Path, signum: signal.Signals
) -> None:
    version = version_of(gan_folder)
    packager = start_child(packages, version, gan_folder)
    assert packager.pid is not None
    family = wait_for_worker(packager.pid)
    os.kill(packager.pid, signum)
    packager.join(60)
    assert packager.exitcode not in (None, 0)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert not list((home / "bentoml").glob("bentos/*"))
    assert find_bento(version) is None


def packages(version: ModelVersion, folder: Path) -> None:
    package(version, folder, config=PackagingConfig())


def wait_for_worker(pid: int) -> list[psutil.Process]:
    """The processes below one, once BentoML's worker is among them."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        family = psutil.Process(pid).children(recursive=True)
        if any("_bentoml_impl.worker.service" in arguments(child) for child in family):
            return family
        time.sleep(0.05)
    raise TimeoutError("no worker in 2 minutes")


def arguments(process: psutil.Process) -> list[str]:
    """What a process was started with; nothing for one that has just ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # a zombie too
        return []


def test_what_a_killed_packaging_left_is_cleared_by_the_next(home: Path) -> None:
    unconfirmed = home / "bentoml" / "unconfirmed"
    dead, own = unconfirmed / "4194305-left", unconfirmed / f"{os.getpid()}-other"
    dead.mkdir(parents=True)
    own.mkdir()
    with packaging._staging_store() as staging:
        assert sorted(unconfirmed.iterdir()) == sorted([own, staging])
    assert list(unconfirmed.iterdir()) == [own]


def test_a_damaged_model_is_not_packaged(gan_folder: Path, tmp_path: Path, home: Path) -> None:
    folder = copy_of(gan_folder, tmp_path / "mnist-gan")
    (folder / "golden" / "00000.png").unlink()
    with pytest.raises(CheckpointError, match=r"golden/00000\.png is missing"):
        package(version_of(folder), folder, config=PackagingConfig())
    assert not home.exists()


def test_a_version_of_another_model_is_not_packaged(gan_folder: Path) -> None:
    other = version_of(gan_folder).model_copy(update={"manifest_digest": "0" * 64})
    with pytest.raises(CheckpointError, match="expected 000000000000"):
        package(other, gan_folder, config=PackagingConfig())


def test_a_model_without_golden_samples_is_not_packaged(gan: Gan, tmp_path: Path) -> None:
    folder = tmp_path / "mnist-gan"
    write_folder(folder, lambda target: write_model(gan, target))
    with pytest.raises(CheckpointError, match="no golden samples; register"):
        package(version_of(folder), folder, config=PackagingConfig())
    registered(gan, folder, num=0)
    with pytest.raises(PackagingError, match="no golden samples; register"):
        package(version_of(folder), folder, config=PackagingConfig())


def test_a_store_that_cannot_be_written_says_what_to_do(
    gan_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "full"
    store.write_text("a file where a folder should be")
    monkeypatch.setenv("BENTOML_HOME", str(store))
    with pytest.raises(PackagingError, match=r"cannot be written .*BENTOML_HOME"):
        package(version_of(gan_folder), gan_folder, config=PackagingConfig())
