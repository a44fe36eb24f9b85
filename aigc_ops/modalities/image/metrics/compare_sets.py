"""Two sets of images compared on their own, with no training in sight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from aigc_ops.compute.devices import give_back_freed_memory
from aigc_ops.core.artifacts import Score
from aigc_ops.core.errors import EvaluationError
from aigc_ops.interfaces.evaluation import EvaluationSettings
from aigc_ops.modalities.image.config import ImageEvaluationConfig
from aigc_ops.modalities.image.extractors.loading import load_extractor
from aigc_ops.modalities.image.image_sets import Collection
from aigc_ops.modalities.image.metrics import EVALUATION_VERSION
from aigc_ops.modalities.image.metrics.inception_score import SEED, inception_scores
from aigc_ops.modalities.image.metrics.score import MAX_NEIGHBOURS
from aigc_ops.modalities.image.metrics.set_features import collection_features
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

Metric = Literal["fid", "kid", "isc", "prc"]
METRICS: tuple[Metric, ...] = ("fid", "kid", "isc", "prc")


def score_sets(
    real: Collection,
    fake: Collection,
    metrics: Sequence[Metric],
    config: ImageEvaluationConfig,
    settings: EvaluationSettings,
    *,
    cache: Path,
    num_processes: int = 1,
) -> dict[str, Score]:
    """Return scores of fake images against real ones, by the names that their contracts allow.

    `fid` gives the Fréchet distance, of any number of images in the same memory; `kid` the
    kernel distance and `isc` the Inception Score (of inception-v3 alone), of at most 10,000
    images a side, scattered evenly; `prc` precision, recall, density and coverage among at
    most 5,000. Features of the real images are kept in `cache` by content. Raises
    EvaluationError when a set is too small for a metric.
    """
    extractor = load_extractor(config, settings)
    if "isc" in metrics and extractor.classifier is None:
        raise EvaluationError(
            f"the Inception Score needs inception-v3's classes, which {config.extractor} lacks; "
            "leave isc out, or take --extractor inception-v3"
        )

    def features(collection: Collection) -> FeatureSet:
        give_back_freed_memory()
        found = collection_features(
            collection, extractor, config, settings, num_processes=num_processes
        )
        give_back_freed_memory()
        return found

    digest = real.digest()
    terms: dict[str, JsonValue] = {"collection": digest, "skipped": real.skip_damaged}
    reference = reference_statistics(
        lambda: features(real), terms, extractor, cache, version=EVALUATION_VERSION
    )
    drawn = features(fake)
    contract: dict[str, JsonValue] = {
        "n": drawn.num,
        "extractor": extractor.identity.name,
        **extractor.identity.model_dump(mode="json", exclude={"name"}),
        "num_reference": reference.num,
        "reference": digest,
        **_passed_over(num_damaged=len(fake) - drawn.num),
        **_passed_over(num_reference_damaged=len(real) - reference.num),
        "seed": SEED,
    }
    order = shuffled(len(drawn.rows))
    values: dict[str, Score] = {}
    if "fid" in metrics:
        below_width = warn_below_width(extractor, drawn.num, reference.num)
        mixed = drawn if drawn.blocks else FeatureSet(drawn.rows[order])
        estimate = frechet_estimate(mixed, reference.gaussian)
        values |= frechet_scores(extractor, estimate, {**contract, "below_width": below_width})
    if "kid" in metrics:
        values |= kernel_scores(extractor, reference.features, drawn.rows, contract, order=order)
    if "isc" in metrics:
        values |= inception_scores(extractor, drawn.rows, contract, order=order)
    if "prc" in metrics:
        near, far = (_scattered(rows) for rows in (reference.features, drawn.rows))
        among = {**contract, "n": len(far), "num_reference": len(near), "interval": INTERVAL}
        found = neighbour_estimates(near, far)
        values |= {name: score_of(estimate, among) for name, estimate in found.items()}
    return with_version(values, EVALUATION_VERSION)


def _passed_over(**counts: int) -> dict[str, JsonValue]:
    """Return the numbers of skipped images, where there were any."""
    return {name: count for name, count in counts.items() if count}


def _scattered(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows among which neighbours are looked for; files are often ordered by class."""
    found = rows[reference_rows(len(rows), MAX_NEIGHBOURS)]
    return found[shuffled(len(found))]
