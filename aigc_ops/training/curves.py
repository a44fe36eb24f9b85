"""Curves of a run: mean losses and metrics since the last log, and a profiler trace."""

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
        """Begin empty; `is_scaled` says that fp16's loss scaling is on."""
        self._rate_name = rate_name
        # With loss scaling an infinite gradient is normal: the scaler skips that step.
        self._watched = ("loss/",) if is_scaled else ("loss/", "gradient_norm/")
        self._sums: dict[str, Tensor] = {}
        self._num = 0
        self._unchecked = _PendingScalars({})

    def add(self, scalars: Mapping[str, Tensor], *, wait: bool) -> str | None:
        """Add a step's scalars; return a message when a loss or gradient norm is not finite.

        On a GPU the check is one step late, so that the GPU is not waited for, unless `wait`.
        """
        # Sums stay tensors on the device: a float per step would synchronise with the GPU.
        for name, scalar in scalars.items():
            self._sums[name] = self._sums[name] + scalar if name in self._sums else scalar
        self._num += 1
        watched = {n: value for n, value in scalars.items() if n.startswith(self._watched)}
        # Start this step's copy before waiting for the last one's: the GPU computes meanwhile.
        pending = _PendingScalars(watched)
        problem, self._unchecked = self._unchecked.problem(), pending
        if problem is None and (wait or not pending.is_on_gpu):
            problem, self._unchecked = pending.problem(), _PendingScalars({})
        return problem

    def clear(self) -> None:
        """Discard the steps since the last reading, which a rollback has undone."""
        self._sums, self._num, self._unchecked = {}, 0, _PendingScalars({})

    def read(
        self, rate: float | None, optimizers: Mapping[str, torch.optim.Optimizer]
    ) -> dict[str, float]:
        """Return the means since the last reading, the throughput and the learning rates."""
        means = {name: value.item() / self._num for name, value in self._sums.items()}
        self._sums, self._num = {}, 0
        means |= {
            f"learning_rate/{p}": float(o.param_groups[0]["lr"]) for p, o in optimizers.items()
        }
        return {**means, self._rate_name: rate or 0.0}

    def progress_values(self, metrics: Mapping[str, float]) -> dict[str, str]:
        """Return the losses and the throughput as the progress bar shows them."""
        names = [n for n in metrics if n.startswith("loss/") or n == self._rate_name]
        return {name: f"{metrics[name]:.3g}" for name in names}


class _PendingScalars:
    """Scalars in an asynchronous copy from the device to the host."""

    def __init__(self, scalars: Mapping[str, Tensor]) -> None:
        self._names = list(scalars)
        self._values = torch.stack(list(scalars.values())) if scalars else torch.empty(0)
        self.is_on_gpu = self._values.is_cuda
        if self.is_on_gpu:
            # Only a copy into pinned memory is asynchronous. The event marks its end; waiting for
            # the stream would also wait for the steps that were launched after it.
            host = torch.empty_like(self._values, device="cpu", pin_memory=True)
            self._values = host.copy_(self._values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()

    def problem(self) -> str | None:
        """Wait for the copy; return a message that names the first value that is not finite."""
        if self.is_on_gpu:
            self._arrived.synchronize()
        for name, value in zip(self._names, self._values.tolist(), strict=True):
            if not math.isfinite(value):
                return f"{name} became {value}"
        return None


@contextmanager
def profiled(
    steps: int, folder: Path, tracker: Tracker, *, num_remaining: int
) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each step; trace `steps` steps into `trace.json`.

    The trace opens in Perfetto. Warns when fewer steps remain than that takes.
    """
    # torch's profiler waits PROFILE_AFTER steps and warms up for one; a run that ends earlier
    # would leave no trace, without a message.
    if steps and num_remaining <= PROFILE_AFTER + 1:
        warnings.warn(
            f"no {TRACE}: training.profile_steps begin after {PROFILE_AFTER + 1} steps, but only "
            f"{num_remaining} steps remain; increase training.steps",
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
