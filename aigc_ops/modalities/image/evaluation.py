"""Evaluation hooks of image models: scores, paired comparison, side-by-side samples."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from aigc_ops.core.artifacts import DatasetRef, Scores
from aigc_ops.interfaces.evaluation import (
    Evaluation,
    EvaluationContext,
    EvaluationHooks,
    EvaluationSettings,
    LoadedModel,
    Paired,
)
from aigc_ops.interfaces.media import Findings, Media, Note, Picture, Section, Text
from aigc_ops.modalities.image.config import ImageEvaluationConfig, agreement_lines
from aigc_ops.modalities.image.extractors.base import Extractor
from aigc_ops.modalities.image.extractors.loading import load_extractor
from aigc_ops.modalities.image.metrics import EVALUATION_VERSION
from aigc_ops.modalities.image.metrics.closeness import NEXT, nearest
from aigc_ops.modalities.image.metrics.controls import evaluate_controls
from aigc_ops.modalities.image.metrics.discriminator import (
    discriminator_scores,
    overfitting_warning,
)
from aigc_ops.modalities.image.metrics.grids import class_grid, pairs_grid
from aigc_ops.modalities.image.metrics.kept_samples import first_samples
from aigc_ops.modalities.image.metrics.likelihood import score_heldout
from aigc_ops.modalities.image.metrics.memorisation import MIN_HELDOUT, ImageFeatures
from aigc_ops.modalities.image.metrics.report import (
    CONTROLS_TEXT,
    memorisation_note,
    pictures_section,
    sample_sections,
)
from aigc_ops.modalities.image.metrics.score import ImageScores, score_images
from aigc_ops.modalities.image.metrics.splits import MORE_IMAGES, Splits
from aigc_ops.modalities.image.model import ImageLikelihoodModel, ImageModel
from aigc_ops.statistics.intervals import paired_error
from aigc_ops.statistics.reference import require_rows

CONTROLS, TRAVERSALS = "controls.json", "controls.png"
SIDE_BY_SIDE = "Samples from the same seeds"
PAIRS = "Nearest training images"
PAIRS_TEXT = (
    "Above, the samples with the smallest relative distance to a training image; below, that image."
)


class ImageEvaluation(EvaluationHooks):
    """Evaluation of images: a Fréchet distance in extractor features decides promotion."""

    version = EVALUATION_VERSION
    growing = "num_samples"
    num_timed = 32
    not_examined = (
        f"altered copies of training images are measured from {MIN_HELDOUT} held-out images on, "
        "which are the control (hold out more, raise data.heldout_fraction, or set "
        "evaluation.image.copy_control to cross_fitted)"
    )
    copy_controls: ClassVar[Mapping[str, str]] = {"exact_copies": "real_exact_copies"}

    def require(
        self, ref: DatasetRef, section: ImageEvaluationConfig, settings: EvaluationSettings
    ) -> None:
        """Raise EvaluationError for a split with too few rows, or weights that cannot be read."""
        require_rows(ref, section.reference, advice=MORE_IMAGES)
        load_extractor(section, settings)

    def collapse_reason(self, scores: Scores) -> str | None:
        """Return why the scores are those of a collapsed model; None if they are not."""
        coverage, duplicates = (scores.values.get(name) for name in ("coverage", "near_duplicates"))
        if coverage and duplicates and coverage.value == 0 and duplicates.value == 1:
            return "all samples are near duplicates, and none is near a real image (coverage 0)"
        return None

    def evaluate(self, candidate: LoadedModel, context: EvaluationContext) -> Evaluation:
        """Return every score; models with controls or a likelihood add files."""
        # 1. Scores of generated samples.
        model = _image_model(candidate)
        extractor = load_extractor(context.section, context.settings)
        scores = score_images(candidate, context, extractor)
        num_classes = model.shape.num_classes
        grid = class_grid(scores.samples.images, num_classes)
        sections = sample_sections(scores, grid, num_classes)
        # 2. Effects of the model's controls.
        values, (files, metrics) = scores.values, _controls(model, extractor, context)
        values |= discriminator_scores(model, context)
        if isinstance(picture := files.get(TRAVERSALS), Picture):
            sections.append(Section("Controls", CONTROLS_TEXT, [("", picture)]))
        # 3. Likelihood of held-out images.
        if isinstance(model, ImageLikelihoodModel) and context.ref.num_heldout:
            figures, pictures = score_heldout(model, context)
            values |= figures
            files |= {f"{name}.png": Picture(image) for name, image in pictures.items()}
            if pictures:
                sections.append(pictures_section("Held-out images", pictures))
        return Evaluation(
            primary=scores.primary,
            values=values,
            preview=Picture(grid),
            findings=Findings(_notes(scores), sections),
            files=files,
            metrics=metrics,
        )

    def compare(
        self, candidate: LoadedModel, champion: LoadedModel, context: EvaluationContext
    ) -> Paired:
        """Return the difference of the Fréchet distances; stored samples are reused."""
        extractor = load_extractor(context.section, context.settings)
        reference = Splits(context, extractor).reference(context.section.reference)
        # Both models answer the same seeds, and the interval is that of the paired difference.
        sides = [first_samples(each, context, extractor) for each in (candidate, champion)]
        candidate_value, champion_value, error, freedom = paired_error(
            sides[0].features, sides[1].features, reference.gaussian
        )
        num = len(sides[0].features)
        return Paired(extractor.metric, candidate_value, champion_value, error, freedom, num)

    def side_by_side(
        self, models: Sequence[tuple[str, LoadedModel]], context: EvaluationContext
    ) -> list[Section]:
        """Return grids of samples, and the samples nearest to training images."""
        extractor = load_extractor(context.section, context.settings)
        # The relative distance compares the nearest training image with the NEXT further ones.
        has_pairs = context.ref.num_train > NEXT + 1
        train = Splits(context, extractor).pictured("train") if has_pairs else None
        grids, pairs = {}, {}
        for name, loaded in models:
            samples = first_samples(loaded, context, extractor)
            grids[name] = class_grid(samples.images, _image_model(loaded).shape.num_classes)
            if train:
                pairs[name] = _pairs(samples, train)
        sections = [pictures_section(SIDE_BY_SIDE, grids)]
        if pairs:
            sections.append(pictures_section(PAIRS, pairs, PAIRS_TEXT))
        for name, loaded in models:
            if warning := overfitting_warning(discriminator_scores(loaded.model, context)):
                sections.append(Section(f"Discriminator of {name}", warning))
        return sections


def _notes(scores: ImageScores) -> list[Note]:
    notes = [memorisation_note(scores), *map(Note, agreement_lines(scores.values))]
    warning = overfitting_warning(scores.values)
    return [*notes, Note(warning, alarm=True)] if warning else notes


def _image_model(loaded: LoadedModel) -> ImageModel:
    assert isinstance(loaded.model, ImageModel), type(loaded.model)
    return loaded.model


def _controls(
    model: ImageModel, extractor: Extractor, context: EvaluationContext
) -> tuple[dict[str, Media], dict[str, float]]:
    """Return files and metrics of the controls' effects; both empty without controls."""
    result = evaluate_controls(
        model,
        extractor,
        num_controls=context.section.num_controls,
        num_samples=context.section.num_samples,
        seed=context.seed,
    )
    if result is None:
        return {}, {}
    report, picture = result
    text = Text(report.model_dump_json(indent=2) + "\n")
    return {CONTROLS: text, TRAVERSALS: Picture(picture)}, report.metrics()


def _pairs(samples: ImageFeatures, train: ImageFeatures) -> Image.Image:
    """Return a grid of the samples nearest to training images, above these."""
    # Features of more samples are stored than images; only those with an image can be shown.
    num = len(samples.images)
    features = torch.from_numpy(np.asarray(samples.features[:num], np.float32))
    closest = nearest(features, torch.from_numpy(np.asarray(train.features, np.float32)))
    return pairs_grid(samples.images, train.images, closest.index, closest.closeness)
