"""The interface by which a stage logs metrics and files; the registry implements it for MLflow."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from tqdm import tqdm

_subjects: ContextVar[tuple[str, ...]] = ContextVar("subjects", default=())
"""What the current work is about, for progress bars; the outermost first."""


class Tracker(Protocol):
    """A log of metrics, images and files of one run, in order of step."""

    @property
    def run_id(self) -> str | None:
        """Identifier of the MLflow run; None if nothing is recorded."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None: ...

    def log_image(self, key: str, image: Image.Image, *, step: int) -> None: ...

    def log_text(self, text: str, artifact_file: str) -> None: ...

    def log_bytes(self, content: bytes, artifact_file: str) -> None: ...

    def log_file(self, path: Path, artifact_folder: str) -> None: ...

    def curves(self) -> Mapping[str, Sequence[tuple[int, float]]]:
        """Return the logged values of each metric as (step, value), in order of step."""


class SilentTracker:
    """A tracker that records nothing, for stages that are called without a registry."""

    run_id: str | None = None

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        pass

    def log_image(self, key: str, image: Image.Image, *, step: int) -> None:
        pass

    def log_text(self, text: str, artifact_file: str) -> None:
        pass

    def log_bytes(self, content: bytes, artifact_file: str) -> None:
        pass

    def log_file(self, path: Path, artifact_folder: str) -> None:
        pass

    def curves(self) -> Mapping[str, Sequence[tuple[int, float]]]:
        return {}


@contextmanager
def progress_of(subject: str) -> Iterator[None]:
    """Name the subject of the work, such as `version 3`, in progress bars within the block."""
    token = _subjects.set((*_subjects.get(), subject) if subject else _subjects.get())
    try:
        yield
    finally:
        _subjects.reset(token)


def progress_bar(iterable: Any = None, *, desc: str, **options: Any) -> Any:
    """Return a tqdm bar on standard error, redrawn every 0.1 s, in a log file every 10 s.

    Before the description stand the subjects of `progress_of`.
    """
    # In a file each redraw is a new line.
    interval = 0.1 if sys.stderr.isatty() else 10.0
    subjects = ", ".join(_subjects.get())
    return tqdm(
        iterable,
        file=sys.stderr,
        mininterval=interval,
        maxinterval=interval,
        desc=f"{subjects}: {desc}" if subjects else desc,
        **options,
    )
