"""The evaluate stage: scores of a checkpoint on its data, with their evaluation conditions."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, Scores
from aigc_ops.core.errors import EvaluationError
from aigc_ops.core.tracking import Tracker
from aigc_ops.data import DataConfig
from aigc_ops.evaluation.canaries import (
    EPSILON,
    audit_section,
    audit_text,
    canary_scores,
    require_same_canaries,
)
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.evaluation.context import load, make_context
from aigc_ops.evaluation.report import curves_picture, render
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.evaluation import Evaluation
from aigc_ops.interfaces.media import Media, Note, Picture, Section, Text
from aigc_ops.statistics.comparability import with_version

SCORES, REPORT = "scores.json", "report.html"
PREVIEW = "samples"
ARTIFACTS = "evaluation"
"""Artifact folder of the run, and key of the preview among its logged images."""


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
    """Return the scores of a checkpoint on the data, and write them to `folder`.

    `folder` gets `report.html`, `scores.json`, a preview such as `samples.png` and further files of
    the modality; `cache` keeps the statistics of the data. Equal arguments give equal scores on
    one machine. Raises EvaluationError when model and data do not fit, or when no score can be
    computed.
    """
    modality = find_modality(checkpoint.modality)
    if checkpoint.modality != ref.modality:
        raise EvaluationError(
            f"{checkpoint.uri} is a model of {modality.unit}, but {ref.uri} holds "
            f"{find_modality(ref.modality).unit}; give the data it was trained on"
        )
    canaries = require_same_canaries(checkpoint, config.canaries)
    # 1. Measure.
    context = make_context(ref, data_config, config, seed=seed, cache=cache)
    candidate = load(checkpoint, config)
    evaluation = modality.evaluation.evaluate(candidate, context)
    measured = dict(evaluation.values)
    if canaries:
        measured |= canary_scores(candidate, canaries, context)
    values = with_version(measured, modality.evaluation.version)
    preview = f"{PREVIEW}{evaluation.preview.suffix}"
    scores = Scores(
        checkpoint_digest=checkpoint.manifest_digest,
        modality=checkpoint.modality,
        primary=evaluation.primary,
        values=values,
        grid_uri=str(folder / preview),
        report_uri=str(folder / REPORT),
    )
    # 2. Render the report, with the training curves if the run has any.
    findings = evaluation.findings
    if text := audit_text(values):
        findings.notes.append(Note(text, alarm=values[EPSILON].value > 0))
    findings.sections[:0] = audit_section(scores)
    if curves := curves_picture(tracker.curves()):
        picture = Picture(curves, is_smooth=True)
        findings.sections.append(Section("Training curves", items=[("", picture)]))
    page = render(checkpoint, ref, evaluation.primary, values, findings)
    # 3. Write. The scores come last, so that where they exist, the report does too.
    files: dict[str, Media] = {
        preview: evaluation.preview,
        **evaluation.files,
        REPORT: Text(page),
        SCORES: Text(scores.model_dump_json(indent=2) + "\n"),
    }
    _write(files, folder)
    _report(tracker, checkpoint.step, scores, evaluation, files, folder)
    return scores


def _write(files: Mapping[str, Media], folder: Path) -> None:
    """Write the files in their order, each atomically."""
    # The process id keeps two evaluations into one folder from sharing a partial file.
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
    evaluation: Evaluation,
    files: Mapping[str, Media],
    folder: Path,
) -> None:
    """Log scores and metrics, pictures under their names, and all other files."""
    values = {name: score.value for name, score in scores.values.items()}
    tracker.log_metrics({**evaluation.metrics, **values}, step=step)
    for name, content in files.items():
        if isinstance(content, Picture):
            key = ARTIFACTS if content is evaluation.preview else Path(name).stem
            tracker.log_image(key, content.image, step=step)
        else:  # other media have no preview in MLflow, so the written file is attached
            tracker.log_file(folder / name, ARTIFACTS)
