"""What of the store needs a hand: whether it answers, and runs that nobody works on."""

import os
import time
from typing import TYPE_CHECKING

from pydantic import Field

from aigc_ops.core.artifacts import Noun
from aigc_ops.core.state_dir import export_environment
from aigc_ops.registry.client import address, connect, faults, sqlite_file
from aigc_ops.registry.runs import PROCESS_TAG, RUN_KEY_TAG, is_at_work

if TYPE_CHECKING:
    from mlflow.entities import Run

LONGEST_RUN_SECONDS = 24 * 3600
"""After so long a run whose process cannot be asked is taken for left behind."""


class Orphan(Noun):
    """A run that MLflow shows as running while nobody seems to work on it."""

    run_id: str
    name: str
    hours: float = Field(description="Since it began.")
    is_gone: bool = Field(description="Its process has ended; else it is only old.")


def store() -> tuple[str, int | None]:
    """The store's address, and how many models it holds; None: it has not been made yet.

    Raises RegistryError when it does not answer.
    """
    export_environment()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    database = sqlite_file(uri)
    if database and not database.exists():
        return address(uri), None
    client = connect()
    with faults("listing the models"):
        return address(uri), len(client.search_registered_models(max_results=1000))


def orphans() -> list[Orphan]:
    """Runs of aigc-ops that are RUNNING although their process is gone, or for over a day."""
    client = connect()
    with faults("listing the runs"):
        experiments = [each.experiment_id for each in client.search_experiments()]
        running = client.search_runs(experiments, "attributes.status = 'RUNNING'")
    found = [_orphan(run) for run in running if RUN_KEY_TAG in run.data.tags]
    return [each for each in found if each]


def _orphan(run: "Run") -> Orphan | None:
    seconds = time.time() - run.info.start_time / 1000
    alive = is_at_work(run.data.tags.get(PROCESS_TAG, ""))
    if alive or (alive is None and seconds < LONGEST_RUN_SECONDS):
        return None
    return Orphan(
        run_id=run.info.run_id,
        name=run.info.run_name or "",
        hours=seconds / 3600,
        is_gone=alive is False,
    )
