"""Scores of held-out images by families that tell how likely an image is."""

import warnings
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from aigc_ops import sampling
from aigc_ops.artifacts import DatasetRef, Score
from aigc_ops.data import DataConfig
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import OTHER_BATCH, EvaluationConfig
from aigc_ops.evaluation.contracts import score_of
from aigc_ops.evaluation.distances import Array
from aigc_ops.evaluation.reference import reference_rows, reference_terms
from aigc_ops.evaluation.statistics import ratio_estimate
from aigc_ops.generative import ImageLikelihoodModel, Images
from aigc_ops.noise import Noise
from aigc_ops.tracking import progress_bar

INTERVAL = "95 %, percentile bootstrap over images: of other images like these"
SEED = 0  # of every model alike: they meet the same binarised pixels
NUM_OF_ONE_NOISE = OTHER_BATCH
"""Images that share a noise, of which each part draws the whole: so the cost stays in line."""
NUM_SHOWN = 50
NUM_COLUMNS = 10


def score_heldout(
    model: ImageLikelihoodModel,
    ref: DatasetRef,
    heldout: Images,
    data_config: DataConfig,
    config: EvaluationConfig,
) -> tuple[dict[str, Score], dict[str, Image.Image]]:
    """The model's own figures of held-out images, and its pictures of the first of them.

    Both are empty, with a warning, where fewer than two images are held out.
    """
    if len(heldout) < 2:
        warnings.warn(
            f"{ref.uri}: {len(heldout)} images are held out, so none tells how likely the model "
            "finds unseen ones; hold more data out",
            stacklevel=2,
        )
        return {}, {}
    of_heldout = config.model_copy(update={"reference": "heldout"})
    terms = reference_terms(ref, data_config, of_heldout)
    num = terms["num_reference"]
    assert isinstance(num, int), num
    rows = torch.tensor(reference_rows(len(heldout), num))
    figures, own_terms = _figures(model, heldout, rows, config)
    contract: dict[str, JsonValue] = {
        "n": num,
        **terms,
        "unit": "nats an image",
        "num_draws": config.num_draws,
        **own_terms,
        "precision": "fp32",
        "seed": SEED,
        "interval": INTERVAL,
    }
    scores = {name: _mean(values, contract) for name, values in figures.items()}
    return scores, _pictures(model, heldout, rows[:NUM_SHOWN])


def _mean(values: Array, contract: dict[str, JsonValue]) -> Score:
    mean = ratio_estimate(values, np.ones(len(values)), seed=SEED)
    return score_of(mean, contract)


@torch.inference_mode()
def _figures(
    model: ImageLikelihoodModel, heldout: Images, rows: Tensor, config: EvaluationConfig
) -> tuple[dict[str, Array], dict[str, JsonValue]]:
    """Each figure of every image, (N,) float64, and what they depend on."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    terms: dict[str, JsonValue] = {}
    with progress_bar(total=len(rows), desc="held-out images", unit="images") as bar:
        at_once = min(config.batch_size or NUM_OF_ONE_NOISE, NUM_OF_ONE_NOISE)
        for first, start in _parts(len(rows), at_once):
            block = rows[first : first + NUM_OF_ONE_NOISE]
            part = slice(start, start + at_once)
            batch, noise = _batch(model, heldout, block, part, key=first)
            figures = model.figures(batch, noise, num_draws=config.num_draws)
            terms = dict(figures.terms)
            for name, values in figures.values.items():
                found[name].append(values.cpu().double())
            bar.update(len(block[part]))
    joined = {name: torch.cat(values) for name, values in found.items()}
    for name, values in joined.items():
        if not values.isfinite().all():
            raise EvaluationError(
                f"the {name} of a held-out image is not finite, so the model's weights are damaged "
                "or it diverged in training"
            )
    return {name: values.numpy() for name, values in joined.items()}, terms


def _parts(num: int, at_once: int) -> Iterator[tuple[int, int]]:
    """First row of each block of one noise, and where in it each part starts."""
    for first in range(0, num, NUM_OF_ONE_NOISE):
        for start in range(0, min(NUM_OF_ONE_NOISE, num - first), at_once):
            yield first, start


def _batch(
    model: ImageLikelihoodModel, heldout: Images, rows: Tensor, part: slice, *, key: int = 0
) -> tuple[dict[str, Tensor], Noise]:
    """Examples of a part of a block, with the noise of this key that they meet in any part."""
    device = next(model.parameters()).device
    examples = model.examples(heldout.take(rows[part]))
    noise = Noise(SEED, key, rows=part, batch_size=len(rows), device=device)
    return {name: tensor.to(device) for name, tensor in examples.items()}, noise


@torch.inference_mode()
def _pictures(model: ImageLikelihoodModel, heldout: Images, rows: Tensor) -> dict[str, Image.Image]:
    """The model's pictures; short rows stand side by side."""
    batch, noise = _batch(model, heldout, rows, slice(0, len(rows)))
    shown = {}
    for name, images in model.pictures(batch, noise).items():
        rows_abreast = min(len(images), max(1, NUM_COLUMNS // images.shape[1]))
        shown[name] = sampling.grid(images.flatten(0, 1), rows_abreast * images.shape[1])
    return shown
