"""Watchdog of a training run: divergence, collapse and early stopping."""

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
from aigc_ops.training.distributed import ProcessGroup
from aigc_ops.training.monitor import OnlineMetrics
from aigc_ops.training.run_dir import RunFolder
from aigc_ops.training.state import Progress, TrainingState

RISE = "rise/"
"""Prefix of metrics: how far the loss of the part named after it is above its minimum."""


class Watchdog:
    """Checks of a model at regular steps, and the reaction to a failed training."""

    def __init__(
        self,
        config: WatchConfig,
        online: OnlineMetrics,
        folder: RunFolder,
        tracker: Tracker,
        processes: ProcessGroup,
    ) -> None:
        self._config, self._online, self._processes = config, online, processes
        self._folder, self._tracker = folder, tracker
        self._num_warned: dict[str, int] = {}

    def is_due(self, step: int, *, is_checkpoint: bool) -> bool:
        """Return whether to check after this step: every `every` steps and at checkpoints."""
        # Early stopping compares the metrics of checkpoints, so it needs checks even with `off`.
        if self._config.action == "off" and not self._config.early_stopping:
            return False
        return step % self._config.every == 0 or (is_checkpoint and step > self._config.every)

    def check(
        self, state: TrainingState, metrics: Mapping[str, float], *, is_checkpoint: bool
    ) -> str | None:
        """Measure the model and log it; return a message if an alarm has failed the run.

        No alarm counts before the model was healthy once, or its grace period is over.
        `is_checkpoint` says that a checkpoint of this step follows, which may become the best.
        """
        # The writer alone measures. All processes then decide by the same numbers: if one alone
        # rolled back, the others would wait for its gradients.
        with state.sampling():
            measured = self._online.measure(state.model) if self._processes.is_writer else {}
        online = self._processes.from_writer(measured)
        online |= _rises(state.model.alarms, state.progress, metrics)
        self._tracker.log_metrics(online, step=state.step)
        values = {**metrics, **online}
        self._warn(state.model.alarms, state.step, values)
        failed = self._failed(state.model.alarms, state.progress, values)
        if failed and self._config.action == "warn":
            tqdm.write(f"warning: at step {state.step}, {failed}", file=sys.stderr)
            failed = None
        if is_checkpoint and not failed:
            _note_best(state.model, state.progress, values)
        return failed

    def _warn(self, alarms: tuple[Alarm, ...], step: int, values: Mapping[str, float]) -> None:
        """Warn once of each alarm that only warns, after `patience` consecutive checks."""
        if self._config.action == "off":
            return
        for alarm in alarms:
            count = self._num_warned.get(alarm.metric, 0)
            # A count that has reached `patience` stays there, so that nobody is warned again.
            if not alarm.is_warning or count >= self._config.patience:
                continue
            count = count + 1 if alarm.is_triggered(values) else 0
            self._num_warned[alarm.metric] = count
            if count == self._config.patience:
                text = f"warning: at step {step}, {_explained(alarm, values)}"
                self._tracker.log_text(f"{text}\n", f"watchdog/warning-{step:08d}.txt")
                tqdm.write(text, file=sys.stderr)

    def _failed(
        self, alarms: tuple[Alarm, ...], progress: Progress, values: Mapping[str, float]
    ) -> str | None:
        if self._config.action == "off":
            return None
        triggered = [a for a in alarms if not a.is_warning and a.is_triggered(values)]
        # Health counts without grace: a model that was never healthy must not be rolled back to.
        progress.is_healthy = not triggered
        progress.was_healthy |= progress.is_healthy
        if not progress.was_healthy and progress.step < self._config.grace_steps:
            triggered = []
        # An alarm that is not triggered drops out, so the counts are of consecutive checks.
        counts = {a.metric: progress.ringing.get(a.metric, 0) + 1 for a in triggered}
        progress.ringing = counts
        failed = [a for a in triggered if counts[a.metric] >= self._config.patience]
        return "; ".join(_explained(a, values) for a in failed) or None

    def fail(self, state: TrainingState, problem: str) -> None:
        """Report the problem with samples, then roll the state back or raise TrainingError.

        An unverified checkpoint is removed, since its weights may be the cause.
        """
        # 1. Report before anything is changed, so that a failed rollback leaves the reason.
        step, progress = state.step, state.progress
        report = f"Training failed at step {step}: {problem}\n"
        self._tracker.log_text(report, f"watchdog/step-{step:08d}.txt")
        hooks = find_modality(state.model.modality).training
        if hooks.previews_failures and self._processes.is_writer:
            with state.sampling():
                medium = hooks.preview(state.model, None)
            path = self._folder.write_samples(medium, step)
            log_medium(self._tracker, "watchdog", medium, step=step)
            report += f"samples of this step: {path}\n"
        # 2. Choose the checkpoint to return to. The writer decides for all processes, which wait
        # for its answer and so for the end of its changes to the folder.
        back_to, healthy = 0, None
        if self._processes.is_writer:
            if progress.unproven:
                self._folder.remove_after(progress.unproven - 1)
            back_to, healthy = self._rollback_target(progress)
        back_to, healthy = self._processes.from_writer((back_to, healthy))
        if self._config.action != "roll_back" or healthy is None:
            last_good = (
                f"the last good checkpoint is {healthy}" if healthy else "no checkpoint is healthy"
            )
            raise TrainingError(f"{report}{last_good}; {ADVICE}")
        if progress.attempt >= self._config.max_rollbacks:
            raise TrainingError(f"{report}stopped after {progress.attempt} rollbacks; {ADVICE}")
        # 3. Roll back. The attempt is set after `restore`, which loads the checkpoint's own.
        attempt = progress.attempt + 1
        if self._processes.is_writer:
            self._folder.remove_after(back_to)
        state.restore(healthy)
        # The writer's next checkpoint may replace this one, so all must have read it.
        self._processes.wait()
        state.progress.attempt, state.progress.ringing = attempt, {}
        state.progress.last_healthy, state.progress.unproven = back_to, 0
        tqdm.write(f"{report}rolled back to {healthy}, attempt {attempt}", file=sys.stderr)

    def _rollback_target(self, progress: Progress) -> tuple[int, Path | None]:
        """Return step and folder of the checkpoint to roll back to; 0 and None if there is none."""
        # A second failure suggests that the last healthy checkpoint was failing already, so the
        # best one before it comes first.
        steps = [progress.last_healthy]
        if progress.attempt and 0 < progress.best_step < progress.last_healthy:
            steps = [progress.best_step, *steps]
        verified = ((step, folder) for step in steps if (folder := self._folder.verified(step)))
        return next(verified, (0, None))

    def has_stalled(self, progress: Progress) -> bool:
        """Return whether the metric has not improved for `early_stopping` checkpoints."""
        return 0 < self._config.early_stopping <= progress.checkpoints_since_best


