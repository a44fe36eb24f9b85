"""Features of a set of images from anywhere, extracted by one process or several."""

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
from aigc_ops.modalities.image.image_sets import Collection, Picture
from aigc_ops.statistics.extraction import Block, plan_blocks
from aigc_ops.statistics.moments import FeatureSet


def collection_features(
    collection: Collection,
    extractor: Extractor,
    config: ImageEvaluationConfig,
    settings: EvaluationSettings,
    *,
    num_processes: int,
) -> FeatureSet:
    """Return the features of all images, the same to rounding for any number of processes.

    The extractor was loaded by `config` and `settings`. Warns of images that were skipped, with
    their number and names. Raises EvaluationError with fewer than two.
    """
    blocks = plan_blocks(len(collection), at_least=num_processes, shuffle=True)
    name = collection.path.name
    if num_processes == 1:
        with progress_bar(total=len(collection), desc=f"features of {name}", unit="images") as bar:
            read = [_read(collection, extractor, block, bar.update) for block in blocks]
    else:
        read = _read_by_processes(collection, config, settings, blocks, num_processes)
    parts, skipped = zip(*read, strict=True)
    if passed := list(chain(*skipped)):
        what = f"{collection.path}: {len(passed)} damaged images were passed over: "
        warnings.warn(what + "; ".join(passed[:5]), stacklevel=2)
    features = FeatureSet.of_parts(parts)
    if features.num < 2:
        raise EvaluationError(
            f"{collection.path}: holds {features.num} images; at least 2 are needed, and for a "
            f"distance that means something more than {extractor.identity.width}"
        )
    return features


def _read(
    collection: Collection,
    extractor: Extractor,
    block: Block,
    update: Callable[[int], object] = int,
) -> tuple[FeatureSet, list[str]]:
    """Return the features of a block, and what was skipped in it.

    `update` is called with each batch's size.
    """
    accumulator = block.accumulator(extractor.identity.width)
    for batch in batches(collection.images(block.indices), extractor.batch_size):
        accumulator.add(extractor.features_of(torch.from_numpy(np.stack(batch))))
        update(len(batch))
    return accumulator.finish(), collection.skipped


def batches(images: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Yield neighbours of one size together, at most `size` of them."""
    batch: list[Picture] = []
    for image in images:
        if batch and (len(batch) == size or image.shape != batch[0].shape):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


_prepared: dict[str, Extractor] = {}
"""The extractor of a worker process."""


def _read_by_processes(
    collection: Collection,
    config: ImageEvaluationConfig,
    settings: EvaluationSettings,
    blocks: list[Block],
    num_processes: int,
) -> list[tuple[FeatureSet, list[str]]]:
    num_threads = max(1, torch.get_num_threads() // num_processes)
    where = (collection.path, collection.skip_damaged)
    try:
        with ProcessPoolExecutor(
            num_processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(config, settings, num_threads),
        ) as pool:
            futures = [pool.submit(_read_in_process, *where, block) for block in blocks]
            with progress_bar(
                futures, desc=f"features of {collection.path.name}", unit="blocks"
            ) as bar:
                return [future.result() for future in bar]
    except BrokenProcessPool as error:
        raise EvaluationError(
            f"one of {num_processes} processes that read {collection.path} was ended, as happens "
            "when memory runs out; take fewer (--processes)"
        ) from error


def _prepare(config: ImageEvaluationConfig, settings: EvaluationSettings, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    _prepared["extractor"] = load_extractor(config, settings)


def _read_in_process(path: Path, skip_damaged: bool, block: Block) -> tuple[FeatureSet, list[str]]:
    return _read(Collection(path, skip_damaged), _prepared["extractor"], block)
