"""One lock over changes to a store, however many processes, homes and machines share it."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock

from aigc_ops.core.state_dir import home
from aigc_ops.registry.client import faults, sqlite_file

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK_NAME = "aigc-ops"
LOCK_NUMBER = int.from_bytes(hashlib.sha256(LOCK_NAME.encode()).digest()[:8], signed=True)
"""PostgreSQL's advisory locks are named by 64-bit numbers."""


@contextmanager
def store_lock() -> Iterator[None]:
    """Hold the store for a change; the lock ends with its process, even by kill -9.

    Of an SQLite store it is a file beside the database, of PostgreSQL and MySQL the database's
    own lock, so it holds for every home and machine. A tracking server offers none: there the
    lock is this home's alone.
    """
    from mlflow import get_tracking_uri

    uri = get_tracking_uri()
    database = sqlite_file(uri)
    file = database.with_name("registry.lock") if database else home() / "registry.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file):
        if uri.startswith(("postgresql", "mysql")):
            with _database_lock(uri):
                yield
        else:
            yield


@contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """A lock of the session, which the server lets go when the connection ends."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    with faults("locking the store"):
        connection = create_engine(uri, poolclass=NullPool).connect()
    with connection:
        with faults("locking the store"):
            _lock(connection)
        yield


def _lock(connection: "Connection") -> None:
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": LOCK_NUMBER})
    else:
        connection.execute(text("SELECT GET_LOCK(:name, -1)"), {"name": LOCK_NAME})