ADVICE = (
    "lower the learning rates, choose another loss, or set --training.watch.action "
    "to roll_back or warn"
)


def _rises(
    alarms: tuple[Alarm, ...], progress: Progress, metrics: Mapping[str, float]
) -> dict[str, float]:
    """Return how far each part's loss is above its minimum, for the alarms on it."""
    rises = {}
    for part in (a.metric.removeprefix(RISE) for a in alarms if a.metric.startswith(RISE)):
        loss = metrics[f"loss/{part}"]
        least = min(loss, progress.least_losses.get(part, loss))
        progress.least_losses[part] = least
        rises[f"{RISE}{part}"] = loss - least
    return rises


def _note_best(model: Generative[Any], progress: Progress, values: Mapping[str, float]) -> None:
    value, best = values.get(model.judged_by, math.nan), progress.best_value
    # NaN compares false with everything, and as the best value it would never be replaced.
    if math.isnan(value):
        return
    if best is None or (value > best if model.higher_is_better else value < best):
        progress.best_value, progress.best_step = value, progress.step
        progress.checkpoints_since_best = 0
    else:
        progress.checkpoints_since_best += 1


def _explained(alarm: Alarm, values: Mapping[str, float]) -> str:
    side, bound = ("below", alarm.at_least)
    if alarm.at_most < math.inf:
        side, bound = ("above", alarm.at_most)
    text = f"{alarm.message}: {alarm.metric} is {values[alarm.metric]:.3g}, {side} {bound:g}"
    shown = [f"{name} is {values[name]:.3g}" for name in alarm.beside if name in values]
    return f"{text} ({', '.join(shown)})" if shown else text
