"""Opens MLflow runs by their key and logs their params, tags and dataset."""

import json
import logging
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.provenance.code_version import Revision
from aigc_ops.registry.client import experiment_id, faults

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput
    from mlflow.tracking import MlflowClient

RUN_KEY_TAG = "aigc_ops.run_key"
PROCESS_TAG = "aigc_ops.process"
"""Host, process id and start time (seconds) of the process of a run, separated by spaces."""
COMMIT_TAG = "aigc_ops.git_commit"
DIFF_TAG = "aigc_ops.git_diff_digest"
PARAM_LENGTH = 6000  # MLflow's limit for the value of a param
DATASET_DIGEST_LENGTH = 36  # MLflow's limit for the digest of a dataset

logger = logging.getLogger(__name__)


def open_run(client: "MlflowClient", run_key: str, run_name: str) -> str:
    """Return the id of the run with this key, reopened, or of a new run."""
    experiment = experiment_id(client)
    with faults("opening the run"):
        # A resumed training continues its run: one key is one run, with unbroken curves.
        runs = client.search_runs(
            [experiment],
            f"tags.`{RUN_KEY_TAG}` = '{run_key}'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        if runs:
            run_id = str(runs[0].info.run_id)
            client.update_run(run_id, status="RUNNING", name=run_name)
            client.set_tag(run_id, PROCESS_TAG, _this_process())
            return run_id
        tags = {RUN_KEY_TAG: run_key, PROCESS_TAG: _this_process()}
        run = client.create_run(experiment, run_name=run_name, tags=tags)
    return str(run.info.run_id)


def is_at_work(process: str) -> bool | None:
    """Return whether the process in a run's tag is alive; None if it is on another host."""
    host, _, pid = process.rpartition(" ")[0].rpartition(" ")
    start = process.rpartition(" ")[2]
    if host != socket.gethostname() or not (pid.isdecimal() and start.isdecimal()):
        return None
    try:
        # Process ids are used again, so the start time must match too. The tag has whole seconds.
        return bool(abs(psutil.Process(int(pid)).create_time() - int(start)) < 2)
    except psutil.NoSuchProcess:
        return False


def _this_process() -> str:
    own = psutil.Process()
    return f"{socket.gethostname()} {own.pid} {own.create_time():.0f}"


def describe_run(
    client: "MlflowClient",
    run_id: str,
    *,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    dataset: DatasetRef | None,
) -> None:
    """Log a run's params, tags and dataset; existing params keep their values."""
    from mlflow.entities import Param, RunTag

    texts = {key: str(value)[:PARAM_LENGTH] for key, value in params.items()}
    with faults("describing the run"):
        known = client.get_run(run_id).data.params if texts else {}
        # MLflow refuses a batch that changes the value of a param.
        new = [Param(key, value) for key, value in texts.items() if key not in known]
        client.log_batch(run_id, params=new, tags=[RunTag(k, v) for k, v in tags.items()])
        if dataset is not None:
            client.log_inputs(run_id, datasets=[dataset_input(dataset)])
    if changed := [key for key in texts if known.get(key, texts[key]) != texts[key]]:
        logger.warning(
            "run %s keeps the first values of %s: MLflow never changes a param",
            run_id,
            ", ".join(changed),
        )


def dataset_input(dataset: DatasetRef) -> "DatasetInput":
    """Return the dataset for MLflow's Dataset column, with its DVC digest if it is pinned."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    record = dataset.model_dump(mode="json", exclude={"uri", "image_shape"})
    return DatasetInput(
        Dataset(
            name=Path(dataset.uri).name,
            digest=(dataset.dvc_digest or dataset.content_digest)[:DATASET_DIGEST_LENGTH],
            source_type="dvc" if dataset.dvc_digest else "local",
            source=json.dumps({"uri": dataset.uri}),
            profile=json.dumps(record, ensure_ascii=False),
        ),
        [InputTag("mlflow.data.context", "training")],
    )


def source_tags(revision: Revision | None) -> dict[str, str]:
    """Return the tags of the source code; MLflow's UI shows the first one."""
    if revision is None:
        return {}
    tags = {"mlflow.source.git.commit": revision.commit, COMMIT_TAG: revision.commit}
    if revision.diff_digest:
        tags[DIFF_TAG] = revision.diff_digest
    return tags
