"""The folder of one training run: its checkpoints by step, and its samples to look at."""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.core.atomic_dirs import PROVENANCE, recover, verify_folder, write_folder
from aigc_ops.core.errors import CheckpointError
from aigc_ops.interfaces.media import Media
from aigc_ops.storage.checkpoints import read_checkpoint
from aigc_ops.training.state import Snapshot

FINISHED = "finished.json"


class RunFolder:
    """`step-00000500/` checkpoints, and `samples/` with a grid or texts per step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after `step` lies, or will lie."""
        return self.path / f"step-{step:08d}"

    def newest(self) -> Path | None:
        """The newest whole checkpoint; a damaged one is passed over with a warning."""
        for retired in self.path.glob(".step-*.retired"):
            recover(self.path / retired.name.split(".")[1])
        for folder in sorted(self.path.glob("step-*"), reverse=True):
            try:
                verify_folder(folder)
            except CheckpointError as error:
                warnings.warn(f"passed over a damaged checkpoint: {error}", stacklevel=2)
            else:
                return folder
        return None

    def healthy(self, step: int) -> Path | None:
        """The checkpoint after `step` if it lies there whole."""
        try:
            verify_folder(self.checkpoint(step))
        except CheckpointError:
            return None
        return self.checkpoint(step)

    def finished(self, steps: int) -> Checkpoint | None:
        """What a run of so many steps ended with, if one came to its end here."""
        try:
            end = json.loads((self.path / FINISHED).read_text())
            if end["steps"] == steps:
                return read_checkpoint(self.checkpoint(end["step"]))
        except (OSError, ValueError, KeyError, CheckpointError):
            pass
        return None

    def finish(self, *, steps: int, step: int) -> Checkpoint:
        """Note that a run of so many steps has ended with the checkpoint after `step`."""
        checkpoint = read_checkpoint(self.checkpoint(step))
        partial = self.path / f".{FINISHED}.partial"
        partial.write_text(json.dumps({"steps": steps, "step": step}) + "\n")
        partial.replace(self.path / FINISHED)
        return checkpoint

    def write(self, snapshot: Snapshot, provenance: Mapping[str, Any], *, keep: int) -> None:
        """Write a checkpoint, whole or not at all; then remove those no longer needed.

        The newest `keep` stay, and the best and the last healthy one.
        """
        progress = snapshot.record["progress"]

        def fill(folder: Path) -> None:
            snapshot.write(folder)
            record = {"step": progress["step"], **provenance}
            (folder / PROVENANCE).write_text(json.dumps(record, indent=2) + "\n")
            for samples in self._samples(progress["step"]).glob("samples.*"):
                shutil.copy(samples, folder)

        write_folder(self.checkpoint(progress["step"]), fill)
        needed = {self.checkpoint(progress[name]) for name in ("best_step", "last_healthy")}
        for folder in set(sorted(self.path.glob("step-*"))[:-keep]) - needed:
            shutil.rmtree(folder)
        for partial in self.path.glob(".step-*.partial"):
            shutil.rmtree(partial, ignore_errors=True)

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, which a rollback has refuted."""
        for folder in self.path.glob("step-*"):
            if folder > self.checkpoint(step):
                shutil.rmtree(folder)

    def keep_samples(self, medium: Media, step: int) -> Path:
        """Keep the step's samples, whole or not at all; return their file."""
        path = self._samples(step) / f"samples{medium.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(medium.encoded())
        partial.replace(path)
        return path

    def _samples(self, step: int) -> Path:
        return self.path / "samples" / f"step-{step:08d}"


class CheckpointWriter:
    """Writes checkpoints one after another beside the training; as a context, waits at its end."""

    def __init__(self, folder: RunFolder, *, keep: int, is_writer: bool) -> None:
        self._folder, self._keep, self._is_writer = folder, keep, is_writer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def write(self, take: Callable[[], Snapshot], provenance: Mapping[str, Any]) -> None:
        """Take a snapshot and begin to write it, once the one before lies on the disk."""
        if not self._is_writer:
            return
        self.wait()
        self._writing = self._thread.submit(
            self._folder.write, take(), dict(provenance), keep=self._keep
        )

    def wait(self) -> None:
        """Until the last checkpoint lies whole on the disk."""
        if self._writing:
            self._writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()
