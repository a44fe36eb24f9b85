"""Images for people: samples beside real images, nearest pairs, the most and the least alike."""

from collections.abc import Mapping

from PIL import Image

from aigc_ops.interfaces.media import Note, Picture, Section
from aigc_ops.modalities.image.metrics.grids import pairs_grid, ranked_grids, real_grid
from aigc_ops.modalities.image.metrics.memorisation import MIN_HELDOUT
from aigc_ops.modalities.image.metrics.score import ImageScores

PAIRS_TEXT = (
    "Above, the samples that are closest to a training image for where they lie; below, that image."
)
CONTROLS_TEXT = "Each control from low to high, all else the same."


def memorisation_note(scores: ImageScores) -> Note:
    """Return what was found of copies."""
    if scores.memorisation is None:
        return Note(f"Copies were not looked for: {MIN_HELDOUT} held-out images are needed.")
    return Note(scores.memorisation.told, alarm=scores.memorisation.flagged)


def sample_sections(scores: ImageScores, grid: Image.Image, num_classes: int) -> list[Section]:
    """Return the samples beside real ones, and those nearest to and furthest from the data."""
    samples = scores.samples.images
    real = real_grid(scores.real.images, scores.real.labels, num_classes)
    both = {"samples": grid, "real images": real}
    sections = [pictures_section("Samples and real images", both)]
    if scores.nearest:
        index, closeness = scores.nearest.index, scores.nearest.closeness
        pairs = pairs_grid(samples, scores.train.images, index, closeness)
        sections.append(pictures_section("Nearest training images", {"": pairs}, PAIRS_TEXT))
    best, worst = ranked_grids(samples[: len(scores.distances)], scores.distances[: len(samples)])
    ranked = {"nearest to a real image": best, "furthest from any": worst}
    return [*sections, pictures_section("Most and least like the data", ranked, "In features.")]


def pictures_section(heading: str, pictures: Mapping[str, Image.Image], text: str = "") -> Section:
    """Return a section of pictures by their captions."""
    return Section(heading, text, [(name, Picture(image)) for name, image in pictures.items()])
