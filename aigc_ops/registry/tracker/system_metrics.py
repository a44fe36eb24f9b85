"""System metrics of a run, under the names of MLflow's "System metrics" page."""

import os
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Metric

INTERVAL_SECONDS = 10.0
STOP_SECONDS = 2.0


class SystemMetrics:
    """A thread that measures CPU, memory, disk, network and GPUs at a fixed interval.

    The step of a metric is the number of seconds since `start_time`.
    """

    # Uses the gauges of MLflow without its SystemMetricsMonitor, which ends at the first error of
    # the server and requests the run from it at every measurement.

    def __init__(
        self,
        report: "Callable[[list[Metric]], None]",
        *,
        start_time: int,
        now: Callable[[], int],
    ) -> None:
        """Start measuring; `start_time` and `now()` are in milliseconds since 1970."""
        interval = os.environ.get("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL")
        self._interval = float(interval) if interval else INTERVAL_SECONDS
        self._report, self._start_time, self._now = report, start_time, now
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Measure once more and end the thread."""
        self._stopping.set()
        self._thread.join(STOP_SECONDS)

    def _work(self) -> None:
        gauges = _gauges()
        # psutil measures CPU load between two calls of a thread, so the first has no meaning.
        _measure(gauges)
        while True:
            # One more measurement after `stop`: a run shorter than the interval has one too.
            is_last = self._stopping.wait(self._interval)
            self._report(self._metrics(_measure(gauges)))
            if is_last:
                return

    def _metrics(self, values: Mapping[str, float]) -> "list[Metric]":
        from mlflow.entities import Metric

        now = self._now()
        step = (now - self._start_time) // 1000
        return [Metric(f"system/{name}", value, now, step) for name, value in values.items()]


def _gauges() -> list[Any]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    gauges = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    try:
        return [*gauges, GPUMonitor()]
    except (ImportError, RuntimeError):  # no NVIDIA library, or no driver
        return gauges


def _measure(gauges: list[Any]) -> dict[str, float]:
    values: dict[str, float] = {}
    for gauge in gauges:
        gauge.collect_metrics()
        values |= gauge.aggregate_metrics()
        gauge.clear_metrics()
    return values
