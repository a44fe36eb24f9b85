"""The evaluate stage: a checkpoint and its data in, scores with their contracts out."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, Scores
from aigc_ops.core.errors import EvaluationError
from aigc_ops.core.tracking import Tracker
from aigc_ops.data import DataConfig
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.context import load, make_context
from aigc_ops.evaluation.report import curves_picture, render
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.evaluation import Evaluation
from aigc_ops.interfaces.media import Media, Picture, Section, Text
from aigc_ops.statistics.comparability import with_version

SCORES, REPORT = "scores.json", "report.html"
PREVIEW = "samples"
ARTIFACTS = "evaluation"
"""Folder among the run's artifacts, and key of the preview among its pictures."""


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
    """Return the scores of a checkpoint against the data, also written to `folder`.

    `folder` gets `report.html`, `scores.json`, a preview such as `samples.png` and what else the
    modality writes; `cache` keeps the statistics of the data. Equal arguments give equal scores on
    one machine. Raises EvaluationError when model and data do not fit, or no score can be
    computed.
    """
    modality = find_modality(checkpoint.modality)
    if checkpoint.modality != ref.modality:
        raise EvaluationError(
            f"{checkpoint.uri} is a model of {modality.unit}, {ref.uri} holds "
            f"{find_modality(ref.modality).unit}; give the data it was trained on"
        )
    context = make_context(ref, data_config, config, seed=seed, cache=cache)
    found = modality.evaluation.evaluate(load(checkpoint, config), context)
    values = with_version(found.values, modality.evaluation.version)
    preview = f"{PREVIEW}{found.preview.suffix}"
    scores = Scores(
        checkpoint_digest=checkpoint.manifest_digest,
        modality=checkpoint.modality,
        primary=found.primary,
        values=values,
        grid_uri=str(folder / preview),
        report_uri=str(folder / REPORT),
    )
    findings = found.findings
    if curves := curves_picture(tracker.curves()):
        picture = Picture(curves, is_smooth=True)
        findings.sections.append(Section("While it trained", items=[("", picture)]))
    page = render(checkpoint, ref, found.primary, values, findings)
    files: dict[str, Media] = {
        preview: found.preview,
        **found.files,
        REPORT: Text(page),
        SCORES: Text(scores.model_dump_json(indent=2) + "\n"),
    }
    _write(files, folder)
    _report(tracker, checkpoint.step, scores, found, files, folder)
    return scores


def _write(files: Mapping[str, Media], folder: Path) -> None:
    """Write the files in their order, each whole or not at all."""
    partial = folder / f".{os.getpid()}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            partial.write_bytes(content.encoded())
            partial.replace(folder / name)
    except OSError as error:
        with suppress(OSError):
            partial.unlink()
        raise EvaluationError(
            f"{folder}: scores cannot be written ({error.strerror or error}); free space or give "
            "another folder, then evaluate again"
        ) from error


def _report(
    tracker: Tracker,
    step: int,
    scores: Scores,
    found: Evaluation,
    files: Mapping[str, Media],
    folder: Path,
) -> None:
    """Log scores and metrics, pictures under their names, and all other files."""
    values = {name: score.value for name, score in scores.values.items()}
    tracker.log_metrics({**found.metrics, **values}, step=step)
    for name, content in files.items():
        if isinstance(content, Picture):
            key = ARTIFACTS if content is found.preview else Path(name).stem
            tracker.log_image(key, content.image, step=step)
        else:
            tracker.log_file(folder / name, ARTIFACTS)
