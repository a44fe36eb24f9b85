"""Likelihood scores of held-out images, for families that estimate a likelihood."""

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

# Stored in evaluation conditions: a change of wording makes scores incomparable.
INTERVAL = "95 %, percentile bootstrap over images: of other images like these"
SEED = 0  # the same for every model, so that all get the same binarised pixels
# Noise is generated per block of 64 images, so the batch size does not change a score. Every
# micro-batch generates the noise of its whole block, so larger blocks would cost more.
NOISE_BLOCK_SIZE = OTHER_BATCH
NUM_SHOWN = 50
NUM_COLUMNS = 10


def score_heldout(
    model: ImageLikelihoodModel, context: EvaluationContext
) -> tuple[dict[str, Score], dict[str, Image.Image]]:
    """Return likelihood scores of held-out images, and pictures of the first of them.

    Both are empty, with a warning, if fewer than two images are held out.
    """
    heldout: Images = context.read("heldout")
    if len(heldout) < 2:
        warnings.warn(
            f"{context.ref.uri}: {len(heldout)} images are held out; likelihood scores need at "
            "least 2; hold out more data",
            stacklevel=2,
        )
        return {}, {}
    terms = image_terms(context, "heldout")
    num, num_draws = terms["num_reference"], context.section.num_draws
    assert isinstance(num, int), num
    rows = torch.tensor(reference_rows(len(heldout), num))
    at_once = min(context.settings.batch_size or NOISE_BLOCK_SIZE, NOISE_BLOCK_SIZE)
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
    """Return the values of every image, (N,) float64 by name, and the terms they depend on."""
    parts: dict[str, list[Tensor]] = defaultdict(list)
    terms: dict[str, JsonValue] = {}
    with progress_bar(total=len(rows), desc="held-out images", unit="images") as bar:
        for first, start in _parts(len(rows), at_once):
            block = rows[first : first + NOISE_BLOCK_SIZE]
            part = slice(start, start + at_once)
            batch, noise = _batch(model, heldout, block, part, key=first)
            figures = model.figures(batch, noise, num_draws=num_draws)
            terms = dict(figures.terms)
            for name, values in figures.values.items():
                parts[name].append(values.cpu().double())
            bar.update(len(block[part]))
    joined = {name: torch.cat(values) for name, values in parts.items()}
    for name, values in joined.items():
        if not values.isfinite().all():
            raise EvaluationError(
                f"the {name} of a held-out image is not finite; the weights are damaged or the "
                "training diverged"
            )
    return {name: values.numpy() for name, values in joined.items()}, terms


def _parts(num: int, at_once: int) -> Iterator[tuple[int, int]]:
    """Yield the first row of each noise block, with the start of each batch within it."""
    for first in range(0, num, NOISE_BLOCK_SIZE):
        for start in range(0, min(NOISE_BLOCK_SIZE, num - first), at_once):
            yield first, start


def _batch(
    model: ImageLikelihoodModel, heldout: Images, rows: Tensor, part: slice, *, key: int = 0
) -> tuple[dict[str, Tensor], Noise]:
    """Return examples of a part of a block, and the noise that this key gives their rows."""
    device = next(model.parameters()).device
    examples = model.examples(heldout.take(rows[part]))
    # `rows` selects this part's rows from the noise of the whole block.
    noise = Noise(SEED, key, rows=part, batch_size=len(rows), device=device)
    return {name: tensor.to(device) for name, tensor in examples.items()}, noise


@torch.inference_mode()
def _pictures(model: ImageLikelihoodModel, heldout: Images, rows: Tensor) -> dict[str, Image.Image]:
    """Return the model's pictures as grids; short rows are placed side by side."""
    batch, noise = _batch(model, heldout, rows, slice(0, len(rows)))
    grids = {}
    for name, images in model.pictures(batch, noise).items():
        rows_abreast = min(len(images), max(1, NUM_COLUMNS // images.shape[1]))
        grids[name] = grid(images.flatten(0, 1), rows_abreast * images.shape[1])
    return grids
