"""Report sections of an image model: samples, real images, nearest pairs, extremes."""

from collections.abc import Mapping

from PIL import Image

from aigc_ops.interfaces.media import Note, Picture, Section
from aigc_ops.modalities.image.metrics.grids import pairs_grid, ranked_grids, real_grid
from aigc_ops.modalities.image.metrics.memorisation import MIN_HELDOUT
from aigc_ops.modalities.image.metrics.score import ImageScores

PAIRS_TEXT = (
    "Above, the samples with the smallest relative distance to a training image; below, that image."
)
CONTROLS_TEXT = "Each control from low to high; everything else is fixed."


def memorisation_note(scores: ImageScores) -> Note:
    """Return a note on copies of training images."""
    if scores.memorisation is None:
        exact = scores.values["exact_copies"]
        return Note(
            f"Altered copies of training images were not examined: {MIN_HELDOUT} held-out images "
            "are needed as a control, or evaluation.image.copy_control: cross_fitted. "
            f"{exact.value:.1%} of the samples equal a training image.",
            alarm=exact.value > 0,
        )
    return Note(scores.memorisation.summary, alarm=scores.memorisation.flagged)


def sample_sections(scores: ImageScores, grid: Image.Image, num_classes: int) -> list[Section]:
    """Return grids of samples, real images, nearest pairs, and the extremes in features."""
    samples = scores.samples.images
    real = real_grid(scores.real.images, scores.real.labels, num_classes)
    both = {"samples": grid, "real images": real}
    sections = [pictures_section("Samples and real images", both)]
    if scores.nearest:
        index, closeness = scores.nearest.index, scores.nearest.closeness
        pairs = pairs_grid(samples, scores.train.images, index, closeness)
        sections.append(pictures_section("Nearest training images", {"": pairs}, PAIRS_TEXT))
    # Distances and images may be of different numbers of samples; both start with the first.
    best, worst = ranked_grids(samples[: len(scores.distances)], scores.distances[: len(samples)])
    ranked = {"nearest to a real image": best, "furthest from any": worst}
    return [*sections, pictures_section("Most and least like the data", ranked, "In features.")]


def pictures_section(heading: str, pictures: Mapping[str, Image.Image], text: str = "") -> Section:
    """Return a section of pictures with their captions."""
    return Section(heading, text, [(name, Picture(image)) for name, image in pictures.items()])
