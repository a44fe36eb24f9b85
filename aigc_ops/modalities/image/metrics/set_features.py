"""Extract the features of an image set with one process or several."""

import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from aigc_ops.core.errors import EvaluationError
from aigc_ops.core.tracking import progress_bar
from aigc_ops.interfaces.evaluation import EvaluationSettings
from aigc_ops.modalities.image.config import ImageEvaluationConfig
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.extractors.loading import load_extractor
from aigc_ops.modalities.image.image_sets import ImageSet, Picture
from aigc_ops.statistics.extraction import Block, plan_blocks
from aigc_ops.statistics.moments import FeatureSet


def image_set_features(
    collection: ImageSet,
    extractor: Extractor,
    config: ImageEvaluationConfig,
    settings: EvaluationSettings,
    *,
    num_processes: int,
) -> FeatureSet:
    """Return the features of all images; they differ by rounding between numbers of processes.

    `extractor` is the one that `config` and `settings` describe. Warns about skipped images
    with their number and names. Raises EvaluationError for fewer than two images.
    """
    # Shuffled blocks: files are often sorted by class, and the blocks of a large set are the
    # groups of a jackknife, which must be alike.
    blocks = plan_blocks(len(collection), at_least=num_processes, shuffle=True)
    name = collection.path.name
    if num_processes == 1:
        with progress_bar(total=len(collection), desc=f"features of {name}", unit="images") as bar:
            results = [_read(collection, extractor, block, bar.update) for block in blocks]
    else:
        results = _read_by_processes(collection, config, settings, blocks, num_processes)
    parts, skipped = zip(*results, strict=True)
    if names := list(chain(*skipped)):
        message = f"{collection.path}: {len(names)} damaged images were skipped: "
        warnings.warn(message + "; ".join(names[:5]), stacklevel=2)
    features = FeatureSet.of_parts(parts)
    if features.num < 2:
        raise EvaluationError(
            f"{collection.path}: holds {features.num} images; use at least 2, and more than "
            f"{extractor.identity.width} for a meaningful distance"
        )
    return features


def _read(
    collection: ImageSet,
    extractor: Extractor,
    block: Block,
    update: Callable[[int], object] = int,
) -> tuple[FeatureSet, list[str]]:
    """Return the features of a block, and the images skipped in it.

    `update` is called with each batch's size.
    """
    accumulator = block.accumulator(extractor.identity.width)
    for batch in batches(collection.images(block.indices), extractor.batch_size):
        accumulator.add(extractor.features_of(torch.from_numpy(np.stack(batch))))
        update(len(batch))
    return accumulator.finish(), collection.skipped


def batches(images: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Yield batches of consecutive images of equal shape, at most `size` each."""
    batch: list[Picture] = []
    for image in images:
        if batch and (len(batch) == size or image.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


# The extractor of a worker process, loaded once by `_prepare`: it can't be pickled per task.
_prepared: dict[str, Extractor] = {}


def _read_by_processes(
    collection: ImageSet,
    config: ImageEvaluationConfig,
    settings: EvaluationSettings,
    blocks: list[Block],
    num_processes: int,
) -> list[tuple[FeatureSet, list[str]]]:
    # Each process would otherwise start as many threads as there are cores.
    num_threads = max(1, torch.get_num_threads() // num_processes)
    image_set = (collection.path, collection.skip_damaged)
    try:
        with ProcessPoolExecutor(
            num_processes,
            # A forked child of a process with torch threads may deadlock.
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(config, settings, num_threads),
        ) as pool:
            futures = [pool.submit(_read_in_process, *image_set, block) for block in blocks]
            with progress_bar(
                futures, desc=f"features of {collection.path.name}", unit="blocks"
            ) as bar:
                return [future.result() for future in bar]
    except BrokenProcessPool as error:
        raise EvaluationError(
            f"one of {num_processes} processes that read {collection.path} was killed, probably "
            "because memory ran out; use fewer (--processes)"
        ) from error


def _prepare(config: ImageEvaluationConfig, settings: EvaluationSettings, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    _prepared["extractor"] = load_extractor(config, settings)


def _read_in_process(path: Path, skip_damaged: bool, block: Block) -> tuple[FeatureSet, list[str]]:
    return _read(ImageSet(path, skip_damaged), _prepared["extractor"], block)
