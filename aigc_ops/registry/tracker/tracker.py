"""Logs a run to MLflow in the background while it works."""

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
from aigc_ops.registry.tracker.journal import Journal
from aigc_ops.registry.tracker.monotonic_clock import steady_clock
from aigc_ops.registry.tracker.system_metrics import SystemMetrics

if TYPE_CHECKING:
    from mlflow.entities import Metric, RunInfo
    from mlflow.tracking import MlflowClient

FLUSH_SECONDS = 1.5  # between two batches to the store
RETRY_SECONDS = 2.0
NOTICE_SECONDS = 3.0  # wait at the end after which a warning explains it
PATIENCE_SECONDS = 120.0
PATIENCE_AFTER_CTRL_C_SECONDS = 10.0
METRICS_PER_REQUEST = 1000  # MLflow's limit for a batch

# Errors that a repetition cannot solve. Others, such as a server that is down, are retried.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST")

Status = Literal["FINISHED", "FAILED", "KILLED"]

logger = logging.getLogger(__name__)


class MlflowTracker:
    """Logs to one MLflow run in the background; a failing server never stops training.

    Metrics wait in a journal and files in a temporary folder. A single thread sends them and
    retries while the server is away. As a context manager it closes the run if `ends` is set:
    FINISHED, FAILED after an exception, KILLED after Ctrl-C or exit.
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
        # Copies of files: training may overwrite or delete the originals before they are sent.
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
        """Return a tracker of the run with this key, reopened or new.

        Params have dotted names; existing values stay, since MLflow never changes a param.
        `journal` is a file for metrics that are not sent yet. Metrics in it from an earlier
        process are sent too, except those of steps that this process repeats. Raises
        RegistryError if the store does not answer.
        """
        # Not in the background: a wrong address or password should stop the run at its start.
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
        """Queue the values of metrics at a step."""
        from mlflow.entities import Metric

        now = self._now()
        self._metrics.replay_before(step)
        self._metrics.add(Metric(key, float(value), now, step) for key, value in metrics.items())

    def log_image(self, key: str, image: Image.Image, *, step: int) -> None:
        """Queue an image, which MLflow's UI shows by key and step."""
        picture = image.copy()
        self._artifacts.append(
            lambda: self._client.log_image(self._run_id, picture, key=key, step=step)
        )

    def log_text(self, text: str, artifact_file: str) -> None:
        """Queue a text as an artifact of the run."""
        self._artifacts.append(lambda: self._client.log_text(self._run_id, text, artifact_file))

    def log_bytes(self, content: bytes, artifact_file: str) -> None:
        """Queue content as an artifact of the run."""
        copy = Path(tempfile.mkdtemp(dir=self._spool)) / Path(artifact_file).name
        copy.write_bytes(content)
        folder = str(Path(artifact_file).parent)
        self._artifacts.append(lambda: self._client.log_artifact(self._run_id, str(copy), folder))

    def log_file(self, path: Path, artifact_folder: str) -> None:
        """Queue a copy of a file, as it is now, as an artifact of the run."""
        copy = Path(tempfile.mkdtemp(dir=self._spool)) / path.name
        shutil.copyfile(path, copy)
        self._artifacts.append(
            lambda: self._client.log_artifact(self._run_id, str(copy), artifact_folder)
        )

    def curves(self) -> Mapping[str, Sequence[tuple[int, float]]]:
        """Return the curves in the store; empty while it does not answer."""
        return read_curves(self._client, self._run_id)

    def finish(self, status: Status, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Send all that is queued and close the run; warns if the store does not accept it in time.

        Ctrl-C only ends the waiting.
        """
        # 1. Stop the other writer, so that the queue can become empty.
        self._status = status
        if self._system:
            self._system.stop()
        # A finished run repeats no step. A run that stopped before its first step leaves an earlier
        # process's metrics in the journal, for the process that will resume.
        if status == "FINISHED":
            self._metrics.replay_before(math.inf)
        # 2. Wait for the thread, within limits: a server that is down must not hold up the command.
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
        # An event instead of Thread.join: in Python 3.11 a join that Ctrl-C interrupts can mark a
        # running thread as ended (https://github.com/python/cpython/issues/90882).
        if not self._closed.wait(min(seconds, NOTICE_SECONDS)):
            logger.warning(
                "waiting up to %.0f s until MLflow has accepted the last reports of run %s; "
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
            # Broad, since artifact stores such as S3 raise errors of their own clients. Warned of
            # once per outage, not at every retry.
            except Exception as fault:
                if self._fault is None:
                    logger.warning("reports wait until the store answers: %s", fault)
                self._fault = fault
                self._abandoned.wait(RETRY_SECONDS)
            else:
                self._fault = None

    def _send(self) -> None:
        # Removed only after the store has accepted them: an error leaves the batch for the retry.
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
        # MLflow refuses a batch as a whole. One by one, only the metric at fault is lost.
        if refused and len(batch) > 1:
            for metric in batch:
                self._send_metrics([metric])


def read_curves(client: "MlflowClient", run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return a run's metrics as (step, value) pairs; empty while the store does not answer."""
    curves = {}
    try:
        with faults("reading the run's curves"):
            for name in client.get_run(run_id).data.metrics:
                if not name.startswith("system/"):
                    points = client.get_metric_history(run_id, name)
                    # A set: metrics that were sent twice after an interruption are equal.
                    curves[name] = sorted({(point.step, point.value) for point in points})
    except RegistryError as error:
        logger.warning("the report has no curves: %s", error)
    return curves


@contextmanager
def _refusals(subject: str) -> Iterator[list[str]]:
    """Warn of errors in REFUSALS and collect their texts; other errors pass through."""
    from mlflow.exceptions import MlflowException

    refused: list[str] = []
    try:
        yield refused
    except MlflowException as error:
        if error.error_code not in REFUSALS:
            raise
        refused.append(str(error))
        logger.warning("MLflow refuses %s: %s", subject, str(error).partition("\n")[0])


@contextmanager
def reporting_to(run_id: str | None) -> Iterator[Tracker]:
    """Yield a tracker of an existing run that does not change its status and end time.

    Without such a run in this store it is a tracker that logs nothing.
    """
    from mlflow.exceptions import MlflowException

    client = connect()
    with faults("opening the run"):
        try:
            run = client.get_run(run_id) if run_id else None
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
    if run is None or run.info.lifecycle_stage != "active":
        yield SilentTracker()
        return
    with MlflowTracker(client, run.info, ends=False) as tracker:
        yield tracker
