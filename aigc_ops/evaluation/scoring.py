"""The evaluate stage: a checkpoint and its data in, scores with their contracts out."""

import os
from contextlib import suppress
from pathlib import Path
from typing import cast

from PIL import Image

from aigc_ops.artifacts import Checkpoint, DatasetRef, Score, Scores
from aigc_ops.checkpoints import load_model
from aigc_ops.data import DataConfig, read_split
from aigc_ops.devices import choose_device
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.controls import look_at_controls
from aigc_ops.evaluation.extractors import Extractor, load_extractor
from aigc_ops.evaluation.heldout import score_heldout
from aigc_ops.evaluation.images import Judged, score_images
from aigc_ops.evaluation.memorisation import MIN_HELDOUT
from aigc_ops.evaluation.paired import keep_samples
from aigc_ops.evaluation.passages import tell_of_texts
from aigc_ops.evaluation.pictures import class_grid, pairs_grid, ranked_grids, real_grid
from aigc_ops.evaluation.report import Findings, Note, Section, curves_picture, render
from aigc_ops.evaluation.texts import score_texts
from aigc_ops.generative import ImageLikelihoodModel, ImageModel, Images, TextData, TextModel
from aigc_ops.tracking import Tracker

SCORES = "scores.json"
GRID = "samples.png"
TEXTS = "samples.txt"
REPORT = "report.html"
PAIRS_TOLD = (
    "Above, the samples that are closest to a training image for where they lie; below, that image."
)
CONTROLS_TOLD = "Each control from low to high, all else the same."
CONTROLS, TRAVERSALS = "controls.json", "controls.png"

Left = dict[str, Image.Image | str]
"""What a stage leaves in its folder, by the files' names."""


def evaluate(
    checkpoint: Checkpoint,
    ref: DatasetRef,
    data_config: DataConfig,
    config: EvaluationConfig,
    *,
    seed: int,
    cache: Path,
    folder: Path,
    tracker: Tracker,
) -> Scores:
    """Scores of a checkpoint's samples against the data, also left in `folder`.

    `folder` gets `report.html`, `scores.json` and `samples.png` or `samples.txt`, of an image
    model with controls also `controls.json` and `controls.png`, and a family's own pictures of
    held-out images; `cache` keeps the statistics of the data. Equal arguments give equal scores on
    one machine. Raises EvaluationError when model and data do not fit, or no score can be
    computed.
    """
    if checkpoint.modality != ref.modality:
        raise EvaluationError(
            f"{checkpoint.uri} is a model of {checkpoint.modality}s, {ref.uri} holds "
            f"{ref.modality}s; give the data it was trained on"
        )
    model = load_model(Path(checkpoint.uri), expected=checkpoint.manifest_digest)
    model.to(choose_device(config.device))
    findings = Findings()
    if isinstance(model, ImageModel):
        primary, values, left = _judge_images(
            model,
            checkpoint,
            ref,
            data_config,
            config,
            findings,
            seed=seed,
            cache=cache,
            tracker=tracker,
        )
    else:
        assert isinstance(model, TextModel), type(model)
        judged = score_texts(
            model,
            ref,
            lambda split: cast(TextData, read_split(ref, data_config, split)),
            data_config,
            config,
            seed=seed,
            cache=cache,
        )
        primary, values, left = judged.primary, judged.values, {TEXTS: judged.drawn.lines}
        tell_of_texts(findings, judged)
    scores = Scores(
        checkpoint_digest=checkpoint.manifest_digest,
        modality=checkpoint.modality,
        primary=primary,
        values=values,
        grid_uri=str(folder / next(iter(left))),
        report_uri=str(folder / REPORT),
    )
    if curves := curves_picture(tracker.curves()):
        findings.sections.append(Section("While it trained", "", [("", curves)], is_smooth=True))
    left[REPORT] = render(checkpoint, ref, primary, values, findings)
    left[SCORES] = scores.model_dump_json(indent=2) + "\n"
    _leave(left, folder)
    tracker.log_metrics({name: s.value for name, s in values.items()}, step=checkpoint.step)
    for name, content in left.items():
        if isinstance(content, str):
            tracker.log_file(folder / name, "evaluation")
    return scores


