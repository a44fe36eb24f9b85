"""What a model's controls do to its images: a picture of it, and an estimate in nats.

Each control is looked at alone; the others rest, as in a request that does not name them.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from aigc_ops.core.artifacts import Noun
from aigc_ops.interfaces.request import Control
from aigc_ops.modalities.image.extractors.base import Extractor, ExtractorIdentity
from aigc_ops.modalities.image.model import ImageModel
from aigc_ops.modalities.image.pictures import GRID_PADDING, grid
from aigc_ops.sampling import sampler
from aigc_ops.statistics import mutual_information
from aigc_ops.statistics.frechet import Array
from aigc_ops.statistics.mutual_information import Information

MIN_SAMPLES, MAX_SAMPLES = 16, 256
NUM_ROWS = 4
NUM_STEPS = 9
MAX_CATEGORIES = 16
"""Most values of an integer control that are shown one by one and told apart as classes."""
TITLE_HEIGHT, VALUES_HEIGHT = 26, 18
MEANS = (
    "nats: a lower bound on the mutual information between a control, drawn evenly over its range "
    "while the others rest, and the images' features (Barber & Agakov 2003), by a ridge regression "
    "on half of the samples and measured on the other half. shuffled_nats: the most of "
    f"{mutual_information.NUM_SHUFFLES} times with shuffled values; nats beyond it are no chance "
    "(p = 0.05). 0 does not prove that a control does nothing: a look that is linear in these "
    "features "
    "finds nothing."
)


class ControlReport(Noun):
    """What was found of one control."""

    nats: float
    shuffled_nats: float
    most_nats: float | None
    """What telling all values apart would give; None for a control without steps."""
    low: float
    high: float
    description: str


class ControlsReport(Noun):
    """What was found of a model's controls, and how."""

    means: str = MEANS
    extractor: ExtractorIdentity
    num_samples: int
    """Images drawn for each control."""
    seed: int
    controls: dict[str, ControlReport]
    left_out: tuple[str, ...]
    """Controls beyond `evaluation.image.num_controls`."""

    def metrics(self) -> dict[str, float]:
        """Return the estimates by `controls/NAME/nats`."""
        return {f"controls/{name}/nats": each.nats for name, each in self.controls.items()}


def look_at_controls(
    model: ImageModel, extractor: Extractor, *, num_controls: int, num_samples: int, seed: int
) -> tuple[ControlsReport, Image.Image] | None:
    """Return the report on a model's first controls and its picture; None when there are none.

    Each is estimated from `num_samples` images, but from 16 at least and 256 at most.
    """
    controls = model.controls()
    chosen = dict(islice(controls.items(), num_controls))
    if not chosen:
        return None
    num = min(max(num_samples, MIN_SAMPLES), MAX_SAMPLES)
    found = {name: measure(model, extractor, name, num=num, seed=seed) for name in chosen}
    report = ControlsReport(
        extractor=extractor.identity,
        num_samples=num,
        seed=seed,
        controls={name: _report(control, found[name]) for name, control in chosen.items()},
        left_out=tuple(name for name in controls if name not in chosen),
    )
    return report, _picture(model, found, seed)


def _report(control: Control, found: Information) -> ControlReport:
    num = num_categories(control)
    return ControlReport(
        nats=found.nats,
        shuffled_nats=found.shuffled_nats,
        most_nats=float(np.log(num)) if num else None,
        low=control.low,
        high=control.high,
        description=control.description,
    )


def measure(
    model: ImageModel, extractor: Extractor, name: str, *, num: int, seed: int
) -> Information:
    """Return what the features of `num` images tell of the values of the named control."""
    control = model.controls()[name]
    # Not 0 nor 1, whose normal score would be infinite.
    shares = np.random.default_rng(seed).uniform(1e-6, 1 - 1e-6, num)
    asked = [
        replace(request, controls={name: value})
        for request, value in zip(
            sampler.requests(model, num, seed=seed), _values(control, shares), strict=True
        )
    ]
    images = sampler.draw(model, asked, progress=True)
    features = extractor.features(images, what=f"the samples by {name}")
    if categories := num_categories(control):
        chosen = np.floor(shares * categories).astype(np.intp)
        return mutual_information.of_category(features, chosen, categories, seed=seed)
    # Information outlives a change of scale, and for a normal number a Gaussian guess is right.
    scores: Array = torch.special.ndtri(torch.from_numpy(shares)).numpy()
    return mutual_information.of_normal(features, scores, seed=seed)


def num_categories(control: Control) -> int:
    """Return the number of an integer control's values; 0 for many, or without whole numbers."""
    num = _num_values(control)
    return num if control.is_integer and num <= MAX_CATEGORIES else 0


def _num_values(control: Control) -> int:
    return int(control.high - control.low) + 1


def _values(control: Control, shares: NDArray[np.float64]) -> list[float]:
    """Return the control's values at shares in [0, 1) of its range."""
    if control.is_integer:
        steps: list[float] = (control.low + np.floor(shares * _num_values(control))).tolist()
        return steps
    evenly: list[float] = (control.low + shares * (control.high - control.low)).tolist()
    return evenly


def steps(control: Control) -> list[float]:
    """Return values from low to high: each of up to 16 whole numbers, else evenly spaced ones."""
    num = num_categories(control) or NUM_STEPS
    values = np.linspace(control.low, control.high, num)
    return [float(each) for each in (values.round() if control.is_integer else values)]


def _picture(model: ImageModel, found: Mapping[str, Information], seed: int) -> Image.Image:
    """Return a titled block for each control, one below the other."""
    blocks = [
        _block(
            model, name, f"{name}: {each.nats:.2f} nats, by chance {each.shuffled_nats:.2f}", seed
        )
        for name, each in found.items()
    ]
    size = (max(block.width for block in blocks), sum(block.height for block in blocks))
    sheet, top = Image.new(blocks[0].mode, size, "white"), 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _block(model: ImageModel, name: str, title: str, seed: int) -> Image.Image:
    """Return rows of one seed each, whose columns step through the control's values."""
    values = steps(model.controls()[name])
    asked = [
        replace(request, controls={name: value})
        for request in sampler.requests(model, NUM_ROWS, seed=seed)
        for value in values
    ]
    cells = grid(sampler.draw(model, asked), len(values))
    large, small = ImageFont.load_default(16), ImageFont.load_default(12)
    width = max(cells.width, int(large.getlength(title)) + 2 * GRID_PADDING)
    block = Image.new(cells.mode, (width, cells.height + TITLE_HEIGHT + VALUES_HEIGHT), "white")
    block.paste(cells, (0, TITLE_HEIGHT + VALUES_HEIGHT))
    pen, column = ImageDraw.Draw(block), (cells.width - GRID_PADDING) / len(values)
    pen.text((GRID_PADDING, TITLE_HEIGHT / 2), title, "black", large, anchor="lm")
    for index, value in enumerate(values):
        centre = ((index + 0.5) * column, TITLE_HEIGHT + VALUES_HEIGHT / 2)
        pen.text(centre, f"{value:g}", "black", small, anchor="mm")
    return block
