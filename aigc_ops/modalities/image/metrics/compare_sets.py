"""Compare two sets of images without a model or a training run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from aigc_ops.compute.devices import release_freed_memory
from aigc_ops.core.artifacts import Score
from aigc_ops.core.errors import EvaluationError
from aigc_ops.interfaces.evaluation import EvaluationSettings
from aigc_ops.modalities.image.config import ImageEvaluationConfig
from aigc_ops.modalities.image.extractors.loading import load_extractor
from aigc_ops.modalities.image.image_sets import ImageSet
from aigc_ops.modalities.image.metrics import EVALUATION_VERSION
from aigc_ops.modalities.image.metrics.inception_score import SEED, inception_scores
from aigc_ops.modalities.image.metrics.score import MAX_NEIGHBOURS
from aigc_ops.modalities.image.metrics.set_copies import set_copies
from aigc_ops.modalities.image.metrics.set_features import image_set_features
from aigc_ops.statistics.comparability import (
    INTERVAL,
    frechet_scores,
    score_of,
    warn_below_width,
    with_version,
)
from aigc_ops.statistics.extraction import shuffled
from aigc_ops.statistics.intervals import frechet_estimate
from aigc_ops.statistics.kernel import kernel_scores
from aigc_ops.statistics.moments import FeatureSet
from aigc_ops.statistics.neighbours import neighbour_estimates
from aigc_ops.statistics.reference import reference_rows, reference_statistics

Metric = Literal["fid", "kid", "isc", "prc", "copies"]
METRICS: tuple[Metric, ...] = ("fid", "kid", "isc", "prc", "copies")


def score_sets(
    real: ImageSet,
    fake: ImageSet,
    metrics: Sequence[Metric],
    config: ImageEvaluationConfig,
    settings: EvaluationSettings,
    *,
    cache: Path,
    num_processes: int = 1,
) -> dict[str, Score]:
    """Return scores of fake images against real ones, by metric name.

    `fid`: Fréchet distance of all images, in bounded memory. `kid` and `isc`: kernel distance
    and Inception Score (inception-v3 only) of at most 10,000 evenly spaced images per set.
    `prc`: precision, recall, density and coverage among at most 5,000 images per set. `copies`:
    shares of fake images that copy a real one, among at most 10,000 images per set. Features
    of the real images are cached by content. Raises EvaluationError if a set is too small for a
    metric, or if both are the same.
    """
    digest = real.digest()
    if digest == fake.digest():
        raise EvaluationError(
            f"{real.path} and {fake.path}: REAL and FAKE hold the same images; give the images "
            "that a model was trained on, or others like them, and those that it generated"
        )
    if list(metrics) == ["copies"]:  # needs no features
        return with_version(set_copies(real, fake, reference=digest), EVALUATION_VERSION)
    extractor = load_extractor(config, settings)
    if "isc" in metrics and extractor.classifier is None:
        raise EvaluationError(
            f"the Inception Score needs inception-v3's classes, which {config.extractor} lacks; "
            "omit isc, or use --extractor inception-v3"
        )

    def features(collection: ImageSet) -> FeatureSet:
        # Reading thousands of images leaves freed memory with the allocator, which would add to
        # that of the second set.
        release_freed_memory()
        rows = image_set_features(
            collection, extractor, config, settings, num_processes=num_processes
        )
        release_freed_memory()
        return rows

    # 1. Features of both sets; those of the real images come from the cache if possible.
    terms: dict[str, JsonValue] = {"collection": digest, "skipped": real.skip_damaged}
    reference = reference_statistics(
        lambda: features(real), terms, extractor, cache, version=EVALUATION_VERSION
    )
    fakes = features(fake)
    contract: dict[str, JsonValue] = {
        "n": fakes.num,
        "extractor": extractor.identity.name,
        **extractor.identity.model_dump(mode="json", exclude={"name"}),
        "num_reference": reference.num,
        "reference": digest,
        **_skipped_counts(num_damaged=len(fake) - fakes.num),
        **_skipped_counts(num_reference_damaged=len(real) - reference.num),
        "seed": SEED,
    }
    # 2. Metrics. Files are often sorted by class, so rows are shuffled before they are divided
    #    into the groups of a jackknife, which must be alike.
    order = shuffled(len(fakes.rows))
    values: dict[str, Score] = {}
    if "fid" in metrics:
        below_width = warn_below_width(extractor, fakes.num, reference.num)
        # Blocks of a large set were shuffled when they were planned.
        mixed = fakes if fakes.blocks else FeatureSet(fakes.rows[order])
        estimate = frechet_estimate(mixed, reference.gaussian)
        values |= frechet_scores(extractor, estimate, {**contract, "below_width": below_width})
    if "kid" in metrics:
        values |= kernel_scores(extractor, reference.features, fakes.rows, contract, order=order)
    if "isc" in metrics:
        values |= inception_scores(extractor, fakes.rows, contract, order=order)
    if "prc" in metrics:
        values |= _neighbour_scores(reference.features, fakes.rows, contract)
    if "copies" in metrics:
        values |= set_copies(real, fake, reference=digest)
    return with_version(values, EVALUATION_VERSION)


def _neighbour_scores(
    real: NDArray[np.float32], fake: NDArray[np.float32], contract: Mapping[str, JsonValue]
) -> dict[str, Score]:
    """Return precision, recall, density and coverage among at most 5,000 rows per set."""
    real, fake = _subsample(real), _subsample(fake)
    among = {**contract, "n": len(fake), "num_reference": len(real), "interval": INTERVAL}
    estimates = neighbour_estimates(real, fake)
    return {name: score_of(estimate, among) for name, estimate in estimates.items()}


def _skipped_counts(**counts: int) -> dict[str, JsonValue]:
    """Return the counts that are not 0."""
    # Complete sets have no such keys, so their scores compare with those of earlier releases.
    return {name: count for name, count in counts.items() if count}


def _subsample(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return at most MAX_NEIGHBOURS evenly spaced rows, shuffled."""
    selected = rows[reference_rows(len(rows), MAX_NEIGHBOURS)]
    return selected[shuffled(len(selected))]
