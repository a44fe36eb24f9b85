"""The evaluate stage: a checkpoint and its data in, scores with their contracts out."""

import os
from contextlib import suppress
from pathlib import Path
from typing import cast

from PIL import Image

from aigc_ops.artifacts import Checkpoint, DatasetRef, Scores
from aigc_ops.checkpoints import load_model
from aigc_ops.data import DataConfig, read_split
from aigc_ops.devices import choose_device
from aigc_ops.errors import EvaluationError
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.controls import look_at_controls
from aigc_ops.evaluation.extractors import Extractor, load_extractor
from aigc_ops.evaluation.heldout import score_heldout
from aigc_ops.evaluation.images import score_images
from aigc_ops.evaluation.texts import score_texts
from aigc_ops.generative import ImageLikelihoodModel, ImageModel, Images, TextData, TextModel
from aigc_ops.tracking import Tracker

SCORES = "scores.json"
GRID = "samples.png"
TEXTS = "samples.txt"
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

    `folder` gets `scores.json` and `samples.png` or `samples.txt`, of an image model with
    controls also `controls.json` and `controls.png`, and a family's own pictures of held-out
    images; `cache` keeps the statistics of the data. Equal arguments give equal scores on
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
    left: Left
    if isinstance(model, ImageModel):
        extractor = load_extractor(config)
        primary, values, grid = score_images(
            model,
            ref,
            lambda: cast(Images, read_split(ref, data_config, config.reference)),
            data_config,
            config,
            extractor=extractor,
            seed=seed,
            cache=cache,
        )
        tracker.log_image("evaluation", grid, step=checkpoint.step)
        shown = _controls(
            model, extractor, config, seed=seed, step=checkpoint.step, tracker=tracker
        )
        left = {GRID: grid, **shown}
        if isinstance(model, ImageLikelihoodModel) and ref.num_heldout:
            images = cast(Images, read_split(ref, data_config, "heldout"))
            told, pictures = score_heldout(model, ref, images, data_config, config)
            values |= told
            for name, picture in pictures.items():
                tracker.log_image(name, picture, step=checkpoint.step)
                left[f"{name}.png"] = picture
    else:
        assert isinstance(model, TextModel), type(model)
        heldout = cast(TextData, read_split(ref, data_config, "heldout"))
        primary, values, lines = score_texts(model, ref, heldout, data_config, config, seed=seed)
        left = {TEXTS: lines}
    scores = Scores(
        checkpoint_digest=checkpoint.manifest_digest,
        modality=checkpoint.modality,
        primary=primary,
        values=values,
        grid_uri=str(folder / next(iter(left))),
    )
    left[SCORES] = scores.model_dump_json(indent=2) + "\n"
    _leave(left, folder)
    tracker.log_metrics({name: s.value for name, s in values.items()}, step=checkpoint.step)
    for name, content in left.items():
        if isinstance(content, str):
            tracker.log_file(folder / name, "evaluation")
    return scores


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
