"""The text that commands print without --json."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from aigc_ops.core.artifacts import RunResult, Scores, Verdict
from aigc_ops.interfaces.discovery import find_modality


def score_lines(scores: Scores) -> list[str]:
    """Return a line for each score of a checkpoint, and lines that explain some."""
    modality = find_modality(scores.modality)
    return [*values_lines(scores.values), *modality.summary(scores)]


def values_lines(values: Any) -> list[str]:
    """Return a line for each score by name: value, interval and number of samples."""
    return [
        f"{name}: {score.value:.4g} ({score.low:.4g} to {score.high:.4g}, n = "
        f"{score.contract.get('n')})"
        for name, score in values.items()
    ]


def run_summary(result: RunResult, *, reused: bool, seconds: float) -> list[str]:
    """Return the lines after a run: samples, scores, verdict, champion, next commands."""
    # `champion` is None while the first version waits for a decision.
    champion, primary = result.verdict.champion, result.scores.primary
    store = os.environ["MLFLOW_TRACKING_URI"]
    done = "nothing has changed; reused the run of" if reused else "finished"
    lines = [
        f"{done} {result.version.uri} in {seconds:.1f} s",
        f"  samples    {_shown(result.checkpoint.grid_uri)}",
        f"  data docs  {_shown(result.report.html_uri)}",
        f"  report     {_shown(result.scores.report_uri)}",
        f"  score      {values_lines({primary: result.scores.values[primary]})[0]}",
        f"  verdict    {result.version.uri} {verdict_text(result.verdict)}: "
        + "; ".join(result.verdict.reasons),
        f"  review     {_program('aigc-ops')} review {result.version.name} "
        f"{result.version.version}",
    ]
    if champion:
        lines.append(f"  champion   {champion.uri} (models:/{champion.name}@champion)")
    if result.bento:
        # A version that was held back has no Bento, so that of the champion is shown.
        whose = "" if result.bento.model == result.version else f" (of {result.bento.model.uri})"
        lines += [
            f"  Bento      {result.bento.tag}{whose}",
            f"  serve it   {_program('aigc-ops')} serve models:/{result.name}@champion",
        ]
    # The SQLite store's path relative to the working folder, to be short; a server's URL as it is.
    local = store.replace(f"{Path.cwd()}{os.sep}", "")
    ui = f"{_program('mlflow')} ui --backend-store-uri {local}"
    return [*lines, f"  MLflow     {store if store.startswith('http') else ui}"]


def verdict_text(verdict: Verdict) -> str:
    """Return the outcome for a version, as the end of a sentence that begins with its name."""
    if verdict.waiting:
        name, number = verdict.model.name, verdict.model.version
        return f"waits for a decision ({_program('aigc-ops')} approve {name} {number})"
    return f"is {verdict.alias}" if verdict.alias else "is held back"


def _program(name: str) -> str:
    """Return a program of this environment as a user would type it in the working folder."""
    # The name alone if the shell finds this environment's program, else its path: the virtual
    # environment may not be active, or another one may come first on PATH.
    beside, on_path = Path(sys.executable).parent / name, shutil.which(name)
    is_first = on_path is not None and Path(on_path).parent == beside.parent
    return name if is_first or not beside.is_file() else _shown(str(beside))


def _shown(path: str | None) -> str:
    """Return a path relative to the working folder, if it is below that; "none" for None."""
    return (path or "none").removeprefix(f"{Path.cwd()}{os.sep}")
