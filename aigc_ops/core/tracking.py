"""What a stage may report while it works; the registry implements it over MLflow."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from tqdm import tqdm


class Tracker(Protocol):
    """Receives metrics and pictures of one run, in order of step."""

    @property
    def run_id(self) -> str | None:
        """Identifier of the tracking run, None when nothing is kept."""

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None: ...

    def log_image(self, key: str, image: Image.Image, *, step: int) -> None: ...

    def log_text(self, text: str, artifact_file: str) -> None: ...

    def log_bytes(self, content: bytes, artifact_file: str) -> None: ...

    def log_file(self, path: Path, artifact_folder: str) -> None: ...

    def curves(self) -> Mapping[str, Sequence[tuple[int, float]]]:
        """What was reported of each metric so far, (step, value) in order of step."""


class SilentTracker:
    """Keeps nothing: for stages called from Python without a registry."""

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


def progress_bar(iterable: Any = None, **options: Any) -> Any:
    """A tqdm bar on standard error; in a log file a line each ten seconds, not each tick."""
    interval = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(iterable, file=sys.stderr, mininterval=interval, maxinterval=interval, **options)
