"""Evaluation conditions of a score (its `contract`): values compare only if they are equal."""

import warnings
from collections.abc import Mapping

from pydantic import JsonValue

from aigc_ops.core.artifacts import Score
from aigc_ops.statistics.extractor import FeatureExtractor
from aigc_ops.statistics.intervals import Estimate, FrechetEstimate

# These texts are stored in the conditions of every score. With another wording new scores would
# not be comparable with stored ones.
INTERVAL = "95 %, delete-a-group jackknife: expected value at this n, reference fixed"
LIMIT_INTERVAL = "95 %, jackknife extrapolated in 1/n: of any number of samples, reference fixed"
EXACT_INTERVAL = "95 %, Clopper-Pearson: of other samples of this model"
MIN_WIDTHS = 4
"""Samples per feature from which a distance is extrapolated to infinitely many samples."""


def score_of(estimate: Estimate, contract: Mapping[str, JsonValue]) -> Score:
    """Return the estimate as a score with its evaluation conditions."""
    return Score(
        value=estimate.value, low=estimate.low, high=estimate.high, contract=dict(contract)
    )


def with_version(values: Mapping[str, Score], version: int) -> dict[str, Score]:
    """Return the scores with the evaluation's version added to their conditions."""
    return {
        name: score.model_copy(update={"contract": {**score.contract, "version": version}})
        for name, score in values.items()
    }


def frechet_scores(
    extractor: FeatureExtractor,
    estimate: FrechetEstimate,
    contract: Mapping[str, JsonValue],
) -> dict[str, Score]:
    """Return the distance at this number of samples and, with enough of them, its limit."""
    values = {extractor.metric: score_of(estimate, {**contract, "interval": INTERVAL})}
    num = contract["n"]
    assert isinstance(num, int), num
    # With fewer samples per feature the extrapolation in 1/n is not sound.
    if num >= MIN_WIDTHS * extractor.identity.width:
        terms = {**contract, "interval": LIMIT_INTERVAL}
        values[f"{extractor.metric}_infinity"] = score_of(estimate.limit, terms)
    return values


def distance_contract(
    num: int, extractor: FeatureExtractor, terms: Mapping[str, JsonValue], seed: int
) -> dict[str, JsonValue]:
    """Return the conditions of a distance of `num` samples; warn when these are too few."""
    identity = extractor.identity
    num_reference = terms["num_reference"]
    assert isinstance(num_reference, int), num_reference
    below_width = warn_below_width(extractor, num, num_reference)
    return {
        "n": num,
        "extractor": identity.name,
        **identity.model_dump(mode="json", exclude={"name"}),
        **terms,
        "seed": seed,
        "below_width": below_width,
    }


def warn_below_width(extractor: FeatureExtractor, num: int, num_reference: int) -> bool:
    """Return whether there are fewer samples than features, with a warning if so."""
    width = extractor.identity.width
    # A covariance of fewer rows than features is singular, which biases the distance upwards.
    if min(num, num_reference) >= width:
        return False
    warnings.warn(
        f"{extractor.metric} of {num} samples against {num_reference} {extractor.unit}: fewer than "
        f"the extractor's {width} features, so the value is far too high and comparable only with "
        "values at these numbers; use more of both, or the kernel distance, which has no such bias",
        stacklevel=3,
    )
    return True
