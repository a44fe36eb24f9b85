"""Where a run leaves its state, and the one lock over it."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
PRIVATE_FOLDERS = {
    "DVC_SITE_CACHE_DIR": "dvc-site-cache",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
}
"""Folders of the home that `aigc_ops.core.private_folders` makes and checks, by their variable."""


def home() -> Path:
    """Folder of everything a run leaves: `AIGC_OPS_HOME`, or `.aigc_ops` here."""
    return Path(os.environ.get("AIGC_OPS_HOME") or ".aigc_ops").expanduser().absolute()


def export_environment() -> None:
    """Make the home, point every library that keeps files at it, and switch telemetry off.

    Variables that are already set, and not empty, win, so a server takes over a part by its own
    well-known variable; those of the private folders do not. Call it before those libraries are
    imported: they read their settings at import.
    """
    root = home()
    defaults = {
        "PREFECT_HOME": str(root / "prefect"),
        # Prefect 3.8 derives these two from ~/.prefect, whatever its home is.
        "PREFECT_LOCAL_STORAGE_PATH": str(root / "prefect" / "storage"),
        "PREFECT_MEMO_STORE_PATH": str(root / "prefect" / "memo_store.toml"),
        "BENTOML_HOME": str(root / "bentoml"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow' / 'mlflow.db'}",
        # Its import would close all log handlers, and wait for ever on Prefect's at work.
        "MLFLOW_CONFIGURE_LOGGING": "false",
        **TELEMETRY_OFF,
    }
    root.mkdir(parents=True, exist_ok=True)
    for variable, name in PRIVATE_FOLDERS.items():
        os.environ[variable] = str(root / name)
        with suppress(OSError):  # whoever uses the folder checks it
            (root / name).mkdir(mode=0o700)  # before a library makes it, open to others
    for variable, value in defaults.items():
        os.environ[variable] = os.environ.get(variable) or value


def num_processes() -> int:
    """How many processes torchrun has started to train together, this one included."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_first_process() -> bool:
    """Whether this process acts for all that torchrun started with it; one alone does."""
    return num_processes() == 1 or os.environ.get("RANK", "0") == "0"


def full_disk(path: Path, num_bytes: int = LEAST_FREE_BYTES) -> str | None:
    """That the disk of this path lacks room for so much, in words; None where it has it.

    For errors of other programs, whose logs end before they could say so.
    """
    free = shutil.disk_usage(path).free
    if free >= num_bytes:
        return None
    left = "no space is" if free < LEAST_FREE_BYTES else f"only {free:,} bytes are"
    return f"{left} left on the disk of {path}"


@contextmanager
def exclusive(waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the home for one run or stage; a second waits its turn and is told for whom.

    The lock is the kernel's, so it ends with the process that holds it, even by kill -9.
    """
    from filelock import FileLock, Timeout

    root = home()
    root.mkdir(parents=True, exist_ok=True)
    holder = root / "holder"
    lock = FileLock(root / "lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        name = holder.read_text().strip() if holder.exists() else "another run"
        waiting(name)
        lock.acquire()
    try:
        holder.write_text(f"process {os.getpid()}")
        yield
    finally:
        lock.release()
