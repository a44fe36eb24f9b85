"""Connects to MLflow's store and translates its errors."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from aigc_ops.core.errors import RegistryError
from aigc_ops.core.state_dir import export_environment, home
from aigc_ops.registry.database import create_sqlite, require_current_schema, sqlite_file

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

EXPERIMENT = "aigc-ops"
ABSENT_TAG = "aigc_ops.absent"
REACH_SECONDS = 5  # MLflow's own client would wait and retry for minutes
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

# MLflow's defaults retry an absent server for minutes, and print progress bars of their own.
QUIET_AND_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def connect() -> "MlflowClient":
    """Return a client of MLFLOW_TRACKING_URI's store; default: SQLite in the state directory.

    Raises RegistryError within seconds if the server does not answer, and if the database has
    another MLflow's schema that must not be upgraded here.
    """
    export_environment()
    for variable, value in QUIET_AND_QUICK.items():
        os.environ.setdefault(variable, value)
    from mlflow import get_tracking_uri
    from mlflow.tracking import MlflowClient

    uri = get_tracking_uri()
    with faults("connecting"):
        if database := sqlite_file(uri):
            create_sqlite(database)
        else:
            _require_answer(uri)
        try:
            if not is_http(uri):
                require_current_schema(uri)
            return MlflowClient()
        except ModuleNotFoundError as error:
            raise RegistryError(
                f"MLflow's store {address(uri)} needs the package {error.name}; install it "
                "into this environment (psycopg2-binary for PostgreSQL)"
            ) from error


def experiment_id(client: "MlflowClient") -> str:
    """Return the id of the experiment MLFLOW_EXPERIMENT_NAME or `aigc-ops`; created if absent."""
    from mlflow.exceptions import MlflowException

    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    with faults(f"opening experiment {name!r}"):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            database = sqlite_file(client.tracking_uri)
            folder = database.parent if database else home() / "mlflow"
            # A server has its own artifact store. For other stores MLflow's default is a folder in
            # the working directory, which differs from command to command.
            location = None if is_http(client.tracking_uri) else str(folder / "artifacts")
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as error:
                # Another process was faster.
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        raise RegistryError(
            f"MLflow's experiment {name!r} was deleted; restore it in the MLflow UI, "
            "or set MLFLOW_EXPERIMENT_NAME to another name"
        )
    return str(experiment.experiment_id)


def require_writable(client: "MlflowClient", name: str) -> None:
    """Raise RegistryError unless the credentials may change the experiment and a model.

    A model that does not exist yet may be registered by every user of a server.
    """
    from mlflow.exceptions import MlflowException

    # Deleting a tag that is not there changes nothing, but needs the permission to write.
    experiment = experiment_id(client)
    for what, delete in {
        f"writing to experiment {experiment}": partial(client.delete_experiment_tag, experiment),
        f"writing to model {name!r}": partial(client.delete_registered_model_tag, name),
    }.items():
        with faults(what):
            try:
                delete(ABSENT_TAG)
            except MlflowException as error:
                # The tag or the model is absent, or an older server has no such request.
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "ENDPOINT_NOT_FOUND"):
                    raise


@contextmanager
def faults(action: str) -> Iterator[None]:
    """Translate errors of MLflow, its database and the network into RegistryError."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        # SQLAlchemy appends the statement and its parameters, on further lines.
        first_line = str(error).strip().partition("\n")[0]
        raise RegistryError(
            f"{action} failed at MLflow's store {address()}: {first_line}; "
            "check that it runs, has space and accepts your credentials, then run again"
        ) from error


def address(uri: str | None = None) -> str:
    """Return the store's address without user name, password and query."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    parts = urlsplit(uri)
    # urllib would drop the empty authority of sqlite:///file, and with it two slashes.
    if not parts.netloc:
        return uri.partition("?")[0]
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def is_http(uri: str) -> bool:
    """Return whether the address is a tracking server's, not a database's."""
    return urlsplit(uri).scheme in ("http", "https")


def _require_answer(uri: str) -> None:
    """Raise RegistryError unless something answers at the address."""
    import requests

    parts = urlsplit(uri)
    try:
        if is_http(uri):
            requests.get(f"{address(uri).rstrip('/')}/health", timeout=REACH_SECONDS).close()
        elif port := parts.port or _database_port(parts):
            socket.create_connection((parts.hostname or "", port), REACH_SECONDS).close()
    except requests.exceptions.SSLError:
        return  # it answers; which certificates are trusted is set by MLflow's own variables
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"MLflow's store {address(uri)} does not answer ({_reason(error)}); start it, correct "
            "MLFLOW_TRACKING_URI, or unset it to use the SQLite file of AIGC_OPS_HOME"
        ) from error


def _reason(error: BaseException) -> str:
    """Return the innermost cause; the outer ones only repeat the address."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return str(error)


def _database_port(parts: SplitResult) -> int | None:
    return DATABASE_PORTS.get(parts.scheme.split("+")[0]) if parts.hostname else None
