"""The promote stage: the champion alias moves here and nowhere else."""

import math
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from aigc_ops.artifacts import ModelVersion, Scores, Verdict, contract_differences
from aigc_ops.errors import RegistryError
from aigc_ops.registry.card import with_verdict
from aigc_ops.registry.client import connect, faults, store_lock
from aigc_ops.registry.resolution import verify_stored
from aigc_ops.registry.versions import (
    CHALLENGER,
    CHAMPION,
    VERDICT_TAG,
    aliased,
    find,
    read_scores,
    to_noun,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as Entity
    from mlflow.tracking import MlflowClient


class PromotionConfig(BaseModel):
    """When a version takes the champion's place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_improvement: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Fraction of the champion's primary score by which a version must be lower.",
    )
    max_copies: float = Field(
        default=0.04,
        ge=0,
        le=1,
        description="Share of near copies of training images that a version's samples must not "
        "surely exceed; of held-out images 0.01 count as such.",
    )


def promote(version: ModelVersion, *, config: PromotionConfig) -> Verdict:
    """Whether the version is champion now, and why; it becomes challenger otherwise.

    A version that is valid and better than the champion on the primary metric, or the
    first valid one, takes the alias. The reasons are stored on the version. Raises
    RegistryError or CheckpointError for one that is not ready, damaged, or not scored
    where there is no champion yet.
    """
    client = connect()
    with store_lock():
        entity = find(client, version.name, version=version.version)
        if entity is None or entity.status != "READY":
            state = "does not exist" if entity is None else f"is {entity.status}"
            raise RegistryError(f"{version.uri} {state}; `aigc-ops models` lists what there is")
        version = to_noun(entity)
        verify_stored(version)
        champion = aliased(client, version.name, CHAMPION)
        if champion == version:
            return _verdict(version, champion, True, ["it is the champion already"])
        verdict = _verdict(version, champion, *_decide(client, entity, champion, config))
        _carry_out(client, entity, verdict)
    return verdict


def _decide(
    client: "MlflowClient", entity: "Entity", champion: ModelVersion | None, config: PromotionConfig
) -> tuple[bool, list[str]]:
    """Whether the version takes the champion's place, and the reasons."""
    scores = read_scores(entity.tags)
    doubt = _doubt(scores) or _copying(scores, config)
    if champion is None:
        if doubt:
            raise RegistryError(f"{to_noun(entity).uri} cannot become champion: {doubt}")
        return True, [f"the first valid version while {entity.name} has no champion"]
    if scores is None or doubt:
        return False, [f"not valid: {doubt}"]
    rival = find(client, champion.name, version=champion.version)
    return _compare(scores, read_scores(rival.tags) if rival else None, champion, config)


def _verdict(
    version: ModelVersion, champion: ModelVersion | None, promoted: bool, reasons: list[str]
) -> Verdict:
    return Verdict(
        model=version,
        promoted=promoted,
        alias=CHAMPION if promoted else CHALLENGER,
        champion=version if promoted or champion is None else champion,
        reasons=tuple(reasons),
    )


def _doubt(scores: Scores | None) -> str | None:
    """Why these scores cannot carry a promotion, None when they can."""
    if scores is None:
        return "it has no scores; evaluate it and register its checkpoint again"
    for key, score in scores.values.items():
        if not math.isfinite(score.value):
            return f"its {key} is {score.value}, not a finite number"
    if scores.primary not in scores.values:
        return f"its primary metric {scores.primary} was not measured"
    return None


def _copying(scores: Scores | None, config: PromotionConfig) -> str | None:
    """How surely the samples are copies of training images, None when they are not."""
    for key, score in scores.values.items() if scores else ():
        if key.startswith("copies_in_") and score.low > config.max_copies:
            return (
                f"its {key} is {score.value:.1%} ({score.low:.1%} to {score.high:.1%}), surely "
                f"above promotion.max_copies of {config.max_copies:.1%}: it copies training "
                "images; the report shows the pairs"
            )
    return None


def _compare(
    scores: Scores, standing: Scores | None, champion: ModelVersion, config: PromotionConfig
) -> tuple[bool, list[str]]:
    """Whether the scores beat the champion's, and the reasons."""
    against = f"version {champion.version}"
    doubt = _doubt(standing)
    if standing is None or doubt:
        return False, [
            f"the champion, {against}, cannot be compared with: {doubt}; or delete its alias"
        ]
    key = scores.primary
    if standing.primary != key:
        return False, [f"judged by {key}, the champion, {against}, by {standing.primary}"]
    mine, theirs = scores.values[key], standing.values[key]
    if terms := contract_differences(mine, theirs):
        return False, [
            f"{key} is not comparable with {against}: {term} is {mine.contract.get(term)!r}, "
            f"there {theirs.contract.get(term)!r}"
            for term in terms
        ]
    bar = theirs.value - config.min_improvement * abs(theirs.value)
    better = mine.value < bar
    reason = f"{key} {mine.value:.5g} {'<' if better else '>='} {bar:.5g} of {against}"
    if config.min_improvement:
        reason += f" ({theirs.value:.5g} less {config.min_improvement:.1%})"
    return better, [reason]


def _carry_out(client: "MlflowClient", entity: "Entity", verdict: Verdict) -> None:
    """Store the reasons, then move the alias; a kill in between leaves the old champion."""
    name, number = entity.name, entity.version
    record = verdict.model_dump_json(include={"promoted", "alias", "reasons"})
    with faults(f"promoting {verdict.model.uri}"):
        client.update_model_version(name, number, with_verdict(entity.description or "", verdict))
        client.set_model_version_tag(name, number, VERDICT_TAG, record)
        client.set_registered_model_alias(name, verdict.alias, number)
        if verdict.promoted and CHALLENGER in entity.aliases:
            client.delete_registered_model_alias(name, CHALLENGER)
