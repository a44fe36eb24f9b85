"""The curves of a run: means since they were last read, and a trace of where time goes."""

import math
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

    def __init__(self, rate_name: str) -> None:
        self._rate_name = rate_name
        self._sums: dict[str, Tensor] = {}
        self._num = 0
        self._unchecked: Mapping[str, Tensor] = {}

    def add(self, scalars: Mapping[str, Tensor], *, wait: bool) -> str | None:
        """Note a step; what is wrong when a loss of it, or of the step before, is not finite.

        A GPU's newest losses are looked at one step later, so that it is not waited for,
        unless asked to `wait`.
        """
        for name, scalar in scalars.items():
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar
        self._num += 1
        losses = {name: value for name, value in scalars.items() if name.startswith("loss/")}
        problem, self._unchecked = _not_finite(self._unchecked), losses
        if problem is None and (wait or not next(iter(losses.values())).is_cuda):
            problem, self._unchecked = _not_finite(losses), {}
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


def _not_finite(losses: Mapping[str, Tensor]) -> str | None:
    for name, value in losses.items():
        if not math.isfinite(value.item()):
            return f"{name} became {value.item()}"
    return None


@contextmanager
def profiled(steps: int, folder: Path, tracker: Tracker) -> Iterator[Callable[[], None]]:
    """A call for after each step; some steps are traced into `trace.json` (open in Perfetto)."""
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
