"""Whether training still goes well: divergence, collapse, early stopping."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aigc_ops.core.errors import TrainingError
from aigc_ops.core.tracking import Tracker
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.media import log_medium
from aigc_ops.interfaces.model import Alarm, Generative
from aigc_ops.training.config import WatchConfig
from aigc_ops.training.distributed import Processes
from aigc_ops.training.monitor import OnlineMetrics
from aigc_ops.training.run_dir import RunFolder
from aigc_ops.training.state import Progress, TrainingState

RISE = "rise/"
"""Of a metric: how far the loss of the part named after it stands above its least."""


class Watchdog:
    """Looks at the samples now and then, and acts as configured when training has failed."""

    def __init__(
        self,
        config: WatchConfig,
        online: OnlineMetrics,
        folder: RunFolder,
        tracker: Tracker,
        team: Processes,
    ) -> None:
        self._config, self._online, self._team = config, online, team
        self._folder, self._tracker = folder, tracker

    def is_due(self, step: int, *, is_kept: bool) -> bool:
        """Whether to look after this step; checkpoints are looked at, but the very first steps."""
        if self._config.action == "off" and not self._config.early_stopping:
            return False
        return step % self._config.every == 0 or (is_kept and step > self._config.every)

    def look(
        self, state: TrainingState, metrics: Mapping[str, float], *, is_kept: bool
    ) -> str | None:
        """What has failed, told by the model's alarms; figures are noted and reported.

        A young model is given time: until it was healthy once, or its grace is over, no
        alarm counts. `is_kept`: a checkpoint of this step follows, which may be the best.
        """
        with state.sampling():
            seen = self._online.measure(state.model) if self._team.is_writer else {}
        figures = self._team.from_writer(seen)
        figures |= _rises(state.model.alarms, state.progress, metrics)
        self._tracker.log_metrics(figures, step=state.step)
        figures = {**metrics, **figures}
        failed = self._failed(state.model.alarms, state.progress, figures)
        if failed and self._config.action == "warn":
            tqdm.write(f"warning: at step {state.step}, {failed}", file=sys.stderr)
            failed = None
        if is_kept and not failed:
            _note_best(state.model, state.progress, figures)
        return failed

    def _failed(
        self, alarms: tuple[Alarm, ...], progress: Progress, figures: Mapping[str, float]
    ) -> str | None:
        if self._config.action == "off":
            return None
        ringing = [a for a in alarms if a.rings(figures)]
        progress.is_healthy = not ringing
        progress.was_healthy |= progress.is_healthy
        if not progress.was_healthy and progress.step < self._config.grace_steps:
            ringing = []
        progress.ringing = {a.metric: progress.ringing.get(a.metric, 0) + 1 for a in ringing}
        failed = [a for a in ringing if progress.ringing[a.metric] >= self._config.patience]
        return "; ".join(_explained(a, figures[a.metric]) for a in failed) or None

    def fail(self, state: TrainingState, problem: str) -> None:
        """Report why, with a picture; then roll the state back, or raise TrainingError.

        A checkpoint that led to a loss that is not finite is removed.
        """
        step, progress = state.step, state.progress
        report = f"Training failed at step {step}: {problem}\n"
        self._tracker.log_text(report, f"watchdog/step-{step:08d}.txt")
        hooks = find_modality(state.model.modality).training
        if hooks.previews_failures and self._team.is_writer:
            with state.sampling():
                medium = hooks.preview(state.model, None)
            path = self._folder.keep_samples(medium, step)
            log_medium(self._tracker, "watchdog", medium, step=step)
            report += f"its samples: {path}\n"
        back_to, healthy = 0, None
        if self._team.is_writer:
            if progress.unproven:
                self._folder.forget_after(progress.unproven - 1)
            back_to, healthy = self._way_back(progress)
        # The others wait until it lies there whole.
        back_to, healthy = self._team.from_writer((back_to, healthy))
        if self._config.action != "roll_back" or healthy is None:
            kept = f"the last good checkpoint is {healthy}" if healthy else "none was healthy yet"
            raise TrainingError(f"{report}{kept}; {ADVICE}")
        if progress.attempt >= self._config.max_rollbacks:
            raise TrainingError(f"{report}after {progress.attempt} rollbacks; {ADVICE}")
        attempt = progress.attempt + 1
        if self._team.is_writer:
            self._folder.forget_after(back_to)
        state.restore(healthy)
        self._team.wait()  # the writer replaces what the others have read
        state.progress.attempt, state.progress.ringing = attempt, {}
        state.progress.last_healthy, state.progress.unproven = back_to, 0
        tqdm.write(f"{report}rolled back to {healthy}, attempt {attempt}", file=sys.stderr)

    def _way_back(self, progress: Progress) -> tuple[int, Path | None]:
        """Step and folder of the checkpoint to go on from; no folder where none was healthy.

        A second fall shows that the last healthy one was on its way down already, so then the
        best before it is taken.
        """
        steps = [progress.last_healthy]
        if progress.attempt and 0 < progress.best_step < progress.last_healthy:
            steps = [progress.best_step, *steps]
        found = ((step, folder) for step in steps if (folder := self._folder.healthy(step)))
        return next(found, (0, None))

    def has_stalled(self, progress: Progress) -> bool:
        """Whether the family's metric has not improved for as many checkpoints as allowed."""
        return 0 < self._config.early_stopping <= progress.checkpoints_since_best


ADVICE = (
    "lower the learning rates, choose another loss, or set --training.watch.action "
    "to roll_back or warn"
)


def _rises(
    alarms: tuple[Alarm, ...], progress: Progress, metrics: Mapping[str, float]
) -> dict[str, float]:
    """How far each part's loss stands above its least, for the alarms that ask for it."""
    rises = {}
    for part in (a.metric.removeprefix(RISE) for a in alarms if a.metric.startswith(RISE)):
        loss = metrics[f"loss/{part}"]
        least = min(loss, progress.least_losses.get(part, loss))
        progress.least_losses[part] = least
        rises[f"{RISE}{part}"] = loss - least
    return rises


def _note_best(model: Generative[Any], progress: Progress, figures: Mapping[str, float]) -> None:
    value, best = figures.get(model.judged_by, math.nan), progress.best_value
    if math.isnan(value):
        return
    if best is None or (value > best if model.more_is_better else value < best):
        progress.best_value, progress.best_step = value, progress.step
        progress.checkpoints_since_best = 0
    else:
        progress.checkpoints_since_best += 1


def _explained(alarm: Alarm, value: float) -> str:
    if alarm.at_most < math.inf:
        return f"{alarm.means}: {alarm.metric} is {value:.3g}, above {alarm.at_most:g}"
    return f"{alarm.means}: {alarm.metric} is {value:.3g}, below {alarm.at_least:g}"
