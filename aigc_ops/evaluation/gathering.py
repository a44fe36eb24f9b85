"""Features of a set of images of any size, gathered by one process or several."""

import multiprocessing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc_ops.artifacts import ImageShape
from aigc_ops.data.collections import Collection, Picture
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.extractors import Extractor, load_extractor
from aigc_ops.evaluation.moments import MAX_KEPT, NUM_BLOCKS, Accumulator, FeatureSet
from aigc_ops.evaluation.reference import reference_rows
from aigc_ops.tracking import progress_bar

MAX_BYTES_AT_ONCE = 2**28


@dataclass(frozen=True)
class Run:
    """A part of a set."""

    places: NDArray[np.intp]
    """Of its images in the set, ascending."""
    kept: NDArray[np.intp]
    """Places among these of the images whose features are kept."""
    with_moments: bool

    def accumulator(self, width: int) -> Accumulator:
        """What takes its features."""
        return Accumulator(width, kept=self.kept, with_moments=self.with_moments)


def runs(num: int, *, at_least: int = 1, scattered: bool = True, dealt: bool = False) -> list[Run]:
    """The runs of a set of `num`; of a large one ten, whose kept rows are scattered or the first.

    Of up to 10,000 images every feature is kept, and moments of none. A run is one of
    neighbours, or of a large set where asked one dealt out at random, the same at every call.
    """
    kept = np.array(reference_rows(num, MAX_KEPT) if scattered else range(min(num, MAX_KEPT)), int)
    is_large = num > MAX_KEPT
    order = shuffled(num) if dealt and is_large else np.arange(num)
    parts = np.array_split(order, NUM_BLOCKS if is_large else min(at_least, max(1, num)))
    return [
        Run(part, np.flatnonzero(np.isin(part, kept)), is_large) for part in map(np.sort, parts)
    ]


def shuffled(num: int) -> NDArray[np.intp]:
    """An order of so many that has nothing to do with how they lie; the same at every call."""
    return np.random.default_rng(0).permutation(num)


def gathered(
    planned: Sequence[Run],
    images: Callable[[NDArray[np.intp]], Tensor],
    shape: ImageShape,
    extractor: Extractor,
    *,
    what: str,
) -> FeatureSet:
    """Features of images of one shape.

    `images` gives (N, C, H, W) uint8 ones by their places, and is asked for 256 MiB of them at a
    time. `what` names them in the progress bar.
    """
    at_once = max(1, MAX_BYTES_AT_ONCE // (shape.channels * shape.height * shape.width))
    parts = []
    for run in planned:
        accumulator = run.accumulator(extractor.identity.width)
        for start in range(0, len(run.places), at_once):
            few = images(run.places[start : start + at_once])
            accumulator.add(extractor.features(few, what=what))
        parts.append(accumulator.finish())
    return FeatureSet.of_parts(parts)


def collection_features(
    collection: Collection, extractor: Extractor, config: EvaluationConfig, *, num_processes: int
) -> FeatureSet:
    """Features of all images, the same to rounding for any number of processes.

    `config` is what the extractor was loaded by. Warns of images that were passed over, with
    their number and names. Raises EvaluationError with fewer than two.
    """
    planned = runs(len(collection), at_least=num_processes, dealt=True)
    name = collection.path.name
    if num_processes == 1:
        with progress_bar(total=len(collection), desc=f"features of {name}", unit="images") as bar:
            read = [_read(collection, extractor, run, bar.update) for run in planned]
    else:
        read = _read_by_processes(collection, config, planned, num_processes)
    parts, skipped = zip(*read, strict=True)
    if passed := list(chain(*skipped)):
        what = f"{collection.path}: {len(passed)} damaged images were passed over: "
        warnings.warn(what + "; ".join(passed[:5]), stacklevel=2)
    gathered = FeatureSet.of_parts(parts)
    if gathered.num < 2:
        raise EvaluationError(
            f"{collection.path}: holds {gathered.num} images; at least 2 are needed, and for a "
            f"distance that means something more than {extractor.identity.width}"
        )
    return gathered


def _read(
    collection: Collection, extractor: Extractor, run: Run, tell: Callable[[int], object] = int
) -> tuple[FeatureSet, list[str]]:
    """Features of a run, and what was passed over in it; `tell` hears of each batch's size."""
    accumulator = run.accumulator(extractor.identity.width)
    for batch in batches(collection.images(run.places), extractor.batch_size):
        accumulator.add(extractor.features_of(torch.from_numpy(np.stack(batch))))
        tell(len(batch))
    return accumulator.finish(), collection.skipped


def batches(images: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    """Neighbours of one size together, at most so many."""
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
    collection: Collection, config: EvaluationConfig, planned: list[Run], num_processes: int
) -> list[tuple[FeatureSet, list[str]]]:
    num_threads = max(1, torch.get_num_threads() // num_processes)
    where = (collection.path, collection.skip_damaged)
    try:
        with ProcessPoolExecutor(
            num_processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_prepare,
            initargs=(config, num_threads),
        ) as pool:
            found = [pool.submit(_read_there, *where, run) for run in planned]
            with progress_bar(
                found, desc=f"features of {collection.path.name}", unit="runs"
            ) as bar:
                return [each.result() for each in bar]
    except BrokenProcessPool as error:
        raise EvaluationError(
            f"one of {num_processes} processes that read {collection.path} was ended, as happens "
            "when memory runs out; take fewer (--processes)"
        ) from error


def _prepare(config: EvaluationConfig, num_threads: int) -> None:
    torch.set_num_threads(num_threads)
    _prepared["extractor"] = load_extractor(config)


def _read_there(path: Path, skip_damaged: bool, run: Run) -> tuple[FeatureSet, list[str]]:
    return _read(Collection(path, skip_damaged), _prepared["extractor"], run)
