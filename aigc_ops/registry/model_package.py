"""Builds the folder of a registered version: weights, JSON, golden samples and manifest."""

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
from aigc_ops.provenance.added_code import added_code, copy_files
from aigc_ops.registry.pyfunc import write_flavor
from aigc_ops.registry.resolution import STORED_FOLDER, cached
from aigc_ops.sampling.files import GOLDEN, write_samples
from aigc_ops.sampling.sampler import filter_valid_prompts, generate, requests
from aigc_ops.storage.checkpoints import write_model

MIN_GOLDEN, MAX_GOLDEN = 8, 32
GOLDEN_SEED = 0
CODE_FOLDER = "code"
TRAINING_PREFIX = "training."
"""Prefix of files that only training reads: optimisers, random states, the data cursor."""


def store_locally(checkpoint: Checkpoint, model: Generative[Any], prompts: Sequence[str]) -> str:
    """Build the folder of a version in the cache; return the digest of its manifest.

    Golden samples are generated now: one per class, at least 8 and at most 32. Equal checkpoints
    give equal digests.
    """
    released = model.for_registry()

    def fill(folder: Path) -> None:
        for path in Path(checkpoint.uri).iterdir():
            is_model_file = path.is_file() and path.name != MANIFEST
            if is_model_file and not path.name.startswith(TRAINING_PREFIX):
                shutil.copyfile(path, folder / path.name)
        # A family may register other weights than it trains: LoRA adapters may be merged.
        if released is not model:
            write_model(released, folder)
        valid = filter_valid_prompts(released, prompts, MAX_GOLDEN)
        num = min(max(MIN_GOLDEN, released.num_classes, len(valid)), MAX_GOLDEN)
        conditions = [{"prompt": prompt} for prompt in valid]
        golden = requests(released, num, seed=GOLDEN_SEED, conditions=conditions)
        modality = find_modality(released.modality)
        write_samples(modality, generate(released, golden), golden, folder / GOLDEN)

    # Built under a name of its own: the final name is the digest, known only when all is written.
    # A folder of that digest may be damaged, so this one replaces it.
    written = cached(f"{checkpoint.manifest_digest}.registering")
    digest = write_folder(written, fill)
    shutil.rmtree(cached(digest), ignore_errors=True)
    written.rename(cached(digest))
    return digest


@contextmanager
def upload_folder(
    checkpoint: Checkpoint, digest: str, card: str, controls: Mapping[str, Control]
) -> Iterator[Path]:
    """Yield a temporary folder to upload: MLflow's own files beside the model folder."""
    # MLflow's files are outside the model folder: they name package versions, which must not change
    # the digest of equal weights.
    with TemporaryDirectory(prefix=".upload-", dir=cached(digest).parent) as name:
        folder = Path(name)
        shutil.copytree(cached(digest), folder / STORED_FOLDER, copy_function=_link)
        modality = checkpoint.modality
        write_flavor(
            folder, data=STORED_FOLDER, digest=digest, modality=modality, controls=controls
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
        # A record of the code outside this package, for people: nothing imports it from here.
        for code in added_code():
            copy_files(code.files(), folder / CODE_FOLDER)
        yield folder


def _link(source: str, target: str) -> None:
    """Link a file, or copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
