"""Two models on the same seeds, number of samples and reference: how far apart, how surely."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import cast

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from aigc_ops import caches, sampling
from aigc_ops.artifacts import Checkpoint, DatasetRef, file_digest, json_digest
from aigc_ops.checkpoints import WEIGHTS, load_model
from aigc_ops.data import DataConfig, read_split
from aigc_ops.data.config import Split
from aigc_ops.devices import choose_device
from aigc_ops.errors import CheckpointError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.extractors import Extractor, load_extractor
from aigc_ops.evaluation.images import Splits, check_shape, samples_of
from aigc_ops.evaluation.memorisation import Pictured
from aigc_ops.evaluation.moments import MAX_KEPT
from aigc_ops.evaluation.reference import reference_rows, reference_terms
from aigc_ops.evaluation.statistics import paired_error, paired_ratio_error
from aigc_ops.evaluation.texts import surprise
from aigc_ops.folders import MODEL_JSON, verify_folder, write_folder
from aigc_ops.generative import Generative, ImageModel, Images, TextData, TextModel
from aigc_ops.revision import code_digest
from aigc_ops.sample_request import SampleRequest

KEPT = "samples.safetensors"
NUM_KEPT_IMAGES = 256
NUM_TIMED = 32
NUM_ROUNDS = 5


@dataclass(frozen=True)
class Paired:
    """The candidate's primary score less the champion's; below 0 the candidate is better."""

    metric: str
    candidate: float
    champion: float
    error: float
    """Standard error of the difference."""
    freedom: int
    """Degrees of freedom of that error."""
    num: int
    """Samples, or held-out texts, of each."""

    @property
    def difference(self) -> float:
        return self.candidate - self.champion

    def bounds(self, level: float) -> tuple[float, float]:
        """Lower and upper bound of the difference, each sure at a level (Student's t)."""
        from scipy.special import stdtrit

        reach = float(stdtrit(self.freedom, level)) * self.error
        return self.difference - reach, self.difference + reach


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
    """How far apart two checkpoints of one modality are on its primary metric.

    Both draw from the same seeds and labels, as many each, against the same reference; texts
    are the same held-out ones. What an evaluation drew before is taken from `cache`. Raises
    EvaluationError when one of them does not fit the data.
    """
    models = [load(each, config) for each in (candidate, champion)]
    if ref.modality == "text":
        return _compare_texts(models, ref, data_config, config)
    extractor = load_extractor(config)
    splits = Splits(ref, reader(ref, data_config), data_config, config, extractor, cache)
    reference = splits.reference(config.reference)
    sides = [
        drawn(checkpoint, cast(ImageModel, model), ref, extractor, config, seed=seed, cache=cache)
        for checkpoint, model in zip((candidate, champion), models, strict=True)
    ]
    mine, theirs, error, freedom = paired_error(
        sides[0].features, sides[1].features, reference.gaussian
    )
    return Paired(extractor.metric, mine, theirs, error, freedom, len(sides[0].features))


def drawing_times(candidate: Checkpoint, champion: Checkpoint, config: EvaluationConfig) -> float:
    """Time in which the candidate draws as much as the champion does, over the champion's.

    By turns, the median of rounds. Of texts each character counts: one model ends earlier.
    """
    models = [load(each, config) for each in (candidate, champion)]
    asked = [_timed_requests(model) for model in models]
    ratios = []
    for round_ in range(1 + NUM_ROUNDS):
        seconds = []
        for model, requests in zip(models, asked, strict=True):
            start = perf_counter()
            found = sampling.draw(model, requests)
            amount = len(found) if isinstance(found, Tensor) else sum(map(len, found))
            seconds.append((perf_counter() - start) / max(1, amount))
        if round_:  # the first warms up
            ratios.append(seconds[0] / seconds[1])
    return float(np.median(ratios))


def keep_samples(
    samples: Pictured, checkpoint: Checkpoint, extractor: Extractor, *, seed: int, cache: Path
) -> None:
    """Keep what an evaluation drew, so that a comparison need not draw it again."""
    images = samples.images[:NUM_KEPT_IMAGES].contiguous().numpy()
    arrays = {"features": np.asarray(samples.features, np.float32), "images": images}
    write_folder(
        _kept_folder(checkpoint, extractor, seed=seed, cache=cache),
        lambda folder: save_file(arrays, folder / KEPT),
    )


def kept_samples(
    checkpoint: Checkpoint, extractor: Extractor, num: int, *, seed: int, cache: Path
) -> Pictured | None:
    """The first `num` samples that were kept, features and the first images; None if fewer."""
    folder = _kept_folder(checkpoint, extractor, seed=seed, cache=cache)
    try:
        verify_folder(folder)
    except CheckpointError:
        return None
    caches.mark_used(folder)
    kept = load_file(folder / KEPT)
    if len(kept["features"]) < num:
        return None
    return Pictured(torch.from_numpy(kept["images"][:num]), kept["features"][:num])


def _kept_folder(checkpoint: Checkpoint, extractor: Extractor, *, seed: int, cache: Path) -> Path:
    """Where samples are kept: named by weights, config, features, seed and code.

    A registered version's folder differs from its training's, their weights do not.
    """
    folder = Path(checkpoint.uri)
    digests = [file_digest(folder / name) for name in (WEIGHTS, MODEL_JSON)]
    identity = extractor.identity.model_dump(mode="json")
    named = json_digest([digests, identity, seed, code_digest()])
    return cache.with_name("samples") / named


def drawn(
    checkpoint: Checkpoint,
    model: ImageModel,
    ref: DatasetRef,
    extractor: Extractor,
    config: EvaluationConfig,
    *,
    seed: int,
    cache: Path,
) -> Pictured:
    """The first samples of a seed, at most 10,000: what an evaluation kept, else drawn and kept."""
    check_shape(model, ref)
    num = min(config.num_samples, MAX_KEPT)
    kept = kept_samples(checkpoint, extractor, num, seed=seed, cache=cache)
    if kept is None:
        asked = sampling.requests(model, num, seed=seed)
        kept, _ = samples_of(model, extractor, asked)
        keep_samples(kept, checkpoint, extractor, seed=seed, cache=cache)
    return kept


def _compare_texts(
    models: Sequence[Generative], ref: DatasetRef, data_config: DataConfig, config: EvaluationConfig
) -> Paired:
    num = reference_terms(ref, data_config, config)["num_reference"]
    assert isinstance(num, int), num
    heldout = cast(TextData, read_split(ref, data_config, "heldout"))
    data = heldout.take(reference_rows(len(heldout), num))
    num_bytes = np.array([float(len(text.encode())) for text in data.texts])
    bits = [surprise(cast(TextModel, model), data)[0] / math.log(2) for model in models]
    error = paired_ratio_error(bits[0], bits[1], num_bytes)
    mine, theirs = (float(each.sum() / num_bytes.sum()) for each in bits)
    return Paired("bits_per_byte", mine, theirs, error, num - 1, num)


def load(checkpoint: Checkpoint, config: EvaluationConfig) -> Generative:
    """The checkpoint's model, ready to draw."""
    model = load_model(Path(checkpoint.uri), expected=checkpoint.manifest_digest)
    return model.to(choose_device(config.device)).eval()


def _timed_requests(model: Generative) -> list[SampleRequest]:
    return sampling.requests(model, NUM_TIMED if isinstance(model, ImageModel) else 4, seed=0)


def reader(ref: DatasetRef, data_config: DataConfig) -> Callable[[Split], Images]:
    """Reads the splits of a dataset of images."""
    return lambda split: cast(Images, read_split(ref, data_config, split))
