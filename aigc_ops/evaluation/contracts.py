"""What a score says of itself: its interval in words, and the contract it stands under."""

import warnings
from collections.abc import Mapping

from pydantic import JsonValue

from aigc_ops.artifacts import Score
from aigc_ops.evaluation.embeddings import TextExtractor
from aigc_ops.evaluation.extractors import Extractor
from aigc_ops.evaluation.statistics import Estimate, FrechetEstimate
from aigc_ops.revision import code_digest

INTERVAL = "95 %, delete-a-group jackknife: expected value at this n, reference fixed"
LIMIT_INTERVAL = "95 %, jackknife extrapolated in 1/n: of any number of samples, reference fixed"
EXACT_INTERVAL = "95 %, Clopper-Pearson: of other samples of this model"
MIN_WIDTHS = 4
"""Samples for each feature from which on a distance is extrapolated."""


def score_of(estimate: Estimate, contract: Mapping[str, JsonValue]) -> Score:
    """The estimate under its contract, to which the code that computed it belongs."""
    return Score(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        contract={**contract, "code": code_digest()[:12]},
    )


def frechet_scores(
    extractor: Extractor | TextExtractor,
    estimate: FrechetEstimate,
    contract: Mapping[str, JsonValue],
) -> dict[str, Score]:
    """The distance at this number of samples, and of enough of them its extrapolation."""
    values = {extractor.metric: score_of(estimate, {**contract, "interval": INTERVAL})}
    num = contract["n"]
    assert isinstance(num, int), num
    if num >= MIN_WIDTHS * extractor.identity.width:
        terms = {**contract, "interval": LIMIT_INTERVAL}
        values[f"{extractor.metric}_infinity"] = score_of(estimate.limit, terms)
    return values


def distance_contract(
    num: int, extractor: Extractor | TextExtractor, terms: Mapping[str, JsonValue], seed: int
) -> dict[str, JsonValue]:
    """What a distance of `num` samples depends on; warns when they are too few for it."""
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


def warn_below_width(extractor: Extractor | TextExtractor, num: int, num_reference: int) -> bool:
    """Whether too few samples fill the feature space, with a warning if so."""
    width = extractor.identity.width
    if min(num, num_reference) >= width:
        return False
    what = "texts" if isinstance(extractor, TextExtractor) else "images"
    warnings.warn(
        f"{extractor.metric} of {num} samples against {num_reference} {what}: fewer than the "
        f"extractor's {width} features, so the value is far too high and compares with others of "
        "these numbers alone; take more of both, or the kernel distance, which has no such bias",
        stacklevel=3,
    )
    return True
