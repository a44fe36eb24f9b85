"""Scores of held-out images by families that tell how likely an image is."""

import warnings
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from aigc_ops.compute.random import Noise
from aigc_ops.core.artifacts import Score
from aigc_ops.core.errors import EvaluationError
from aigc_ops.core.tracking import progress_bar
from aigc_ops.interfaces.evaluation import EvaluationContext
from aigc_ops.modalities.image.extractors.base import OTHER_BATCH
from aigc_ops.modalities.image.metrics.splits import image_terms
from aigc_ops.modalities.image.model import ImageLikelihoodModel, Images
from aigc_ops.modalities.image.pictures import grid
from aigc_ops.statistics.comparability import score_of
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.intervals import ratio_estimate
from aigc_ops.statistics.reference import reference_rows

INTERVAL = "95 %, percentile bootstrap over images: of other images like these"
SEED = 0  # of every model alike: they meet the same binarised pixels
NUM_OF_ONE_NOISE = OTHER_BATCH
"""Images that share a noise, of which each part draws the whole: so the cost stays in line."""
NUM_SHOWN = 50
NUM_COLUMNS = 10


def score_heldout(
    model: ImageLikelihoodModel, context: EvaluationContext
) -> tuple[dict[str, Score], dict[str, Image.Image]]:
    """Return the model's own figures of held-out images, and its pictures of the first of them.

    Both are empty, with a warning, where fewer than two images are held out.
    """
    heldout: Images = context.read("heldout")
    if len(heldout) < 2:
        warnings.warn(
            f"{context.ref.uri}: {len(heldout)} images are held out, so none tells how likely the "
            "model finds unseen ones; hold more data out",
            stacklevel=2,
        )
        return {}, {}
    terms = image_terms(context, "heldout")
    num, num_draws = terms["num_reference"], context.section.num_draws
    assert isinstance(num, int), num
    rows = torch.tensor(reference_rows(len(heldout), num))
    at_once = min(context.settings.batch_size or NUM_OF_ONE_NOISE, NUM_OF_ONE_NOISE)
    figures, own_terms = _figures(model, heldout, rows, at_once=at_once, num_draws=num_draws)
    contract: dict[str, JsonValue] = {
        "n": num,
        **terms,
        "unit": "nats an image",
        "num_draws": num_draws,
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
    model: ImageLikelihoodModel, heldout: Images, rows: Tensor, *, at_once: int, num_draws: int
) -> tuple[dict[str, Array], dict[str, JsonValue]]:
    """Return each figure of every image, (N,) float64, and what they depend on."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    terms: dict[str, JsonValue] = {}
    with progress_bar(total=len(rows), desc="held-out images", unit="images") as bar:
        for first, start in _parts(len(rows), at_once):
            block = rows[first : first + NUM_OF_ONE_NOISE]
            part = slice(start, start + at_once)
            batch, noise = _batch(model, heldout, block, part, key=first)
            figures = model.figures(batch, noise, num_draws=num_draws)
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
        shown[name] = grid(images.flatten(0, 1), rows_abreast * images.shape[1])
    return shown
