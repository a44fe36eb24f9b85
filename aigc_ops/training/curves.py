"""The curves of a run: means since they were last read, and a trace of where time goes."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from aigc_ops.tracking import Tracker

TRACE = "trace.json"
PROFILE_AFTER = 5  # steps in which allocators and caches settle


class Curves:
    """Sums of each step's losses and metrics, kept on the device until they are read."""

    def __init__(self, rate_name: str, *, is_scaled: bool) -> None:
        """`is_scaled`: of losses that are scaled, whose gradients overflow now and then."""
        self._rate_name = rate_name
        self._watched = ("loss/",) if is_scaled else ("loss/", "gradient_norm/")
        self._sums: dict[str, Tensor] = {}
        self._num = 0
        self._unchecked: Mapping[str, Tensor] = {}

    def add(self, scalars: Mapping[str, Tensor], *, wait: bool) -> str | None:
        """Note a step; what is wrong when a loss or gradient norm of it is not finite.

        Those of a GPU are looked at one step later, so that it is not waited for, unless
        asked to `wait`.
        """
        for name, scalar in scalars.items():
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar
        self._num += 1
        watched = {n: value for n, value in scalars.items() if n.startswith(self._watched)}
        problem, self._unchecked = _not_finite(self._unchecked), watched
        if problem is None and (wait or not next(iter(watched.values())).is_cuda):
            problem, self._unchecked = _not_finite(watched), {}
        return problem

    def read(
        self, rate: float | None, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> dict[str, float]:
        """Means since the last reading, the rate, and the learning rates."""
        means = {name: value.item() / self._num for name, value in self._sums.items()}
        self._sums, self._num = {}, 0
        means |= {f"learning_rate/{p}": o.param_groups[0]["lr"] for p, o in optimizers.items()}
        return {**means, self._rate_name: rate or 0.0}

    def shown(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """The few that stand beside the bar."""
        names = [n for n in metrics if n.startswith("loss/") or n == self._rate_name]
        return {name: f"{metrics[name]:.3g}" for name in names}


def _not_finite(watched: Mapping[str, Tensor]) -> str | None:
    for name, value in watched.items():
        if not math.isfinite(value.item()):
            return f"{name} became {value.item()}"
    return None


@contextmanager
def profiled(
    steps: int, folder: Path, tracker: Tracker, *, num_to_come: int
) -> Iterator[Callable[[], None]]:
    """A call for after each step; some steps are traced into `trace.json` (open in Perfetto).

    Warns when there are too few `num_to_come` for that.
    """
    if steps and num_to_come <= PROFILE_AFTER + 1:
        warnings.warn(
            f"no {TRACE}: training.profile_steps begin after {PROFILE_AFTER + 1} steps, and "
            f"{num_to_come} are to come; set training.steps higher",
            stacklevel=3,
        )
        steps = 0
    if not steps:
        yield lambda: None
        return

    def export(profiler: torch.profiler.profile) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(folder / TRACE))
        tracker.log_file(folder / TRACE, "profile")

    schedule = torch.profiler.schedule(wait=PROFILE_AFTER, warmup=1, active=steps, repeat=1)
    with torch.profiler.profile(schedule=schedule, on_trace_ready=export) as profiler:
        yield profiler.step
