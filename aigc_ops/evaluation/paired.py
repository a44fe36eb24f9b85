"""Two models on the same seeds and data: how far apart, side by side, and how fast."""

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
    """Return how far apart two checkpoints of one modality are on its primary metric.

    Both are given the same seeds and requests, and the same reference; what an evaluation
    generated before may be taken from beside `cache`. Raises EvaluationError when one of them does
    not fit the data.
    """
    context = make_context(ref, data_config, config, seed=seed, cache=cache)
    ours, theirs = (load(each, config) for each in (candidate, champion))
    return find_modality(ref.modality).evaluation.compare(ours, theirs, context)


def side_by_side(
    checkpoints: Sequence[tuple[str, Checkpoint]],
    ref: DatasetRef,
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
    cache: Path,
) -> list[Section]:
    """Return sections that show the named checkpoints' samples of the same seeds."""
    context = make_context(ref, data_config, config, seed=seed, cache=cache)
    models = [(name, load(checkpoint, config)) for name, checkpoint in checkpoints]
    return find_modality(ref.modality).evaluation.side_by_side(models, context)


def sampling_time_ratio(
    candidate: Checkpoint, champion: Checkpoint, config: EvaluationConfig
) -> float:
    """Return the candidate's time for as many samples as the champion's, over the champion's.

    The two take turns; the median of the rounds counts. How much a model generated is counted
    as its modality does: a text that ends earlier is no faster.
    """
    modality = find_modality(candidate.modality)
    models = [load(each, config).model for each in (candidate, champion)]
    num = modality.evaluation.num_timed
    asked = [sampler.requests(model, num, seed=0) for model in models]
    ratios = []
    for round_ in range(1 + NUM_ROUNDS):
        seconds = []
        for model, requests in zip(models, asked, strict=True):
            start = perf_counter()
            samples = sampler.draw(model, requests)
            elapsed = perf_counter() - start
            seconds.append(elapsed / max(1, modality.samples.amount(samples)))
        if round_:  # the first warms up
            ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios))
