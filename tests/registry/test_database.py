"""A database of an older or newer MLflow: upgraded whole with its old content kept, or refused."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from aigc_ops.core.errors import RegistryError
from aigc_ops.registry.client import connect
from tests.old_home.place import ARCHIVE

OLD_REVISION = "6f8d9c3b2a1e"


@pytest.fixture(scope="session")
def old_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of the old home, which MLflow 3.15.2 made."""
    folder = tmp_path_factory.mktemp("old-database")
    with tarfile.open(ARCHIVE) as archive:
        archive.extract("home/mlflow/mlflow.db", folder, filter="data")
    return folder / "home" / "mlflow" / "mlflow.db"


def revision(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def models(database: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT name, version FROM model_versions").fetchall()


def test_the_state_directorys_own_is_upgraded_and_its_old_content_kept(
    store: Path, old_database: Path, empty_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copyfile(old_database, store)
    before = models(store)
    assert before
    connect()
    assert revision(store) == revision(empty_database) != OLD_REVISION
    assert models(store) == before
    kept = store.with_name(f"mlflow.db.{OLD_REVISION}.backup")
    assert (revision(kept), models(kept)) == (OLD_REVISION, before)
    assert str(kept) in caplog.text
    assert not list(store.parent.glob("*.partial*"))
    caplog.clear()
    connect()
    assert not caplog.text


@pytest.mark.slow
def test_a_kill_among_the_migrations_leaves_the_old_content(
    store: Path, old_database: Path, empty_database: Path
) -> None:
    shutil.copyfile(old_database, store)
    code = "from aigc_ops.registry.client import connect; connect()"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not store.with_name(f"mlflow.db.{OLD_REVISION}.backup").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert (revision(store), models(store)) == (OLD_REVISION, models(old_database))
    connect()
    assert revision(store) == revision(empty_database)
    assert not list(store.parent.glob("*.partial*"))


def test_a_change_by_another_process_meanwhile_is_not_lost(
    store: Path, old_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow.db

    shutil.copyfile(old_database, store)
    upgrade = mlflow.db.upgrade.main

    def write_and_upgrade(*args: object, **settings: object) -> None:
        with closing(sqlite3.connect(store)) as connection:
            connection.execute("UPDATE experiments SET name = 'renamed' WHERE experiment_id = 0")
            connection.commit()
        upgrade(*args, **settings)

    monkeypatch.setattr(mlflow.db.upgrade, "main", write_and_upgrade)
    with pytest.raises(RegistryError, match=r"was written to .* stop the other runs and repeat"):
        connect()
    assert revision(store) == OLD_REVISION
    monkeypatch.undo()
    monkeypatch.setenv("AIGC_OPS_HOME", str(store.parents[1]))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    assert connect().get_experiment("0").name == "renamed"


def test_one_outside_the_state_directory_is_refused_and_left_as_it_was(
    old_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared.db"
    shutil.copyfile(old_database, shared)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    with pytest.raises(RegistryError, match=f"schema {OLD_REVISION} of an older") as error:
        connect()
    assert str(error.value).endswith('then run: mlflow db upgrade "$MLFLOW_TRACKING_URI"')
    assert shared.read_bytes() == old_database.read_bytes()


@pytest.mark.slow
def test_the_command_that_a_refusal_names_upgrades_the_database(
    old_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared.db"
    shutil.copyfile(old_database, shared)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    with pytest.raises(RegistryError) as error:
        connect()
    command = str(error.value).partition("then run: ")[2]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, shell=True, env={**os.environ, "PATH": path}, check=True)
    assert connect().search_registered_models()


def test_a_newer_schema_is_refused_with_what_to_do(store: Path) -> None:
    with closing(sqlite3.connect(store)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'from2030'")
        connection.commit()
    with pytest.raises(RegistryError, match=r"schema from2030, which MLflow .* does not know"):
        connect()
