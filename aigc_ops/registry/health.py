"""Health checks of the store: whether it answers, and runs without a process."""

import os
import time
from typing import TYPE_CHECKING

from pydantic import Field

from aigc_ops.core.artifacts import Record
from aigc_ops.core.state_dir import export_environment
from aigc_ops.registry.client import address, connect, faults
from aigc_ops.registry.database import sqlite_file
from aigc_ops.registry.runs import PROCESS_TAG, RUN_KEY_TAG, is_at_work

if TYPE_CHECKING:
    from mlflow.entities import Run

LONGEST_RUN_SECONDS = 24 * 3600
"""Age after which a run counts as abandoned if its process cannot be checked from here."""


class Orphan(Record):
    """A run that MLflow shows as RUNNING although its process has probably ended."""

    run_id: str
    name: str
    hours: float = Field(description="Hours since its start.")
    is_gone: bool = Field(description="True: its process has ended; False: it is only old.")


def store() -> tuple[str, int | None]:
    """Return the store's address and its number of models; None: it does not exist yet.

    Raises RegistryError if it does not answer.
    """
    export_environment()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    database = sqlite_file(uri)
    # `connect` would create the database. Looking must not.
    if database and not database.exists():
        return address(uri), None
    client = connect()
    with faults("listing the models"):
        return address(uri), len(client.search_registered_models(max_results=1000))


def orphans() -> list[Orphan]:
    """Return RUNNING runs of aigc-ops whose process has ended, or that are over a day old."""
    client = connect()
    with faults("listing the runs"):
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        running = client.search_runs(experiments, "attributes.status = 'RUNNING'")
    # Runs of other tools in the same store have no key, and their processes are unknown.
    candidates = [_orphan(run) for run in running if RUN_KEY_TAG in run.data.tags]
    return [orphan for orphan in candidates if orphan]


def _orphan(run: "Run") -> Orphan | None:
    seconds = time.time() - run.info.start_time / 1000
    alive = is_at_work(run.data.tags.get(PROCESS_TAG, ""))
    # None: the process is on another machine, so only the age counts.
    if alive or (alive is None and seconds < LONGEST_RUN_SECONDS):
        return None
    return Orphan(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        hours=seconds / 3600,
        is_gone=alive is False,
    )
