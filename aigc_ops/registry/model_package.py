"""The folder that a registered version keeps: weights, JSON, golden samples, manifest."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aigc_ops.core.artifacts import Checkpoint
from aigc_ops.core.atomic_dirs import MANIFEST, write_folder
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import Control
from aigc_ops.registry.pyfunc import write_flavor
from aigc_ops.registry.resolution import STORED_FOLDER, cached
from aigc_ops.sampling.files import GOLDEN, write_samples
from aigc_ops.sampling.sampler import draw, requests, servable
from aigc_ops.storage.checkpoints import write_model

MIN_GOLDEN, MAX_GOLDEN = 8, 32
GOLDEN_SEED = 0
TRAINING_PREFIX = "training."
"""Files that only training reads: optimisers, random states, the data cursor."""


def store_locally(checkpoint: Checkpoint, model: Generative[Any], prompts: Sequence[str]) -> str:
    """Put the folder to be registered into the home's cache; return its manifest's digest.

    The model answers its golden requests now, a class each or at least 8 in all. Equal
    checkpoints give equal digests.
    """
    released = model.released()

    def fill(folder: Path) -> None:
        for path in Path(checkpoint.uri).iterdir():
            kept = path.is_file() and path.name != MANIFEST
            if kept and not path.name.startswith(TRAINING_PREFIX):
                shutil.copyfile(path, folder / path.name)
        if released is not model:
            write_model(released, folder)
        taken = servable(released, prompts, MAX_GOLDEN)
        num = min(max(MIN_GOLDEN, released.num_classes, len(taken)), MAX_GOLDEN)
        asked = requests(released, num, seed=GOLDEN_SEED, prompt=taken or None)
        modality = find_modality(released.modality)
        write_samples(modality, draw(released, asked), asked, folder / GOLDEN)

    written = cached(f"{checkpoint.manifest_digest}.registering")
    digest = write_folder(written, fill)
    shutil.rmtree(cached(digest), ignore_errors=True)
    written.rename(cached(digest))
    return digest


@contextmanager
def upload_folder(
    checkpoint: Checkpoint, digest: str, card: str, controls: Mapping[str, Control]
) -> Iterator[Path]:
    """The folder to upload, for a while: MLflow's own files beside the stored folder."""
    with TemporaryDirectory(prefix=".upload-", dir=cached(digest).parent) as name:
        folder = Path(name)
        shutil.copytree(cached(digest), folder / STORED_FOLDER, copy_function=_link)
        modality = checkpoint.modality
        write_flavor(
            folder, data=STORED_FOLDER, digest=digest, modality=modality, controls=controls
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        yield folder


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
