"""Two sets of images compared on their own, with no training in sight."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from aigc_ops.artifacts import Score
from aigc_ops.data.collections import Collection
from aigc_ops.devices import give_back_freed_memory
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.contracts import (
    INTERVAL,
    frechet_scores,
    score_of,
    warn_below_width,
)
from aigc_ops.evaluation.extractors import load_extractor
from aigc_ops.evaluation.gathering import collection_features, shuffled
from aigc_ops.evaluation.images import MAX_NEIGHBOURS
from aigc_ops.evaluation.inception_score import SEED, inception_scores
from aigc_ops.evaluation.kernels import kernel_scores
from aigc_ops.evaluation.moments import FeatureSet
from aigc_ops.evaluation.neighbours import neighbour_estimates
from aigc_ops.evaluation.reference import reference_rows, reference_statistics
from aigc_ops.evaluation.statistics import frechet_estimate

Metric = Literal["fid", "kid", "isc", "prc"]
METRICS: tuple[Metric, ...] = ("fid", "kid", "isc", "prc")


def score_sets(
    real: Collection,
    fake: Collection,
    metrics: Sequence[Metric],
    config: EvaluationConfig,
    *,
    cache: Path,
    num_processes: int = 1,
) -> dict[str, Score]:
    """Scores of fake images against real ones, by the names that their contracts allow.

    `fid` gives the Fréchet distance, of any number of images in the same memory; `kid` the
    kernel distance and `isc` the Inception Score (of inception-v3 alone), of at most 10,000
    images a side, scattered evenly; `prc` precision, recall, density and coverage among at
    most 5,000. Features of the real images are kept in `cache` by content. Raises
    EvaluationError when a set is too small for a metric.
    """
    extractor = load_extractor(config)
    if "isc" in metrics and extractor.classifier is None:
        raise EvaluationError(
            f"the Inception Score needs inception-v3's classes, which {config.extractor} lacks; "
            "leave isc out, or take --extractor inception-v3"
        )

    def features(collection: Collection) -> FeatureSet:
        give_back_freed_memory()
        found = collection_features(collection, extractor, config, num_processes=num_processes)
        give_back_freed_memory()
        return found

    digest = real.digest()
    terms: dict[str, JsonValue] = {"collection": digest, "skipped": real.skip_damaged}
    reference = reference_statistics(lambda: features(real), terms, extractor, cache)
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
    return values


def _passed_over(**counts: int) -> dict[str, JsonValue]:
    """Images that were passed over, where there were any."""
    return {name: count for name, count in counts.items() if count}


def _scattered(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """As many rows as neighbours are looked for among; files lie by class as often as not."""
    found = rows[reference_rows(len(rows), MAX_NEIGHBOURS)]
    return found[shuffled(len(found))]
