"""Which versions a digest, a run or a flow run leads to, and what the store holds of a run."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pydantic import Field

from aigc_ops.core.artifacts import Checkpoint, ModelVersion, Noun
from aigc_ops.core.errors import RegistryError
from aigc_ops.registry.audit_log import NUMBERED, Entry
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.evidence import dataset_of, run_of
from aigc_ops.registry.versions import CHAMPION, CHECKPOINT_TAG, MANIFEST_TAG, find, to_noun

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Entity


class Held(Noun):
    """A version as the registry holds it."""

    version: ModelVersion
    aliases: tuple[str, ...]
    tags: dict[str, str]
    created: str = Field(description="ISO 8601, UTC.")


class HeldRun(Noun):
    """A run as the store holds it."""

    run_id: str
    name: str
    status: str
    is_deleted: bool
    started: str | None = Field(description="ISO 8601, UTC.")
    tags: dict[str, str]
    dataset: dict[str, Any] = Field(description="Rows, digests, licences and sources of its data.")
    dataset_uri: str | None = Field(description="Where the data lay when the run began.")


def held(version: ModelVersion) -> Held | None:
    """The version in the registry now; None when it was deleted or another took its number."""
    entity = find(connect(), version.name, version=version.version)
    if entity is None or entity.status != "READY":
        return None
    if entity.tags.get(MANIFEST_TAG) != version.manifest_digest:
        return None
    return Held(
        version=to_noun(entity),
        aliases=tuple(sorted(entity.aliases)),
        tags=dict(entity.tags),
        created=_time(entity.creation_timestamp),
    )


def held_run(run_id: str) -> HeldRun | None:
    """A run of the store, deleted ones too until MLflow clears them away; None without it."""
    run = run_of(run_id)
    if run is None:
        return None
    inputs = run.inputs.dataset_inputs if run.inputs else []
    source = json.loads(inputs[0].dataset.source or "{}") if inputs else {}
    return HeldRun(
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
    """The one version that a checkpoint is registered as; raises RegistryError without one."""
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
    """Ready versions of any model with a tag, champions first, then the newest."""
    return _searched(f"tag.`{tag}` = '{value}'")


def of_run(run_id: str) -> list[ModelVersion]:
    """Ready versions of a run, in the same order."""
    return _searched(f"run_id = '{run_id}'")


def decided_in(flow_run: str) -> list[tuple[str, int]]:
    """Name and number of the versions that a flow run decided on, by the audit logs."""
    client = connect()
    with faults("reading the audit logs"):
        logs = client.search_registered_models(max_results=1000)
    entries = [
        Entry.model_validate_json(text)
        for model in logs
        for key, text in model.tags.items()
        if NUMBERED.fullmatch(key) and flow_run in text
    ]
    mine = [(entry.model, entry.version) for entry in entries if entry.flow_run == flow_run]
    return list(dict.fromkeys(reversed(mine)))


def _searched(condition: str) -> list[ModelVersion]:
    client = connect()
    with faults("searching the versions"):
        found: list[Entity] = client.search_model_versions(condition, max_results=1000)
        ready = [e for e in found if e.status == "READY" and MANIFEST_TAG in e.tags]
        names = {entity.name for entity in ready}
        aliases = {name: client.get_registered_model(name).aliases for name in names}

    def order(entity: "Entity") -> tuple[bool, int]:
        is_champion = str(aliases[entity.name].get(CHAMPION)) == str(entity.version)
        return not is_champion, -entity.creation_timestamp

    return [to_noun(entity) for entity in sorted(ready, key=order)]


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="seconds")
