"""Creates MLflow's database and checks that its schema is the installed MLflow's."""

import logging
import shutil
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from aigc_ops.core.errors import RegistryError
from aigc_ops.core.state_dir import home

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

logger = logging.getLogger(__name__)


def sqlite_file(uri: str) -> Path | None:
    """Return the database file of an SQLite address, None for other stores."""
    # The scheme may name a driver too: sqlite+pysqlite.
    scheme, _, path = uri.partition(":///")
    return Path(path).absolute() if scheme.split("+")[0] == "sqlite" and path else None


def create_sqlite(database: Path) -> None:
    """Create the database with its tables, atomically, unless it exists."""
    if database.exists():
        return
    from mlflow.tracking import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    # MLflow's migrations take seconds. A kill among them would leave a file that no later run can
    # open, so they run on a hidden sibling.
    with _hidden_sibling(database) as partial:
        if not database.exists():  # another process may have held the lock before
            MlflowClient(tracking_uri=f"sqlite:///{partial}")
            partial.rename(database)


def require_current_schema(uri: str) -> None:
    """Upgrade the state directory's own database if an older MLflow made it; refuse any other.

    Raises RegistryError for another database with an older schema, and for one with a newer schema.
    MLflow itself would upgrade a database without a copy of it as soon as tables are missing, and
    other machines may still use it with the older version.
    """
    database = sqlite_file(uri)
    try:
        # A database of another time may take the place of this one, which the inode shows.
        _require_current(uri, database.stat().st_ino if database else None)
    except _OlderSchema as older:
        if not (database and database.is_relative_to(home())):
            raise
        _upgrade_sqlite(database, older.revision)


class _OlderSchema(RegistryError):
    def __init__(self, revision: str) -> None:
        super().__init__(
            f"MLflow's store has the schema {revision} of an older MLflow. Stop what uses it, back "
            'it up, then run: mlflow db upgrade "$MLFLOW_TRACKING_URI"'
        )
        self.revision = revision


@lru_cache(maxsize=8)  # keeps what is current; an error is raised, and found again, each time
def _require_current(uri: str, _inode: int | None) -> None:
    """Raise _OlderSchema, or RegistryError if the schema is newer than the installed MLflow's."""
    scripts = _migrations()
    revision = _revision(uri)
    if revision in (None, *scripts.get_heads()):  # None: empty, MLflow will create its tables
        return
    if revision in {script.revision for script in scripts.walk_revisions()}:
        raise _OlderSchema(revision)
    import mlflow

    raise RegistryError(
        f"MLflow's store has the schema {revision}, which MLflow {mlflow.__version__} does not "
        "know: a newer version made or upgraded it; install that version of aigc-ops"
    )


def _migrations() -> "ScriptDirectory":
    """Return the migrations of the installed MLflow."""
    import mlflow.store
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option(
        "script_location", str(Path(mlflow.store.__path__[0]) / "db_migrations").replace("%", "%%")
    )
    return ScriptDirectory.from_config(config)


def _revision(uri: str) -> str | None:
    from alembic.migration import MigrationContext
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    with create_engine(uri, poolclass=NullPool).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def _upgrade_sqlite(database: Path, revision: str) -> None:
    """Upgrade the database's schema in one transaction, and keep a copy of the old content.

    MLflow's migrations are many transactions, and a kill among them would leave a database that no
    version can open. They run on a copy, whose pages are then written back.
    """
    import mlflow.db

    with _hidden_sibling(database) as partial:
        if _revision(f"sqlite:///{database}") != revision:  # another process upgraded it
            return
        kept = database.with_name(f"{database.name}.{revision}.backup")
        with closing(sqlite3.connect(database)) as store:
            seen = _data_version(store)
            with closing(sqlite3.connect(partial)) as copy:
                store.backup(copy)
            partial.replace(kept)
            shutil.copyfile(kept, partial)
            mlflow.db.upgrade.main([f"sqlite:///{partial}"], standalone_mode=False)
            with closing(sqlite3.connect(partial)) as upgraded:
                if _data_version(store) != seen:
                    raise RegistryError(
                        f"{database} was written to while its schema was upgraded, and is left as "
                        "it was; stop the other runs and repeat the command"
                    )
                upgraded.backup(store)
            partial.unlink()
        logger.warning("MLflow's database has a new schema; its old content: %s", kept)


def _data_version(store: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has written to the database."""
    return int(store.execute("PRAGMA data_version").fetchone()[0])


@contextmanager
def _hidden_sibling(database: Path) -> Iterator[Path]:
    """Lock the database's creation and upgrade, and yield a path beside it for a temporary file."""
    with FileLock(database.with_name(f".{database.name}.lock")):
        for stale in database.parent.glob(f".{database.name}.*.partial*"):
            stale.unlink()
        yield database.with_name(f".{database.name}.{uuid.uuid4().hex}.partial")
