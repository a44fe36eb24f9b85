"""MLflow runs: found again by their key, described by params, tags and their dataset."""

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
"""Host, process id and start of the process that works on a run."""
COMMIT_TAG = "aigc_ops.git_commit"
DIFF_TAG = "aigc_ops.git_diff_digest"
PARAM_LENGTH = 6000
DATASET_DIGEST_LENGTH = 36

logger = logging.getLogger(__name__)


def open_run(client: "MlflowClient", run_key: str, run_name: str) -> str:
    """Identifier of the run with this key, begun again if there is one, else a new one."""
    experiment = experiment_id(client)
    with faults("opening the run"):
        found = client.search_runs(
            [experiment],
            f"tags.`{RUN_KEY_TAG}` = '{run_key}'",
            max_results=1,
            order_by=["attributes.start_time DESC"],
        )
        if found:
            run_id = str(found[0].info.run_id)
            client.update_run(run_id, status="RUNNING", name=run_name)
            client.set_tag(run_id, PROCESS_TAG, _this_process())
            return run_id
        tags = {RUN_KEY_TAG: run_key, PROCESS_TAG: _this_process()}
        run = client.create_run(experiment, run_name=run_name, tags=tags)
    return str(run.info.run_id)


def is_at_work(process: str) -> bool | None:
    """Whether the process of a run's tag still lives; None when that can't be told from here."""
    host, _, rest = process.rpartition(" ")[0].rpartition(" ")
    began = process.rpartition(" ")[2]
    if host != socket.gethostname() or not (rest.isdecimal() and began.isdecimal()):
        return None
    try:
        return bool(abs(psutil.Process(int(rest)).create_time() - int(began)) < 2)
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
    """Log a run's params, tags and dataset; params logged before keep their value."""
    from mlflow.entities import Param, RunTag

    texts = {key: str(value)[:PARAM_LENGTH] for key, value in params.items()}
    with faults("describing the run"):
        known = client.get_run(run_id).data.params if texts else {}
        new = [Param(key, value) for key, value in texts.items() if key not in known]
        client.log_batch(run_id, params=new, tags=[RunTag(k, v) for k, v in tags.items()])
        if dataset is not None:
            client.log_inputs(run_id, datasets=[dataset_input(dataset)])
    if changed := [key for key in texts if known.get(key, texts[key]) != texts[key]]:
        logger.warning("run %s keeps the first values of %s", run_id, ", ".join(changed))


def dataset_input(dataset: DatasetRef) -> "DatasetInput":
    """The dataset as MLflow's Dataset column shows it, with its DVC digest when pinned."""
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
    """Tags that name the source code; MLflow shows the first as a run's source."""
    if revision is None:
        return {}
    tags = {"mlflow.source.git.commit": revision.commit, COMMIT_TAG: revision.commit}
    if revision.diff_digest:
        tags[DIFF_TAG] = revision.diff_digest
    return tags
