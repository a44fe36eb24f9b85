"""Each stage as a Prefect task: run name, retries; and its result, shown.

Whether a stage has to compute anything is decided in `aigc_ops.pipeline`, for the command line's
single stages as well; Prefect keeps no results of them.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from aigc_ops.core.artifacts import (
    BentoTag,
    Checkpoint,
    DatasetRef,
    ModelVersion,
    Scores,
    ValidationReport,
    Verdict,
)
from aigc_ops.core.errors import RegistryError
from aigc_ops.pipeline import chain
from aigc_ops.pipeline.run_config import RunConfig
from flows import ui_artifacts

Config = RunConfig[Any]
P = ParamSpec("P")
R = TypeVar("R")


def _task(*, retries: int = 0) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Return a decorator that makes `NAME_task` a task named NAME.

    It is tried again where the registry did not answer.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        name = function.__name__.removesuffix("_task")
        return Task(
            fn=function,
            name=name,
            task_run_name=name + "-{config.name}",
            cache_policy=NO_CACHE,
            retries=retries,
            retry_delay_seconds=5,
            retry_condition_fn=_is_registry_fault,
            persist_result=False,
        )

    return decorate


async def _is_registry_fault(_task: Any, _run: Any, state: Any) -> bool:
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, RegistryError)


@_task()
def validate_task(config: Config, dataset: DatasetRef, force: bool) -> ValidationReport:
    """Return the report on the dataset; a failed one ends the run."""
    return chain.validate_stage(config, dataset, force=force)


@_task()
def train_task(config: Config, dataset: DatasetRef, force: bool) -> Checkpoint:
    """Return the trained checkpoint, begun anew when forced, else resumed or as it was."""
    checkpoint = chain.train_stage(config, dataset, anew=force)
    ui_artifacts.show_samples(config.name, checkpoint)
    return checkpoint


@_task()
def evaluate_task(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, force: bool
) -> Scores:
    """Return the checkpoint's scores, each with its interval and evaluation conditions."""
    scores = chain.evaluate_stage(config, dataset, checkpoint, force=force)
    ui_artifacts.show_scores(config.name, scores)
    return scores


@_task(retries=2)
def register_task(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, scores: Scores
) -> ModelVersion:
    """Return the version of this checkpoint in the registry, made once."""
    version = chain.register_stage(config, dataset, checkpoint, scores)
    ui_artifacts.show_version(version)
    return version


@_task(retries=2)
def promote_task(config: Config, dataset: DatasetRef, version: ModelVersion) -> Verdict:
    """Return the decision on the version, or that a person must take it."""
    verdict = chain.promote_stage(config, dataset, version, flow_run=flow_run.id)
    ui_artifacts.show_verdict(verdict)
    return verdict


def package_if_champion(config: Config, verdict: Verdict) -> BentoTag | None:
    """Return the champion's Bento, booted and compared; None when packaging is switched off.

    A candidate that was not promoted packages nothing: the champion's Bento is reported.
    """
    if not config.packaging.enabled:
        return None
    if verdict.promoted:
        bento: BentoTag | None = package_task(config, verdict.model)
    else:
        bento = chain.bento_of(verdict.champion) if verdict.champion else None
    if bento:
        ui_artifacts.show_bento(bento)
    return bento


@_task()
def package_task(config: Config, version: ModelVersion) -> BentoTag:
    """Return the Bento of a version."""
    return chain.package_stage(config, version)
