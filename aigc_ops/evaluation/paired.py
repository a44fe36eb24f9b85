"""Comparison of two models on the same seeds and data: distance, samples and speed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from aigc_ops.core.artifacts import Checkpoint, DatasetRef
from aigc_ops.data import DataConfig
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.context import load, make_context
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.evaluation import Paired
from aigc_ops.interfaces.media import Section
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.sampling import sampler

MIN_ROUNDS, MAX_ROUNDS = 9, 25
LEVEL = 0.99


@dataclass(frozen=True)
class SamplingCosts:
    """Costs of a unit of one model's samples, relative to another model's."""

    slowdown: float
    """Median ratio of the sampling times, between `low` and `high` with 99 % confidence."""
    low: float
    high: float
    operations: float | None
    """Ratio of the floating-point operations; None if a model has none that can be counted."""


def compare(
    candidate: Checkpoint,
    champion: Checkpoint,
    ref: DatasetRef,
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
    cache: Path,
    names: tuple[str, str] = ("", ""),
) -> Paired:
    """Return the paired difference of two checkpoints on their modality's primary metric.

    Both get the same seeds, requests and reference. What an earlier evaluation computed, stored
    beside `cache`, is reused. `names` are those of both in progress bars. Raises EvaluationError
    when a model does not fit the data.
    """
    context = make_context(ref, data_config, config, seed=seed, cache=cache)
    models = (load(candidate, config, name=names[0]), load(champion, config, name=names[1]))
    return find_modality(ref.modality).evaluation.compare(*models, context)


def side_by_side(
    checkpoints: Sequence[tuple[str, Checkpoint]],
    ref: DatasetRef,
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
    cache: Path,
) -> list[Section]:
    """Return report sections with samples of several checkpoints at the same seeds."""
    context = make_context(ref, data_config, config, seed=seed, cache=cache)
    models = [(name, load(checkpoint, config)) for name, checkpoint in checkpoints]
    return find_modality(ref.modality).evaluation.side_by_side(models, context)


def compare_costs(
    candidate: Checkpoint, champion: Checkpoint, config: EvaluationConfig, *, limit: float
) -> SamplingCosts:
    """Return the candidate's sampling time and operations per unit, relative to the champion's.

    Units are those of the modality (images, tokens), so a text that ends earlier is no faster.
    Both models sample in turns, until the interval lies on one side of `limit`, at most 25 times.
    """
    modality = find_modality(candidate.modality)
    models = [load(checkpoint, config).model for checkpoint in (candidate, champion)]
    num = modality.evaluation.num_timed
    request_lists = [sampler.requests(model, num, seed=0) for model in models]
    pairs = list(zip(models, request_lists, strict=True))

    def seconds(model: Generative[Any], requests: Sequence[SampleRequest]) -> float:
        start = perf_counter()
        samples = sampler.generate(model, requests)
        return (perf_counter() - start) / max(1, modality.samples.amount(samples))

    # The first round is not timed: it warms up caches and kernels, and counts operations.
    operations = [_operations(modality, *pair) for pair in pairs]
    ratios: list[float] = []
    low, high = 0.0, math.inf
    while len(ratios) < MIN_ROUNDS or (low <= limit < high and len(ratios) < MAX_ROUNDS):
        # Both models in every round, so that a slow phase of the machine slows both. Each is first
        # in every other round.
        order = (0, 1) if len(ratios) % 2 == 0 else (1, 0)
        taken = {index: seconds(*pairs[index]) for index in order}
        ratios.append(taken[0] / taken[1])
        low, high = median_interval(ratios)
    return SamplingCosts(
        slowdown=float(np.median(ratios)),
        low=low,
        high=high,
        operations=operations[0] / operations[1] if all(operations) else None,
    )


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 99 % interval of the median: two of the ordered values, whatever they follow."""
    from scipy.stats import binom

    ordered = sorted(values)
    # The median lies below the k-th of n values with the probability of fewer than k heads.
    rank = max(1, int(binom.ppf((1 - LEVEL) / 2, len(ordered), 0.5)))
    return ordered[rank - 1], ordered[-rank]


def _operations(
    modality: Modality[Any], model: Generative[Any], requests: Sequence[SampleRequest]
) -> float:
    """Return the floating-point operations of a unit: products of matrices and convolutions."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        samples = sampler.generate(model, requests)
    return float(counter.get_total_flops()) / max(1, modality.samples.amount(samples))
