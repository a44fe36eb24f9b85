"""The register stage: stores a checkpoint as a version, without pickle."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_ops.core.artifacts import Checkpoint, DatasetRef, ModelVersion, Scores, dotted
from aigc_ops.core.atomic_dirs import read_model_json, read_provenance
from aigc_ops.core.errors import RegistryError
from aigc_ops.provenance.code_version import Revision
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.lock import store_lock
from aigc_ops.registry.model_card import description, model_card, rescored
from aigc_ops.registry.model_package import store_locally, upload_folder
from aigc_ops.registry.runs import dataset_input, describe_run, open_run, source_tags
from aigc_ops.registry.versions import (
    CHECKPOINT_TAG,
    CONFIG_KEY_TAG,
    DATASET_TAG,
    DVC_TAG,
    FAMILY_TAG,
    MANIFEST_TAG,
    SCORES_TAG,
    SEED_TAG,
    check_name,
    find_tagged,
    to_noun,
)
from aigc_ops.storage.checkpoints import load_model

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run
    from mlflow.entities.model_registry import ModelVersion as Entity
    from mlflow.tracking import MlflowClient

MODEL_VERSIONS_TAG = "mlflow.modelVersions"


def register(
    checkpoint: Checkpoint,
    scores: Scores | None,
    *,
    name: str,
    dataset: DatasetRef | None = None,
    prompts: Sequence[str] = (),
) -> ModelVersion:
    """Return the version of a checkpoint under a name, registering it if it is new.

    `prompts` are those of a text model's golden samples. For a checkpoint that is registered
    already new scores replace the stored ones. Raises RegistryError for an invalid name, scores of
    another checkpoint and scores that are not finite.
    """
    # 1. Checks that need no store.
    check_name(name)
    if scores is not None and scores.checkpoint_digest != checkpoint.manifest_digest:
        raise RegistryError(
            f"the scores are those of checkpoint {scores.checkpoint_digest[:12]}, not of "
            f"{checkpoint.manifest_digest[:12]}; evaluate {checkpoint.uri} and register it again"
        )
    for key, score in scores.values.items() if scores else ():
        if not math.isfinite(score.value):
            raise RegistryError(f"{key} is {score.value}, so the checkpoint is not registered")
    # 2. Under the lock: two processes that register one checkpoint must not make two versions.
    client = connect()
    with store_lock():
        digest = checkpoint.manifest_digest
        entity = find_tagged(client, name, CHECKPOINT_TAG, digest)
        # A version that was resolved and is registered again has the manifest of its stored folder.
        entity = entity or find_tagged(client, name, MANIFEST_TAG, digest)
        if entity is None:
            entity = _create(client, checkpoint, scores, name, dataset, prompts)
        elif scores is not None and entity.tags.get(SCORES_TAG) != _json(scores):
            _rescore(client, entity, checkpoint, scores, dataset)
        return to_noun(entity)


def _create(
    client: "MlflowClient",
    checkpoint: Checkpoint,
    scores: Scores | None,
    name: str,
    dataset: DatasetRef | None,
    prompts: Sequence[str],
) -> "Entity":
    # The order makes an interrupted registration harmless: files first, the version last. A rerun
    # finds the files and completes it.
    # 1. The model folder in the cache, and the run.
    folder = Path(checkpoint.uri)
    model = load_model(folder, expected=checkpoint.manifest_digest)
    provenance = read_provenance(folder)
    digest = store_locally(checkpoint, model, prompts)
    run = _run(client, checkpoint, provenance, name, dataset)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(
        name,
        checkpoint,
        scores,
        provenance,
        dataset=dataset,
        num_parameters=num_parameters,
        controls=model.controls(),
    )
    tags = _tags(checkpoint, provenance, digest)
    with faults(f"registering {name!r}"):
        params = dotted(read_model_json(folder)["config"])
        # 2. The files. A logged model is READY only after all of them are uploaded.
        stored = _stored_model(client, run, name, tags, params)
        if stored.status != "READY":
            with upload_folder(checkpoint, digest, card, model.controls()) as upload:
                client.log_model_artifacts(stored.model_id, str(upload))
            client.finalize_logged_model(stored.model_id, "READY")
        # 3. Scores and version.
        if scores is not None:
            metrics = _metrics(scores, checkpoint, stored.model_id, dataset)
            client.log_batch(run.info.run_id, metrics=metrics)
            tags[SCORES_TAG] = _json(scores)
        return _version(client, run, stored, name, tags, description(card), checkpoint.step)


def _run(
    client: "MlflowClient",
    checkpoint: Checkpoint,
    provenance: Mapping[str, Any],
    name: str,
    dataset: DatasetRef | None,
) -> "Run":
    """Return the run that trained the checkpoint, or a new one if this store lacks it."""
    from mlflow.exceptions import MlflowException

    if checkpoint.run_id:
        with faults("reading the run"):
            try:
                run = client.get_run(checkpoint.run_id)
                if run.info.lifecycle_stage == "active":
                    return run
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
    # A checkpoint from another store, or of a deleted run: a version needs a run for its artifacts
    # and lineage. The key finds it again when the registration is repeated.
    key = f"{name}-{checkpoint.manifest_digest}"
    run_id = open_run(client, key, f"{name} {checkpoint.family}")
    params = dotted(provenance.get("config") or {})
    tags = source_tags(_revision(provenance))
    describe_run(client, run_id, params=params, tags=tags, dataset=dataset)
    with faults("closing the run"):
        client.set_terminated(run_id, "FINISHED")
        return client.get_run(run_id)


def _stored_model(
    client: "MlflowClient",
    run: "Run",
    name: str,
    tags: Mapping[str, str],
    params: Mapping[str, object],
) -> "LoggedModel":
    """Return the logged model of an interrupted registration, or a new one."""
    experiment = run.info.experiment_id
    logged = client.search_logged_models(
        [experiment], f"tags.`{MANIFEST_TAG}` = '{tags[MANIFEST_TAG]}'"
    )
    # MLflow allows no dot in the name of a logged model, but does in that of a registered one.
    stored_name = name.replace(".", "-")
    candidates = [model for model in logged if model.name == stored_name]
    if candidates:
        return max(candidates, key=lambda model: bool(model.status == "READY"))
    return client.create_logged_model(
        experiment,
        name=stored_name,
        source_run_id=run.info.run_id,
        tags=dict(tags),
        params={key: str(value) for key, value in params.items()},
        model_type=tags[FAMILY_TAG],
    )


def _version(
    client: "MlflowClient",
    run: "Run",
    stored: "LoggedModel",
    name: str,
    tags: Mapping[str, str],
    text: str,
    step: int,
) -> "Entity":
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    # Outputs show the model on the run's page. A rerun must not log one twice.
    outputs = client.get_run(run.info.run_id).outputs
    if all(output.model_id != stored.model_id for output in outputs.model_outputs):
        client.log_outputs(run.info.run_id, [LoggedModelOutput(stored.model_id, step)])
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    entity = client.create_model_version(
        name,
        f"models:/{stored.model_id}",
        run.info.run_id,
        tags=dict(tags),
        description=text,
        model_id=stored.model_id,
    )
    # `mlflow.register_model` sets this tag, which the client does not: the logged model's versions.
    link = [{"name": name, "version": int(entity.version)}]
    client.set_logged_model_tags(stored.model_id, {MODEL_VERSIONS_TAG: json.dumps(link)})
    return entity


def _rescore(
    client: "MlflowClient",
    entity: "Entity",
    checkpoint: Checkpoint,
    scores: Scores,
    dataset: DatasetRef | None,
) -> None:
    """Replace the scores that are stored with the version."""
    name, number = entity.name, entity.version
    with faults(f"storing the scores of {name!r}"):
        model_id = entity.source.removeprefix("models:/")
        metrics = _metrics(scores, checkpoint, model_id, dataset)
        client.log_batch(entity.run_id, metrics=metrics)
        client.update_model_version(name, number, rescored(entity.description or "", scores))
        # Last: a rerun compares this tag, and repeats an update that was interrupted.
        client.set_model_version_tag(name, number, SCORES_TAG, _json(scores))


def _metrics(
    scores: Scores, checkpoint: Checkpoint, model_id: str, dataset: DatasetRef | None
) -> "list[Metric]":
    """Return scores and interval bounds as metrics of the run, the model and the dataset."""
    from mlflow.entities import Metric

    data = dataset_input(dataset).dataset if dataset else None
    values: dict[str, float] = {}
    for key, score in scores.values.items():
        values |= {key: score.value, f"{key}/low": score.low, f"{key}/high": score.high}
    return [
        Metric(
            key,
            value,
            time.time_ns() // 1_000_000,
            checkpoint.step,
            model_id=model_id,
            dataset_name=data.name if data else None,
            dataset_digest=data.digest if data else None,
        )
        for key, value in values.items()
    ]


def _json(scores: Scores) -> str:
    """Return the scores as JSON for a version's tag, without paths of this machine."""
    return scores.model_copy(update={"grid_uri": None, "report_uri": None}).model_dump_json()


def _tags(checkpoint: Checkpoint, provenance: Mapping[str, Any], digest: str) -> dict[str, str]:
    tags = {
        CHECKPOINT_TAG: checkpoint.manifest_digest,
        MANIFEST_TAG: digest,
        FAMILY_TAG: checkpoint.family,
        "aigc_ops.modality": checkpoint.modality,
        "aigc_ops.step": str(checkpoint.step),
        DATASET_TAG: checkpoint.dataset_digest,
    }
    if dvc_digest := provenance.get("dvc_digest"):
        tags[DVC_TAG] = dvc_digest
    # Both are needed to find other trainings of the same config.
    if config_key := provenance.get("config_key"):
        tags |= {CONFIG_KEY_TAG: config_key, SEED_TAG: str(provenance["seed"])}
    return tags | source_tags(_revision(provenance))


def _revision(provenance: Mapping[str, Any]) -> Revision | None:
    revision = provenance.get("revision")
    return Revision.model_validate(revision) if revision else None
