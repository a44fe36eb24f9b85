"""The curves of a run: means since they were last read, and a trace of where time goes."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from aigc_ops.core.tracking import Tracker

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
        self._unchecked = _Sent({})

    def add(self, scalars: Mapping[str, Tensor], *, wait: bool) -> str | None:
        """Note a step; what is wrong when a loss or gradient norm of it is not finite.

        Those of a GPU are looked at one step later, so that it is not waited for, unless
        asked to `wait`.
        """
        for name, scalar in scalars.items():
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar
        self._num += 1
        watched = {n: value for n, value in scalars.items() if n.startswith(self._watched)}
        # Sent before the last step's are waited for: the GPU computes meanwhile.
        sent = _Sent(watched)
        problem, self._unchecked = self._unchecked.problem(), sent
        if problem is None and (wait or not sent.is_under_way):
            problem, self._unchecked = sent.problem(), _Sent({})
        return problem

    def clear(self) -> None:
        """Forget the steps since the last reading, which were taken back."""
        self._sums, self._num, self._unchecked = {}, 0, _Sent({})

    def read(
        self, rate: float | None, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> dict[str, float]:
        """Means since the last reading, the rate, and the learning rates."""
        means = {name: value.item() / self._num for name, value in self._sums.items()}
        self._sums, self._num = {}, 0
        means |= {
            f"learning_rate/{p}": float(o.param_groups[0]["lr"]) for p, o in optimizers.items()
        }
        return {**means, self._rate_name: rate or 0.0}

    def shown(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """The few that stand beside the bar."""
        names = [n for n in metrics if n.startswith("loss/") or n == self._rate_name]
        return {name: f"{metrics[name]:.3g}" for name in names}


class _Sent:
    """Scalars on their way from the device, behind which no later work is waited for."""

    def __init__(self, scalars: Mapping[str, Tensor]) -> None:
        self._names = list(scalars)
        self._values = torch.stack(list(scalars.values())) if scalars else torch.empty(0)
        self.is_under_way = self._values.is_cuda
        if self.is_under_way:
            room = torch.empty_like(self._values, device="cpu", pin_memory=True)
            self._values = room.copy_(self._values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def problem(self) -> str | None:
        """The first that is not finite, once they are here."""
        if self.is_under_way:
            self._arrived.synchronize()
        for name, value in zip(self._names, self._values.tolist(), strict=True):
            if not math.isfinite(value):
                return f"{name} became {value}"
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
