"""A lock for changes to a store that processes and machines share."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filelock import FileLock

from aigc_ops.core.state_dir import home
from aigc_ops.registry.client import faults
from aigc_ops.registry.database import sqlite_file

if TYPE_CHECKING:
    from sqlalchemy import Connection

LOCK_NAME = "aigc-ops"
LOCK_NUMBER = int.from_bytes(hashlib.sha256(LOCK_NAME.encode()).digest()[:8], signed=True)
"""Name of the lock in PostgreSQL, whose advisory locks have signed 64-bit numbers."""


@contextmanager
def store_lock() -> Iterator[None]:
    """Hold the store's lock during a change.

    For SQLite it is a file beside the database, for PostgreSQL and MySQL the database's own lock:
    both are shared by all state directories and machines. A tracking server has no lock to offer,
    so there only the processes of this state directory exclude one another.
    """
    from mlflow import get_tracking_uri

    uri = get_tracking_uri()
    database = sqlite_file(uri)
    file = database.with_name("registry.lock") if database else home() / "registry.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    # Both kinds of lock are released by the system when the process ends, also by kill -9: a lock
    # that must be removed by hand would block every promotion after a crash.
    with FileLock(file):
        if uri.startswith(("postgresql", "mysql")):
            with _database_lock(uri):
                yield
        else:
            yield


@contextmanager
def _database_lock(uri: str) -> Iterator[None]:
    """Hold a lock of the database session; the server releases it when the connection ends."""
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    with faults("locking the store"):
        # NullPool: closing a pooled connection would return it to the pool with its lock.
        connection = create_engine(uri, poolclass=NullPool).connect()
    with connection:
        with faults("locking the store"):
            _lock(connection)
        yield  # outside `faults`, which would report errors of the caller as errors of the lock


def _lock(connection: "Connection") -> None:
    from sqlalchemy import text

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": LOCK_NUMBER})
    else:
        # -1: wait without a limit, as PostgreSQL does.
        connection.execute(text("SELECT GET_LOCK(:name, -1)"), {"name": LOCK_NAME})
