"""Comparison of two models on the same seeds and data: distance, samples and speed."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np

from aigc_ops.core.artifacts import Checkpoint, DatasetRef
from aigc_ops.data import DataConfig
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.context import load, make_context
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.evaluation import Paired
from aigc_ops.interfaces.media import Section
from aigc_ops.sampling import sampler

NUM_ROUNDS = 5


def compare(
    candidate: Checkpoint,
    champion: Checkpoint,
    ref: DatasetRef,
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
    cache: Path,
) -> Paired:
    """Return the paired difference of two checkpoints on their modality's primary metric.

    Both get the same seeds, requests and reference. Samples of an earlier evaluation, stored beside
    `cache`, may be reused. Raises EvaluationError when a model does not fit the data.
    """
    context = make_context(ref, data_config, config, seed=seed, cache=cache)
    models = (load(candidate, config), load(champion, config))
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


def sampling_time_ratio(
    candidate: Checkpoint, champion: Checkpoint, config: EvaluationConfig
) -> float:
    """Return the ratio of candidate to champion sampling time per unit generated.

    Units are those of the modality (images, tokens), so a text that ends earlier is no faster.
    """
    modality = find_modality(candidate.modality)
    models = [load(checkpoint, config).model for checkpoint in (candidate, champion)]
    num = modality.evaluation.num_timed
    request_lists = [sampler.requests(model, num, seed=0) for model in models]
    # Both models in every round, so that a slow phase of the machine slows both; the median over
    # rounds, so that an interruption of one round does not count.
    ratios = []
    for round_ in range(1 + NUM_ROUNDS):
        seconds = []
        for model, requests in zip(models, request_lists, strict=True):
            start = perf_counter()
            samples = sampler.generate(model, requests)
            elapsed = perf_counter() - start
            seconds.append(elapsed / max(1, modality.samples.amount(samples)))
        if round_:  # the first round warms up caches and kernels
            ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios))