def _judge_images(
    model: ImageModel,
    checkpoint: Checkpoint,
    ref: DatasetRef,
    data_config: DataConfig,
    config: EvaluationConfig,
    findings: Findings,
    *,
    seed: int,
    cache: Path,
    tracker: Tracker,
) -> tuple[str, dict[str, Score], Left]:
    """The primary metric's name, the scores and the files of an image model, also reported.

    `findings` gets what the report shows.
    """
    extractor = load_extractor(config)
    judged = score_images(
        model,
        ref,
        lambda split: cast(Images, read_split(ref, data_config, split)),
        data_config,
        config,
        extractor=extractor,
        seed=seed,
        cache=cache,
    )
    keep_samples(judged.samples, checkpoint, extractor, seed=seed, cache=cache)
    grid = class_grid(judged.samples.images, model.shape.num_classes)
    tracker.log_image("evaluation", grid, step=checkpoint.step)
    shown = _controls(model, extractor, config, seed=seed, step=checkpoint.step, tracker=tracker)
    values, left = judged.values, {GRID: grid, **shown}
    _tell_of_images(findings, judged, grid, model.shape.num_classes)
    if TRAVERSALS in shown:
        picture = cast(Image.Image, shown[TRAVERSALS])
        findings.sections.append(Section("Controls", CONTROLS_TOLD, [("", picture)]))
    if isinstance(model, ImageLikelihoodModel) and ref.num_heldout:
        images = cast(Images, read_split(ref, data_config, "heldout"))
        told, pictures = score_heldout(model, ref, images, data_config, config)
        values |= told
        for name, picture in pictures.items():
            tracker.log_image(name, picture, step=checkpoint.step)
            left[f"{name}.png"] = picture
        findings.sections.append(Section("Held-out images", "", list(pictures.items())))
    return judged.primary, values, left


def _tell_of_images(
    findings: Findings, judged: Judged, grid: Image.Image, num_classes: int
) -> None:
    """What people look at: samples beside real images, pairs, the most and the least alike."""
    samples = judged.samples.images
    real = real_grid(judged.real.images, judged.real.labels, num_classes)
    sections = [Section("Samples and real images", "", [("samples", grid), ("real images", real)])]
    if judged.memorisation and judged.nearest:
        found = judged.memorisation
        findings.notes.append(Note(found.told, alarm=found.flagged))
        index, closeness = judged.nearest.index, judged.nearest.closeness
        pairs = pairs_grid(samples, judged.train.images, index, closeness)
        sections.append(Section("Nearest training images", PAIRS_TOLD, [("", pairs)]))
    else:
        findings.notes.append(
            Note(f"Copies were not looked for: {MIN_HELDOUT} held-out images are needed.")
        )
    best, worst = ranked_grids(samples[: len(judged.distances)], judged.distances[: len(samples)])
    both = [("nearest to a real image", best), ("furthest from any", worst)]
    findings.sections += [*sections, Section("Most and least like the data", "In features.", both)]


def _controls(
    model: ImageModel,
    extractor: Extractor,
    config: EvaluationConfig,
    *,
    seed: int,
    step: int,
    tracker: Tracker,
) -> Left:
    """The report on the model's controls and its picture, reported; nothing without any."""
    num, samples = config.num_controls, config.num_samples
    found = look_at_controls(model, extractor, num_controls=num, num_samples=samples, seed=seed)
    if found is None:
        return {}
    report, picture = found
    tracker.log_metrics(report.metrics(), step=step)
    tracker.log_image("controls", picture, step=step)
    return {CONTROLS: report.model_dump_json(indent=2) + "\n", TRAVERSALS: picture}


def _leave(left: Left, folder: Path) -> None:
    """Write the files in their order, each whole or not at all."""
    partial = folder / f".{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in left.items():
            if isinstance(content, str):
                partial.write_text(content, encoding="utf-8")
            else:
                content.save(partial, format="PNG")
            partial.replace(folder / name)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise EvaluationError(
            f"{folder}: scores cannot be written ({error.strerror or error}); free space or give "
            "another folder, then evaluate again"
        ) from error
