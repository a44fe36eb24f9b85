"""Parts of several benchmarks: a short training, a process of its own, a peer's environment."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from aigc_ops.core.artifacts import Checkpoint, DatasetRef
from aigc_ops.core.tracking import SilentTracker, Tracker
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import open_dataset, read_split
from aigc_ops.modalities.image.model import ImageData
from aigc_ops.modalities.text.model import TextData
from aigc_ops.storage.checkpoints import load_model
from aigc_ops.training import RunFolder, TrainingConfig, TrainingJob, train


def run_training(
    model: Any,
    config: TrainingConfig,
    data: ImageData | TextData | DataConfig,
    *,
    folder: Path,
    seed: int = 0,
    tracker: Tracker | None = None,
) -> Checkpoint:
    """Train on data in memory or on a stored dataset; return the last checkpoint."""
    if isinstance(data, DataConfig):
        dataset = open_dataset(data)
        read_data: Callable[[Any], Any] = partial(read_split, dataset, data)
    else:
        shape = data.shape if isinstance(data, ImageData) else None
        dataset = DatasetRef(
            uri="memory", modality="image" if shape else "text", content_digest="0" * 64,
            num_train=len(data), num_heldout=0, image_shape=shape,
        )  # fmt: skip
        read_data = lambda _: data  # noqa: E731 - the other way is a partial
    return train(
        TrainingJob(
            model=model,
            config=config,
            dataset=dataset,
            read_data=read_data,
            seed=seed,
            folder=RunFolder(folder),
            tracker=tracker or SilentTracker(),
        )
    )


def train_model(
    model: Any, config: TrainingConfig, data: ImageData | TextData | DataConfig, **options: Any
) -> tuple[float, Any]:
    """Return examples or tokens per second of a training, and the model it ends with."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = run_training(model, config, data, folder=Path(folder), **options)
        assert checkpoint.rate is not None
        return checkpoint.rate, load_model(Path(checkpoint.uri))


def quiet(config: TrainingConfig, *, steps: int, **changes: Any) -> TrainingConfig:
    """Return a config whose samples, checkpoints and watch come at the last step alone."""
    watch = config.watch.model_copy(update={"action": "off", "every": steps})
    every = {"steps": steps, "sample_every": steps, "checkpoint_every": steps, "watch": watch}
    return config.model_copy(update=every | changes)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a new process, which has none of this one's settings of malloc."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peer_python(folder: Path, *packages: str) -> Path:
    """Return the interpreter of an environment with a peer's packages, made if it is missing."""
    python = folder / "bin" / "python"
    if python.exists():
        return python
    is_new = not folder.exists()
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    except subprocess.CalledProcessError:
        if is_new:  # else the next call would take it for complete
            shutil.rmtree(folder)
        raise SystemExit(
            f"{folder}: the peer's environment could not be made. Give --peer-env an environment "
            f"that has {', '.join(packages)}, or a new folder where pip can install them."
        ) from None
    return python
