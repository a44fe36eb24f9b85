"""The state directory, its lock, and the environment variables that point into it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from aigc_ops.core.project import VARIABLE, project_root

LEAST_FREE_BYTES = 2**20
TELEMETRY_OFF = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PRIVATE_FOLDERS = {
    "DVC_SITE_CACHE_DIR": "dvc-site-cache",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
}
"""Folders that `aigc_ops.core.private_folders` creates and checks, by environment variable."""


def home() -> Path:
    """Return the state directory: `AIGC_OPS_HOME`, else `.aigc_ops` in the project.

    Outside a project it is in the working folder.
    """
    if named := os.environ.get("AIGC_OPS_HOME"):
        return Path(named).expanduser().absolute()
    return (project_root() or Path()).absolute() / ".aigc_ops"


def export_environment() -> None:
    """Create the state directory, point libraries at it by environment variables, no telemetry.

    A variable that is set already keeps its value, except those of the private folders. Call it
    before Prefect, MLflow and BentoML are imported, since they read their settings at import.
    """
    root = home()
    # Child processes may run in another working folder, and belong to this project.
    if project := project_root():
        os.environ[VARIABLE] = str(project)
    defaults = {
        "PREFECT_HOME": str(root / "prefect"),
        # Prefect 3.8 derives these two from ~/.prefect, whatever its home is.
        "PREFECT_LOCAL_STORAGE_PATH": str(root / "prefect" / "storage"),
        "PREFECT_MEMO_STORE_PATH": str(root / "prefect" / "memo_store.toml"),
        "BENTOML_HOME": str(root / "bentoml"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow' / 'mlflow.db'}",
        # Importing MLflow would reconfigure logging: it closes all handlers, and deadlocks on
        # Prefect's, which sends records in a thread of its own.
        "MLFLOW_CONFIGURE_LOGGING": "false",
        **TELEMETRY_OFF,
    }
    root.mkdir(parents=True, exist_ok=True)
    # Created now, because a library would create the folder with the umask's mode, open to
    # others. Errors are ignored here: `private_folders.claim` checks the folder before its use.
    for variable, name in PRIVATE_FOLDERS.items():
        os.environ[variable] = str(root / name)
        with suppress(OSError):
            (root / name).mkdir(mode=0o700)
    # `or`, since a variable that is set to nothing counts as unset.
    for variable, value in defaults.items():
        os.environ[variable] = os.environ.get(variable) or value
    _exempt_loopback()


def _exempt_loopback() -> None:
    """Keep requests to servers on this machine away from every proxy."""
    # A proxy elsewhere would answer for its own loopback. Libraries read one spelling or the other,
    # so both variables get the hosts of both.
    variables = ("no_proxy", "NO_PROXY")
    hosts = [host for variable in variables for host in os.environ.get(variable, "").split(",")]
    merged = dict.fromkeys([*filter(None, map(str.strip, hosts)), *LOOPBACK])
    for variable in variables:
        os.environ[variable] = ",".join(merged)


def num_processes() -> int:
    """Return the number of processes in torchrun's process group, this one included."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_first_process() -> bool:
    """Return True for rank 0 of a process group and for a single process."""
    return num_processes() == 1 or os.environ.get("RANK", "0") == "0"


def full_disk_message(path: Path, num_bytes: int = LEAST_FREE_BYTES) -> str | None:
    """Return a message if fewer than `num_bytes` are free on the disk of a path, else None."""
    # For errors of other programs: on a full disk their logs end before the reason.
    free = shutil.disk_usage(path).free
    if free >= num_bytes:
        return None
    remaining = "no space is" if free < LEAST_FREE_BYTES else f"only {free:,} bytes are"
    return f"{remaining} left on the disk of {path}"


@contextmanager
def lock_state_dir(waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of the state directory; if it is taken, call `waiting(holder)` and wait.

    `waiting` may raise an error instead of waiting.
    """
    from filelock import FileLock, Timeout

    root = home()
    root.mkdir(parents=True, exist_ok=True)
    holder = root / "holder"
    # A lock of the kernel, which ends with the process that holds it, even by kill -9. A
    # singleton, so that the flow may take it again inside a command that holds it.
    lock = FileLock(root / "lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        name = holder.read_text(encoding="utf-8").strip() if holder.exists() else "another run"
        waiting(name)
        lock.acquire()
    # Only for the message of the next one that waits: after a kill the file is stale.
    try:
        holder.write_text(f"process {os.getpid()}", encoding="utf-8")
        yield
    finally:
        lock.release()
