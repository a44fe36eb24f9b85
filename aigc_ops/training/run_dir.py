"""Folder of one training run: its checkpoints by step, and its preview samples."""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.core.atomic_dirs import PROVENANCE, recover, verify_folder, write_folder
from aigc_ops.core.errors import CheckpointError, TrainingError
from aigc_ops.core.state_dir import full_disk_message
from aigc_ops.interfaces.media import Media
from aigc_ops.storage.checkpoints import read_checkpoint
from aigc_ops.training.state import Snapshot

FINISHED = "finished.json"


class RunFolder:
    """Checkpoints `step-00000500/`, and `samples/` with a preview per step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def checkpoint(self, step: int) -> Path:
        """Return the path of the checkpoint after `step`, which need not exist."""
        return self.path / f"step-{step:08d}"

    def newest(self) -> Path | None:
        """Return the newest complete checkpoint; skip damaged ones with a warning."""
        # A process killed while it replaced a folder may leave only the old one, renamed.
        for retired in self.path.glob(".step-*.retired"):
            recover(self.path / retired.name.split(".")[1])
        for folder in sorted(self.path.glob("step-*"), reverse=True):
            try:
                verify_folder(folder)
            except CheckpointError as error:
                warnings.warn(f"skipped a damaged checkpoint: {error}", stacklevel=2)
            else:
                return folder
        return None

    def verified(self, step: int) -> Path | None:
        """Return the checkpoint after `step` if it exists and its digests match, else None."""
        try:
            verify_folder(self.checkpoint(step))
        except CheckpointError:
            return None
        return self.checkpoint(step)

    def finished(self, steps: int) -> Checkpoint | None:
        """Return the final checkpoint if a run of this many steps has finished here."""
        # Anything unreadable means unfinished: training then resumes and writes it anew.
        try:
            end = json.loads((self.path / FINISHED).read_text(encoding="utf-8"))
            if end["steps"] == steps:
                return read_checkpoint(self.checkpoint(end["step"]))
        except (OSError, ValueError, KeyError, CheckpointError):
            pass
        return None

    def finish(self, *, steps: int, step: int) -> Checkpoint:
        """Record that a run of `steps` has finished with the checkpoint after `step`."""
        # The checkpoint is read first, so that a record never names one that does not exist.
        checkpoint = read_checkpoint(self.checkpoint(step))
        partial = self.path / f".{FINISHED}.partial"
        partial.write_text(json.dumps({"steps": steps, "step": step}) + "\n", encoding="utf-8")
        partial.replace(self.path / FINISHED)
        return checkpoint

    def write(self, snapshot: Snapshot, provenance: Mapping[str, Any], *, keep: int) -> None:
        """Write a checkpoint atomically, then remove those no longer needed.

        The newest `keep` remain, and so do the best and the last healthy one.
        """
        progress = snapshot.record["progress"]

        def fill(folder: Path) -> None:
            snapshot.write(folder)
            record = {"step": progress["step"], **provenance}
            (folder / PROVENANCE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            for samples in self._samples(progress["step"]).glob("samples.*"):
                shutil.copy(samples, folder)

        # 1. Write, then 2. remove: a crash in between leaves too many checkpoints, never none.
        write_folder(self.checkpoint(progress["step"]), fill)
        needed = {self.checkpoint(progress[name]) for name in ("best_step", "last_healthy")}
        for folder in set(sorted(self.path.glob("step-*"))[:-keep]) - needed:
            shutil.rmtree(folder)
        # 3. Remove what killed processes left half-written; nobody else writes here.
        for partial in self.path.glob(".step-*.partial"):
            shutil.rmtree(partial, ignore_errors=True)

    def require_space(self, checkpoint_bytes: int, num: int) -> None:
        """Raise TrainingError unless `num` checkpoints fit on the disk, those here included."""
        needed = checkpoint_bytes * max(1, num - len(list(self.path.glob("step-*"))))
        self.path.mkdir(parents=True, exist_ok=True)
        if shortage := full_disk_message(self.path, needed):
            raise TrainingError(
                f"{shortage}, and the checkpoints need {needed:,}; free space (`aigc-ops cache "
                "prune`), keep fewer (--training.keep-checkpoints 1), or set AIGC_OPS_HOME to "
                "another disk"
            )

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, which a rollback has invalidated."""
        for folder in self.path.glob("step-*"):
            if folder > self.checkpoint(step):
                shutil.rmtree(folder)

    def write_samples(self, medium: Media, step: int) -> Path:
        """Write the step's samples atomically; return their path."""
        path = self._samples(step) / f"samples{medium.suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_bytes(medium.encoded())
        partial.replace(path)
        return path

    def _samples(self, step: int) -> Path:
        return self.path / "samples" / f"step-{step:08d}"


class CheckpointWriter:
    """Writer of checkpoints in a background thread; leaving its context waits for the last."""

    def __init__(self, folder: RunFolder, *, keep: int, is_writer: bool) -> None:
        self._folder, self._keep, self._is_writer = folder, keep, is_writer
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def write(self, take: Callable[[], Snapshot], provenance: Mapping[str, Any]) -> None:
        """Take a snapshot and start writing it, after the previous one is on disk."""
        if not self._is_writer:
            return
        # At most one snapshot is in memory; an error of the last write is raised here.
        self.wait()
        self._writing = self._thread.submit(
            self._folder.write, take(), dict(provenance), keep=self._keep
        )

    def wait(self) -> None:
        """Block until the last checkpoint is on disk; raise the error of a failed write."""
        if self._writing:
            self._writing.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        # After an error in the block that error is reported, not one of the writing.
        if kind is None:
            self.wait()
