"""Cache of generated samples and their features, so that a comparison can reuse them."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from aigc_ops.core import caches
from aigc_ops.core.artifacts import json_digest
from aigc_ops.core.atomic_dirs import verify_folder, write_folder
from aigc_ops.core.errors import CheckpointError
from aigc_ops.interfaces.evaluation import EvaluationContext, LoadedModel
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.metrics import EVALUATION_VERSION
from aigc_ops.modalities.image.metrics.memorisation import ImageFeatures
from aigc_ops.modalities.image.metrics.score import check_shape, generate
from aigc_ops.modalities.image.model import ImageModel
from aigc_ops.sampling import sampler
from aigc_ops.statistics.moments import MAX_KEPT
from aigc_ops.statistics.reference import computed_by

SAMPLES_FILE = "samples.safetensors"
NUM_KEPT_IMAGES = 256


def keep_samples(
    samples: ImageFeatures, loaded: LoadedModel, extractor: Extractor, *, seed: int, cache: Path
) -> None:
    """Store the features of all samples and the first images."""
    images = samples.images[:NUM_KEPT_IMAGES].contiguous().numpy()
    arrays = {"features": np.asarray(samples.features, np.float32), "images": images}
    write_folder(
        _folder(loaded, extractor, seed=seed, cache=cache),
        lambda folder: save_file(arrays, folder / SAMPLES_FILE),
    )


def kept_samples(
    loaded: LoadedModel, extractor: Extractor, num: int, *, seed: int, cache: Path
) -> ImageFeatures | None:
    """Return the first `num` stored samples; None if there are fewer."""
    folder = _folder(loaded, extractor, seed=seed, cache=cache)
    try:
        verify_folder(folder)
    # Missing or damaged: samples can be generated again, so neither is an error.
    except CheckpointError:
        return None
    caches.mark_used(folder)
    kept = load_file(folder / SAMPLES_FILE)
    if len(kept["features"]) < num:
        return None
    return ImageFeatures(torch.from_numpy(kept["images"][:num]), kept["features"][:num])


def first_samples(
    loaded: LoadedModel, context: EvaluationContext, extractor: Extractor
) -> ImageFeatures:
    """Return the first samples of the seed, at most 10,000, from the cache if possible."""
    model, seed, cache = loaded.model, context.seed, context.cache
    assert isinstance(model, ImageModel), type(model)
    check_shape(model, context.ref)
    # Of larger sets, an evaluation stores only this number of rows of features.
    num = min(context.section.num_samples, MAX_KEPT)
    kept = kept_samples(loaded, extractor, num, seed=seed, cache=cache)
    if kept is None:
        kept, _ = generate(model, extractor, sampler.requests(model, num, seed=seed))
        keep_samples(kept, loaded, extractor, seed=seed, cache=cache)
    return kept


def _folder(loaded: LoadedModel, extractor: Extractor, *, seed: int, cache: Path) -> Path:
    """Return the folder of the samples, named by all that they and their features depend on."""
    made_by = computed_by(extractor, EVALUATION_VERSION)
    return cache.with_name("samples") / json_digest([loaded.content_digest, seed, made_by])
