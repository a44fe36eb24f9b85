"""Reads the registry: names, versions, aliases and tags of models."""

import difflib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from aigc_ops.core.artifacts import ModelVersion, Record, Score, Scores
from aigc_ops.core.errors import RegistryError
from aigc_ops.registry.client import address, connect, faults

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Entity
    from mlflow.tracking import MlflowClient

Alias = Literal["champion", "challenger", "previous"]
CHAMPION: Alias = "champion"
CHALLENGER: Alias = "challenger"
PREVIOUS: Alias = "previous"
ALIASES = (CHAMPION, CHALLENGER, PREVIOUS)

# Persisted in every registry: a tag that is renamed is lost for versions that exist.
CHECKPOINT_TAG = "aigc_ops.checkpoint_digest"
MANIFEST_TAG = "aigc_ops.manifest_digest"
FAMILY_TAG = "aigc_ops.family"
DATASET_TAG = "aigc_ops.dataset_digest"
DVC_TAG = "aigc_ops.dvc_digest"
CONFIG_KEY_TAG = "aigc_ops.config_key"
SEED_TAG = "aigc_ops.seed"
SCORES_TAG = "aigc_ops.scores"
DECISION_TAG = "aigc_ops.decision"
REVIEWER_TAG = "aigc_ops.reviewer"
REASON_TAG = "aigc_ops.reason"
GATE_TAG = "aigc_ops.gate"
PACKET_TAG = "aigc_ops.packet_digest"
FLOW_RUN_TAG = "aigc_ops.flow_run"
AUDIT_TAG = "aigc_ops.audit_digest"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ModelRow(Record):
    """A registered version as a row of `aigc-ops models`."""

    name: str
    version: int
    aliases: tuple[str, ...]
    family: str
    primary: str | None = Field(description="Metric that decides promotion; lower is better.")
    score: float | None = Field(description="Value of that metric.")
    scores: dict[str, Score] = Field(description="All scores; empty if it was never evaluated.")
    created: str = Field(description="Time of registration, ISO 8601, UTC.")


def check_name(name: str) -> str:
    """Return the name; raises RegistryError if it is not a valid model name."""
    if not NAME.fullmatch(name):
        raise RegistryError(
            f"{name!r} cannot name a model; use up to 64 of A-Z, a-z, 0-9, '.', '_' and '-', "
            "a letter or digit first"
        )
    return name


def champion(name: str) -> ModelVersion | None:
    """Return the champion of a model, None without one."""
    return aliased(connect(), check_name(name), CHAMPION)


def models() -> list[ModelRow]:
    """Return all registered versions, by name and then newest first."""
    client = connect()
    with faults("listing the models"):
        entities = _all_versions(client)
    # Versions without the tag were registered by other tools that share the store.
    rows = [_row(entity, aliases) for entity, aliases in entities if MANIFEST_TAG in entity.tags]
    return sorted(rows, key=lambda row: (row.name, -row.version))


def aliased(client: "MlflowClient", name: str, alias: str) -> ModelVersion | None:
    """Return the version of an alias, None if the alias or the model does not exist."""
    entity = find(client, name, alias=alias)
    return None if entity is None else to_noun(entity)


def find(
    client: "MlflowClient", name: str, *, alias: str | None = None, version: int | None = None
) -> "Entity | None":
    """Return MLflow's record of a version, by alias or number; None if it does not exist."""
    from mlflow.exceptions import MlflowException

    with faults(f"reading {name!r}"):
        try:
            if alias is not None:
                return client.get_model_version_by_alias(name, alias)
            return client.get_model_version(name, str(version))
        except MlflowException as error:
            # MLflow reports an absent alias as an invalid parameter.
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise


def find_tagged(client: "MlflowClient", name: str, tag: str, value: str) -> "Entity | None":
    """Return MLflow's record of the oldest ready version with a tag, None without one."""
    with faults(f"searching {name!r}"):
        entities = client.search_model_versions(f"name = '{name}' AND tag.`{tag}` = '{value}'")
    ready = [entity for entity in entities if entity.status == "READY"]
    return min(ready, key=lambda entity: int(entity.version), default=None)


def to_noun(entity: "Entity") -> ModelVersion:
    """Convert MLflow's record; raises RegistryError for a version of another tool."""
    digest = entity.tags.get(MANIFEST_TAG)
    if not digest:
        raise RegistryError(
            f"models:/{entity.name}/{entity.version} was not registered by aigc-ops (it has no "
            f"tag {MANIFEST_TAG}); register its checkpoint with `aigc-ops register`"
        )
    return ModelVersion(
        name=entity.name,
        version=int(entity.version),
        run_id=entity.run_id or "",
        manifest_digest=digest,
    )


def read_scores(tags: Mapping[str, str]) -> Scores | None:
    """Return the scores stored with a version, None if it was never evaluated."""
    stored = tags.get(SCORES_TAG)
    try:
        return Scores.model_validate_json(stored) if stored else None
    except ValidationError as error:
        raise RegistryError(
            f"the tag {SCORES_TAG} does not hold scores ({error.error_count()} faults); "
            "evaluate the version and register it again"
        ) from error


def unknown(client: "MlflowClient", name: str) -> RegistryError:
    """Return the error for a model that is not registered, with the most similar name."""
    with faults("listing the models"):
        names = sorted(model.name for model in client.search_registered_models(max_results=1000))
    if not names:
        return RegistryError(
            f"no model is registered in {address()}, so not {name!r} either; `aigc-ops run CONFIG` "
            "trains and registers one"
        )
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"registered are {', '.join(names[:10])}"
    return RegistryError(f"no model is registered as {name!r}; {hint}")


def _all_versions(client: "MlflowClient") -> list[tuple["Entity", tuple[str, ...]]]:
    """Return MLflow's records of all versions with their aliases."""
    # Search results of versions have no aliases. One request for all models replaces one for each.
    aliases: dict[tuple[str, str], list[str]] = {}
    for model in client.search_registered_models(max_results=1000):
        for alias, version in model.aliases.items():
            aliases.setdefault((model.name, str(version)), []).append(alias)
    entities: list[Entity] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(max_results=1000, page_token=token)
        entities += page
        token = page.token
        if not token:
            break
    return [(e, tuple(sorted(aliases.get((e.name, str(e.version)), ())))) for e in entities]


def _row(entity: "Entity", aliases: tuple[str, ...]) -> ModelRow:
    scores = read_scores(entity.tags)
    return ModelRow(
        name=entity.name,
        version=int(entity.version),
        aliases=aliases,
        family=entity.tags.get(FAMILY_TAG, ""),
        primary=scores.primary if scores else None,
        score=scores.values[scores.primary].value if scores else None,
        scores=scores.values if scores else {},
        created=datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC).isoformat(
            timespec="seconds"
        ),
    )
