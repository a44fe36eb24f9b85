"""A run's report while it works, kept in MLflow."""

import logging
import math
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from PIL import Image

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import RegistryError
from aigc_ops.core.tracking import SilentTracker, Tracker
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.runs import describe_run, open_run
from aigc_ops.registry.tracker.clock import steady_clock
from aigc_ops.registry.tracker.journal import Journal
from aigc_ops.registry.tracker.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from mlflow.entities import Metric, RunInfo
    from mlflow.tracking import MlflowClient

FLUSH_SECONDS = 1.5
RETRY_SECONDS = 2.0
NOTICE_SECONDS = 3.0
PATIENCE_SECONDS = 120.0
PATIENCE_AFTER_CTRL_C_SECONDS = 10.0
METRICS_PER_REQUEST = 1000

REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")

Status = Literal["FINISHED", "FAILED", "KILLED"]

logger = logging.getLogger(__name__)


class MlflowTracker:
    """Reports to one MLflow run in the background; a failing server never stops the work.

    What is logged waits in memory (metrics in a journal, files in a temporary folder) and is
    sent by one thread, again and again while the server is away. As a context manager it closes the
    run, FINISHED, FAILED by an exception, KILLED by Ctrl-C or exit, if it `ends` it.
    """

    def __init__(
        self,
        client: "MlflowClient",
        run: "RunInfo",
        *,
        ends: bool = True,
        journal: Path | None = None,
    ) -> None:
        self.run_id: str | None = run.run_id
        self._ends = ends
        self._client = client
        self._run_id = str(run.run_id)
        self._now = steady_clock(max(run.start_time, run.end_time or 0))
        self._metrics = Journal(journal)
        self._artifacts: deque[Callable[[], None]] = deque()
        self._spool = Path(tempfile.mkdtemp(prefix="aigc-ops-tracker-"))
        self._status: Status = "FINISHED"
        self._closing = threading.Event()
        self._closed = threading.Event()
        self._abandoned = threading.Event()
        self._fault: Exception | None = None
        self._system: SystemMetrics | None = None
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    @classmethod
    def start(
        cls,
        run_key: str,
        run_name: str,
        *,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        dataset: DatasetRef | None = None,
        system_metrics: bool = False,
        journal: Path | None = None,
    ) -> Self:
        """A tracker of the run with this key: the one begun earlier, or a new one.

        Params are logged under their dotted names; those of an earlier begin stay, since
        MLflow never changes one. With `system_metrics`, the machine's load is kept too. Metrics
        that are not sent yet lie in the file `journal`: those that an earlier process left
        there are sent too, but for the steps that this one takes again.
        Raises RegistryError when the store does not answer.
        """
        client = connect()
        run_id = open_run(client, run_key, run_name)
        describe_run(client, run_id, params=params or {}, tags=tags or {}, dataset=dataset)
        with faults("opening the run"):
            run = client.get_run(run_id).info
        tracker = cls(client, run, journal=journal)
        if system_metrics:
            tracker._system = SystemMetrics(
                tracker._metrics.add, start_time=run.start_time, now=tracker._now
            )
        return tracker

    def log_metrics(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Keep the metrics' values at a step."""
        from mlflow.entities import Metric

        now = self._now()
        self._metrics.go_on(before=step)
        self._metrics.add(Metric(key, float(value), now, step) for key, value in metrics.items())

    def log_image(self, key: str, image: Image.Image, *, step: int) -> None:
        """Keep a picture that MLflow's image view shows by step under its key."""
        picture = image.copy()
        self._artifacts.append(
            lambda: self._client.log_image(self._run_id, picture, key=key, step=step)
        )

    def log_text(self, text: str, artifact_file: str) -> None:
        """Keep a text as a file of the run."""
        self._artifacts.append(lambda: self._client.log_text(self._run_id, text, artifact_file))

    def log_bytes(self, content: bytes, artifact_file: str) -> None:
        """Keep some content as a file of the run."""
        copy = Path(tempfile.mkdtemp(dir=self._spool)) / Path(artifact_file).name
        copy.write_bytes(content)
        folder = str(Path(artifact_file).parent)
        self._artifacts.append(lambda: self._client.log_artifact(self._run_id, str(copy), folder))

    def log_file(self, path: Path, artifact_folder: str) -> None:
        """Keep a copy of a file, as it is now, in a folder of the run."""
        copy = Path(tempfile.mkdtemp(dir=self._spool)) / path.name
        shutil.copyfile(path, copy)
        self._artifacts.append(
            lambda: self._client.log_artifact(self._run_id, str(copy), artifact_folder)
        )

    def curves(self) -> Mapping[str, Sequence[tuple[int, float]]]:
        """What the store holds of each metric; nothing while it does not answer."""
        return read_curves(self._client, self._run_id)

    def finish(self, status: Status, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Send the rest and close the run; warns of what the store did not take in time.

        Ctrl-C ends the waiting, and nothing else.
        """
        self._status = status
        if self._system:
            self._system.stop()
        if status == "FINISHED":  # a run that stopped before its first step takes it later
            self._metrics.go_on(before=math.inf)
        self._closing.set()
        with suppress(KeyboardInterrupt):
            self._wait(patience_seconds)
        if self._closed.is_set():
            self._thread.join()
        else:
            self._abandoned.set()
            waiting = len(self._metrics) + len(self._artifacts)
            end = " and its end" if self._ends else ""
            logger.warning("run %s lacks %d reports%s: %s", self._run_id, waiting, end, self._fault)
        shutil.rmtree(self._spool, ignore_errors=True)

    def _wait(self, seconds: float) -> None:
        # Not by the thread's own join: interrupted in Python 3.11, it takes the thread for ended.
        if not self._closed.wait(min(seconds, NOTICE_SECONDS)):
            logger.warning(
                "waiting up to %.0f s until MLflow has taken the last reports of run %s; "
                "Ctrl-C ends the waiting",
                *(seconds, self._run_id),
            )
            self._closed.wait(max(0.0, seconds - NOTICE_SECONDS))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish("FINISHED")
        elif issubclass(kind, Exception):
            self.finish("FAILED")
        else:
            self.finish("KILLED", patience_seconds=PATIENCE_AFTER_CTRL_C_SECONDS)

    def _work(self) -> None:
        while not self._abandoned.is_set():
            closing = self._closing.wait(FLUSH_SECONDS)
            try:
                with faults("reporting the run"):
                    self._send()
                    if closing and self._ends:
                        with _refusals("the end of the run"):
                            self._client.set_terminated(self._run_id, self._status, self._now())
                    if closing:
                        self._metrics.close()
                        self._closed.set()
                        return
            except Exception as fault:  # a bucket's client has errors of its own
                if self._fault is None:
                    logger.warning("reports wait until the store answers: %s", fault)
                self._fault = fault
                self._abandoned.wait(RETRY_SECONDS)
            else:
                self._fault = None

    def _send(self) -> None:
        while batch := self._metrics.first(METRICS_PER_REQUEST):
            self._send_metrics(batch)
            self._metrics.remove(len(batch))
        while self._artifacts:
            with _refusals("an artifact"):
                self._artifacts[0]()
            self._artifacts.popleft()

    def _send_metrics(self, batch: "list[Metric]") -> None:
        with _refusals(f"metric {batch[0].key!r}") as refused:
            self._client.log_batch(self._run_id, metrics=batch)
        if refused and len(batch) > 1:
            for metric in batch:
                self._send_metrics([metric])


def read_curves(client: "MlflowClient", run_id: str) -> dict[str, list[tuple[int, float]]]:
    """A run's metrics over its steps; nothing while the store does not answer."""
    found = {}
    try:
        with faults("reading the run's curves"):
            for name in client.get_run(run_id).data.metrics:
                if not name.startswith("system/"):
                    points = client.get_metric_history(run_id, name)
                    found[name] = sorted({(point.step, point.value) for point in points})
    except RegistryError as error:
        logger.warning("the report goes without curves: %s", error)
    return found


@contextmanager
def _refusals(what: str) -> Iterator[list[str]]:
    """Drop, with a warning, what the store will never take; other faults pass through."""
    from mlflow.exceptions import MlflowException

    refused: list[str] = []
    try:
        yield refused
    except MlflowException as error:
        if error.error_code not in REFUSALS:
            raise
        refused.append(str(error))
        logger.warning("MLflow refuses %s: %s", what, str(error).partition("\n")[0])


@contextmanager
def reporting_to(run_id: str | None) -> Iterator[Tracker]:
    """A tracker of an earlier run, whose end and state stay those of its training.

    One that keeps nothing when this store lacks the run.
    """
    from mlflow.exceptions import MlflowException

    client = connect()
    with faults("opening the run"):
        try:
            found = client.get_run(run_id) if run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            found = None
    if found is None or found.info.lifecycle_stage != "active":
        yield SilentTracker()
        return
    with MlflowTracker(client, found.info, ends=False) as tracker:
        yield tracker
