"""Effects of a model's controls on its images: a picture, and mutual information in nats.

Each control is varied alone; the others keep the value of a request that does not name them.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from aigc_ops.core.artifacts import Record
from aigc_ops.interfaces.request import Control
from aigc_ops.modalities.image.extractors.base import Extractor, ExtractorIdentity
from aigc_ops.modalities.image.model import ImageModel
from aigc_ops.modalities.image.pictures import GRID_PADDING, grid
from aigc_ops.sampling import sampler
from aigc_ops.statistics import mutual_information
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.mutual_information import Information

MIN_SAMPLES, MAX_SAMPLES = 16, 256  # per control
NUM_ROWS = 4  # seeds of the picture
NUM_STEPS = 9  # values of a continuous control in the picture
MAX_CATEGORIES = 16  # values up to which an integer control counts as a category
TITLE_HEIGHT, VALUES_HEIGHT = 26, 18  # pixels
MEANS = (
    "nats: a lower bound on the mutual information between a control, sampled uniformly over its "
    "range while the others are fixed, and the images' features (Barber & Agakov 2003), from a "
    "ridge regression fitted to half of the samples and measured on the other half. "
    f"shuffled_nats: the maximum of {mutual_information.NUM_SHUFFLES} runs with shuffled values; "
    "larger nats are significant (p = 0.05). 0 does not prove that a control has no effect, only "
    "that a linear regression on these features finds none."
)


class ControlReport(Record):
    """Estimated effect of one control."""

    nats: float
    shuffled_nats: float
    most_nats: float | None
    """Maximum possible value, log of the number of values; None for a continuous control."""
    low: float
    high: float
    description: str


class ControlsReport(Record):
    """Estimated effects of a model's controls, and how they were measured."""

    means: str = MEANS
    extractor: ExtractorIdentity
    num_samples: int
    """Number of images generated per control."""
    seed: int
    controls: dict[str, ControlReport]
    left_out: tuple[str, ...]
    """Controls beyond `evaluation.image.num_controls`."""

    def metrics(self) -> dict[str, float]:
        """Return the estimates by `controls/NAME/nats`."""
        return {f"controls/{name}/nats": control.nats for name, control in self.controls.items()}


def evaluate_controls(
    model: ImageModel, extractor: Extractor, *, num_controls: int, num_samples: int, seed: int
) -> tuple[ControlsReport, Image.Image] | None:
    """Return the report on a model's first controls and its picture; None without controls.

    Each is estimated from `num_samples` images, limited to 16 to 256.
    """
    controls = model.controls()
    chosen = dict(islice(controls.items(), num_controls))
    if not chosen:
        return None
    num = min(max(num_samples, MIN_SAMPLES), MAX_SAMPLES)
    estimates = {name: measure(model, extractor, name, num=num, seed=seed) for name in chosen}
    report = ControlsReport(
        extractor=extractor.identity,
        num_samples=num,
        seed=seed,
        controls={name: _report(control, estimates[name]) for name, control in chosen.items()},
        left_out=tuple(name for name in controls if name not in chosen),
    )
    return report, _picture(model, estimates, seed)


def _report(control: Control, estimate: Information) -> ControlReport:
    num = num_categories(control)
    return ControlReport(
        nats=estimate.nats,
        shuffled_nats=estimate.shuffled_nats,
        most_nats=float(np.log(num)) if num else None,
        low=control.low,
        high=control.high,
        description=control.description,
    )


def measure(
    model: ImageModel, extractor: Extractor, name: str, *, num: int, seed: int
) -> Information:
    """Return the mutual information between a control and the features of `num` images."""
    control = model.controls()[name]
    # Exclude 0 and 1, whose normal scores would be infinite.
    shares = np.random.default_rng(seed).uniform(1e-6, 1 - 1e-6, num)
    requests = [
        replace(request, controls={name: value})
        for request, value in zip(
            sampler.requests(model, num, seed=seed), _values(control, shares), strict=True
        )
    ]
    images = sampler.generate(model, requests, progress=True)
    features = extractor.features(images, what=f"the samples by {name}")
    if categories := num_categories(control):
        chosen = np.floor(shares * categories).astype(np.intp)
        return mutual_information.mutual_information_categorical(
            features, chosen, categories, seed=seed
        )
    # Mutual information is invariant under monotone maps, so the values become normal scores, for
    # which a Gaussian regression is well specified.
    scores: Array = torch.special.ndtri(torch.from_numpy(shares)).numpy()
    return mutual_information.mutual_information_continuous(features, scores, seed=seed)


def num_categories(control: Control) -> int:
    """Return the number of values of an integer control; 0 if continuous or more than 16."""
    num = _num_values(control)
    return num if control.is_integer and num <= MAX_CATEGORIES else 0


def _num_values(control: Control) -> int:
    return int(control.high - control.low) + 1


def _values(control: Control, shares: NDArray[np.float64]) -> list[float]:
    """Return the control's values at fractions in [0, 1) of its range."""
    if control.is_integer:
        steps: list[float] = (control.low + np.floor(shares * _num_values(control))).tolist()
        return steps
    evenly: list[float] = (control.low + shares * (control.high - control.low)).tolist()
    return evenly


def steps(control: Control) -> list[float]:
    """Return values from low to high: all of up to 16 integers, else nine evenly spaced values."""
    num = num_categories(control) or NUM_STEPS
    values = np.linspace(control.low, control.high, num)
    return [float(each) for each in (values.round() if control.is_integer else values)]


def _picture(model: ImageModel, estimates: Mapping[str, Information], seed: int) -> Image.Image:
    """Return a titled block per control, stacked vertically."""
    blocks = [
        _block(
            model, name, f"{name}: {each.nats:.2f} nats, by chance {each.shuffled_nats:.2f}", seed
        )
        for name, each in estimates.items()
    ]
    size = (max(block.width for block in blocks), sum(block.height for block in blocks))
    sheet, top = Image.new(blocks[0].mode, size, "white"), 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _block(model: ImageModel, name: str, title: str, seed: int) -> Image.Image:
    """Return a grid with one seed per row and one value of the control per column."""
    values = steps(model.controls()[name])
    requests = [
        replace(request, controls={name: value})
        for request in sampler.requests(model, NUM_ROWS, seed=seed)
        for value in values
    ]
    cells = grid(sampler.generate(model, requests), len(values))
    # A long title widens the block, so that it is not cut off.
    large, small = ImageFont.load_default(16), ImageFont.load_default(12)
    width = max(cells.width, int(large.getlength(title)) + 2 * GRID_PADDING)
    block = Image.new(cells.mode, (width, cells.height + TITLE_HEIGHT + VALUES_HEIGHT), "white")
    block.paste(cells, (0, TITLE_HEIGHT + VALUES_HEIGHT))
    pen, column = ImageDraw.Draw(block), (cells.width - GRID_PADDING) / len(values)
    pen.text((GRID_PADDING, TITLE_HEIGHT / 2), title, "black", large, anchor="lm")
    # Centre each value above its column of images.
    for index, value in enumerate(values):
        centre = ((index + 0.5) * column, TITLE_HEIGHT + VALUES_HEIGHT / 2)
        pen.text(centre, f"{value:g}", "black", small, anchor="mm")
    return block
