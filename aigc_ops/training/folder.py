"""The folder of one training run: its checkpoints by step, and its samples to look at."""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from aigc_ops.artifacts import Checkpoint
from aigc_ops.checkpoints import (
    PROVENANCE,
    read_checkpoint,
    verify_folder,
    write_folder,
    write_model,
)
from aigc_ops.errors import CheckpointError
from aigc_ops.training.state import TrainingState


class RunFolder:
    """`step-00000500/` checkpoints, and `samples/` with a grid or texts per step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint after `step` lies, or will lie."""
        return self.path / f"step-{step:08d}"

    def newest(self) -> Path | None:
        """The newest whole checkpoint; a damaged one is passed over with a warning."""
        for folder in sorted(self.path.glob("step-*"), reverse=True):
            try:
                verify_folder(folder)
            except CheckpointError as error:
                warnings.warn(f"passed over a damaged checkpoint: {error}", stacklevel=2)
            else:
                return folder
        return None

    def finished(self, steps: int) -> Checkpoint | None:
        """The checkpoint after the last step, if training already came so far."""
        newest = self.newest()
        return read_checkpoint(newest) if newest == self.checkpoint(steps) else None

    def save(self, state: TrainingState, provenance: Mapping[str, Any]) -> None:
        """Write a checkpoint of the state, whole or not at all."""

        def fill(folder: Path) -> None:
            with state.averages.applied():
                write_model(state.model, folder)
                state.save(folder)
            record = {"step": state.step, **provenance}
            (folder / PROVENANCE).write_text(json.dumps(record, indent=2) + "\n")
            for samples in self._samples(state.step).glob("samples.*"):
                shutil.copy(samples, folder)

        write_folder(self.checkpoint(state.step), fill)

    def prune(self, *, keep: int) -> None:
        """Remove all but the newest `keep` checkpoints, and what a kill left half-written."""
        for folder in sorted(self.path.glob("step-*"))[:-keep]:
            shutil.rmtree(folder)
        for partial in self.path.glob(".*.partial"):
            shutil.rmtree(partial, ignore_errors=True)

    def keep_grid(self, grid: Image.Image, step: int) -> None:
        """Keep the step's sample grid as PNG."""
        self._keep(step, "samples.png", lambda path: grid.save(path, format="PNG"))

    def keep_texts(self, texts: str, step: int) -> None:
        """Keep the step's sample texts."""
        self._keep(step, "samples.txt", lambda path: path.write_text(texts, encoding="utf-8"))

    def _keep(self, step: int, name: str, write: Callable[[Path], object]) -> None:
        path = self._samples(step) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial := path.with_suffix(".partial"))
        partial.replace(path)

    def _samples(self, step: int) -> Path:
        return self.path / "samples" / f"step-{step:08d}"
