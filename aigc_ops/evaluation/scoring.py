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
from aigc_ops.evaluation.images import score_images
from aigc_ops.evaluation.texts import score_texts
from aigc_ops.generative import ImageModel, Images, TextData, TextModel
from aigc_ops.tracking import Tracker

SCORES = "scores.json"
GRID = "samples.png"
TEXTS = "samples.txt"


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

    `folder` gets `scores.json` and `samples.png` or `samples.txt`; `cache` keeps the
    statistics of the data. Equal arguments give equal scores on one machine. Raises
    EvaluationError when model and data do not fit, or no score can be computed.
    """
    if checkpoint.modality != ref.modality:
        raise EvaluationError(
            f"{checkpoint.uri} is a model of {checkpoint.modality}s, {ref.uri} holds "
            f"{ref.modality}s; give the data it was trained on"
        )
    model = load_model(Path(checkpoint.uri), expected=checkpoint.manifest_digest)
    model.to(choose_device(config.device))
    shown: Image.Image | str
    if isinstance(model, ImageModel):
        primary, values, shown = score_images(
            model,
            ref,
            lambda: cast(Images, read_split(ref, data_config, config.reference)),
            data_config,
            config,
            seed=seed,
            cache=cache,
        )
        tracker.log_image("evaluation", shown, step=checkpoint.step)
    else:
        assert isinstance(model, TextModel), type(model)
        heldout = cast(TextData, read_split(ref, data_config, "heldout"))
        primary, values, shown = score_texts(model, ref, heldout, data_config, config, seed=seed)
    scores = Scores(
        checkpoint_digest=checkpoint.manifest_digest,
        modality=checkpoint.modality,
        primary=primary,
        values=values,
        grid_uri=str(folder / (TEXTS if isinstance(shown, str) else GRID)),
    )
    _leave(scores, shown, folder)
    tracker.log_metrics({name: s.value for name, s in values.items()}, step=checkpoint.step)
    for name in (SCORES, TEXTS) if isinstance(shown, str) else (SCORES,):
        tracker.log_file(folder / name, "evaluation")
    return scores


def _leave(scores: Scores, shown: Image.Image | str, folder: Path) -> None:
    """Write scores and samples, the scores last and whole or not at all."""
    partial = folder / f".{SCORES}.{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if isinstance(shown, str):
            (folder / TEXTS).write_text(shown, encoding="utf-8")
        else:
            shown.save(folder / GRID)
        partial.write_text(scores.model_dump_json(indent=2) + "\n", encoding="utf-8")
        partial.replace(folder / SCORES)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise EvaluationError(
            f"{folder}: scores cannot be written ({error.strerror or error}); free space or give "
            "another folder, then evaluate again"
        ) from error
