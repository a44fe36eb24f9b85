"""Finds the versions that differ from a version by the seed of their training alone."""

from typing import TYPE_CHECKING

from aigc_ops.core.artifacts import ModelVersion, Record, Scores, contract_differences
from aigc_ops.core.errors import RegistryError
from aigc_ops.registry.client import connect, faults
from aigc_ops.registry.versions import CONFIG_KEY_TAG, SEED_TAG, find, read_scores

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Entity


class Training(Record):
    """A training of a config with one seed."""

    version: int
    seed: int
    value: float
    """The primary score of the registered version."""


def trainings_like(version: ModelVersion) -> tuple[Training, ...]:
    """Return the trainings of a version's config and data with any seed, itself included.

    They are versions of the same model whose primary score was measured under the same evaluation
    conditions; for each seed the newest. Empty for a version that was registered before its
    config's key was recorded, or that was never evaluated.
    """
    client = connect()
    own = find(client, version.name, version=version.version)
    scores = read_scores(own.tags) if own else None
    key = own.tags.get(CONFIG_KEY_TAG) if own else None
    if own is None or scores is None or key is None:
        return ()
    with faults(f"searching {version.name!r}"):
        entities = client.search_model_versions(
            f"name = '{version.name}' AND tag.`{CONFIG_KEY_TAG}` = '{key}'", max_results=1000
        )
    found = {}
    # The newest of each seed, and of its own seed the version itself.
    for entity in [*sorted(entities, key=lambda entity: int(entity.version)), own]:
        if training := _training(entity, scores):
            found[training.seed] = training
    return tuple(sorted(found.values(), key=lambda training: training.version))


def _training(entity: "Entity", like: Scores) -> Training | None:
    """Return the training of a version; None if its score cannot be compared."""
    try:
        scores = read_scores(entity.tags)
    except RegistryError:
        return None
    seed = entity.tags.get(SEED_TAG)
    if entity.status != "READY" or scores is None or seed is None or scores.primary != like.primary:
        return None
    score, reference = (each.values.get(each.primary) for each in (scores, like))
    if score is None or reference is None or contract_differences(score, reference):
        return None
    return Training(version=int(entity.version), seed=int(seed), value=score.value)
