"""Finds the versions of a digest, a run or a flow run, and MLflow's record of a run."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from aigc_ops.core.artifacts import Checkpoint, ModelVersion, Record
from aigc_ops.core.errors import RegistryError
from aigc_ops.registry.audit_log import NUMBERED, Entry
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.evidence import dataset_of, run_of
from aigc_ops.registry.versions import CHAMPION, CHECKPOINT_TAG, MANIFEST_TAG, find, to_noun

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Entity


class RegisteredVersion(Record):
    """A version as the registry has it now."""

    version: ModelVersion
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created: str = Field(description="ISO 8601, UTC.")


class RegisteredRun(Record):
    """A run as MLflow's store has it now."""

    run_id: str
    name: str
    status: str
    is_deleted: bool
    started: str | None = Field(description="ISO 8601, UTC.")
    tags: dict[str, str]
    dataset: dict[str, Any] = Field(description="Rows, digests, licences and sources of its data.")
    dataset_uri: str | None = Field(description="Path of the data when the run started.")


def lookup_version(version: ModelVersion) -> RegisteredVersion | None:
    """Return the version as it is in the registry now; None for one that was deleted."""
    entity = find(connect(), version.name, version=version.version)
    if entity is None or entity.status != "READY":
        return None
    # A model that was deleted and registered again counts from 1: the number alone may name other
    # weights.
    if entity.tags.get(MANIFEST_TAG) != version.manifest_digest:
        return None
    return RegisteredVersion(
        version=to_noun(entity),
        aliases=tuple(sorted(entity.aliases)),
        tags=dict(entity.tags),
        created=_time(entity.creation_timestamp),
    )


def lookup_run(run_id: str) -> RegisteredRun | None:
    """Return a run of the store, or None; a deleted one until MLflow's garbage collection."""
    run = run_of(run_id)
    if run is None:
        return None
    inputs = run.inputs.dataset_inputs if run.inputs else []
    # A run of aigc-ops has one dataset; `describe_run` wrote its path as JSON.
    source = json.loads(inputs[0].dataset.source or "{}") if inputs else {}
    return RegisteredRun(
        run_id=run_id,
        name=run.info.run_name or "",
        status=run.info.status,
        is_deleted=run.info.lifecycle_stage != "active",
        started=_time(run.info.start_time) if run.info.start_time else None,
        tags=dict(run.data.tags),
        dataset=dataset_of(run),
        dataset_uri=source.get("uri"),
    )


def version_of(checkpoint: Checkpoint) -> ModelVersion:
    """Return the version of a checkpoint; raises RegistryError unless there is exactly one."""
    # A resolved version is a checkpoint too. Its digest is the manifest of the stored folder, which
    # differs from the training checkpoint's: the training state is left out.
    digest = checkpoint.manifest_digest
    versions = tagged(CHECKPOINT_TAG, digest) or tagged(MANIFEST_TAG, digest)
    if not versions:
        raise RegistryError(
            f"{checkpoint.uri} is not registered; run: aigc-ops register {checkpoint.uri}"
        )
    if len(versions) > 1:
        names = ", ".join(version.uri for version in versions)
        raise RegistryError(f"{checkpoint.uri} is registered as {names}; give one of them")
    return versions[0]


def tagged(tag: str, value: str) -> list[ModelVersion]:
    """Return the ready versions of any model with this tag, champions first, then the newest."""
    return _search(f"tag.`{tag}` = '{value}'")


def of_run(run_id: str) -> list[ModelVersion]:
    """Return the ready versions of a run, champions first, then the newest."""
    return _search(f"run_id = '{run_id}'")


def decided_in(flow_run: str) -> list[tuple[str, int]]:
    """Return name and number of the versions that a flow run decided on, the latest first."""
    client = connect()
    with faults("reading the audit logs"):
        logs = client.search_registered_models(max_results=1000)
    # MLflow searches tags by their exact names, but entries are numbered, so all are read here.
    # The test for the substring spares parsing most of them.
    entries = [
        Entry.model_validate_json(text)
        for model in logs
        for key, text in model.tags.items()
        if NUMBERED.fullmatch(key) and flow_run in text
    ]
    decided = [(entry.model, entry.version) for entry in entries if entry.flow_run == flow_run]
    return list(dict.fromkeys(reversed(decided)))


def _search(condition: str) -> list[ModelVersion]:
    client = connect()
    with faults("searching the versions"):
        entities: list[Entity] = client.search_model_versions(condition, max_results=1000)
        # A version without the tag was registered by other tools, not by this package.
        ready = [e for e in entities if e.status == "READY" and MANIFEST_TAG in e.tags]
        names = {entity.name for entity in ready}
        # Aliases are read from the model: a version's own list is empty in search results.
        aliases = {name: client.get_registered_model(name).aliases for name in names}

    def order(entity: "Entity") -> tuple[bool, int]:
        is_champion = str(aliases[entity.name].get(CHAMPION)) == str(entity.version)
        return not is_champion, -entity.creation_timestamp

    return [to_noun(entity) for entity in sorted(ready, key=order)]


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
