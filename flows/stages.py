"""The stages as Prefect tasks, with run names, retries and artifacts for the UI.

`aigc_ops.pipeline` decides whether a stage can reuse a stored result, also for the command line.
Prefect's own result cache is not used.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, get_run_logger
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
    """Return a decorator that makes `NAME_task` a task named NAME, retried on registry errors."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        name = function.__name__.removesuffix("_task")
        return Task(
            fn=function,
            name=name,
            task_run_name=name + "-{config.name}",
            # Prefect's cache would compare the arguments, but not the code or the files.
            cache_policy=NO_CACHE,
            retries=retries,
            retry_delay_seconds=5,
            retry_condition_fn=_is_registry_fault,
            persist_result=False,
        )

    return decorate


async def _is_registry_fault(_task: Any, _run: Any, state: Any) -> bool:
    # A store that did not answer may answer in a few seconds; other errors would only repeat.
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, RegistryError)


@_task()
def validate_task(config: Config, dataset: DatasetRef, force: bool) -> ValidationReport:
    """Return the report on the dataset; raises ValidationFailed if an expectation fails."""
    log = get_run_logger()
    rows = dataset.num_train + dataset.num_heldout
    log.info("checking %s rows of %s", f"{rows:,}", dataset.uri)
    report = chain.validate_stage(config, dataset, force=force)
    log.info("%d expectations hold", report.num_expectations)
    return report


@_task()
def train_task(config: Config, dataset: DatasetRef, force: bool) -> Checkpoint:
    """Return the trained checkpoint: reused, resumed, or with `force` trained from step 0."""
    log = get_run_logger()
    log.info("training a %s to step %s", config.model.family, f"{config.training.steps:,}")
    checkpoint = chain.train_stage(config, dataset, anew=force)
    log.info("trained: %s", checkpoint.uri)
    # Shown for a reused result as well, so that every run's page is complete.
    ui_artifacts.show_samples(config.name, checkpoint)
    return checkpoint


@_task()
def evaluate_task(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, force: bool
) -> Scores:
    """Return the checkpoint's scores, each with its interval and evaluation conditions."""
    log = get_run_logger()
    log.info("evaluating step %s", f"{checkpoint.step:,}")
    scores = chain.evaluate_stage(config, dataset, checkpoint, force=force)
    first = scores.values[scores.primary]
    log.info("%s %.4g (%.4g to %.4g)", scores.primary, first.value, first.low, first.high)
    ui_artifacts.show_scores(config.name, scores)
    return scores


@_task(retries=2)
def register_task(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, scores: Scores
) -> ModelVersion:
    """Return the checkpoint's version in the registry, registered on first use."""
    version = chain.register_stage(config, dataset, checkpoint, scores)
    get_run_logger().info("registered as %s", version.uri)
    ui_artifacts.show_version(version)
    return version


@_task(retries=2)
def promote_task(config: Config, dataset: DatasetRef, version: ModelVersion) -> Verdict:
    """Return the decision on the version, or a verdict that waits for a reviewer."""
    log = get_run_logger()
    log.info("comparing %s with the champion", version.uri)
    verdict = chain.promote_stage(config, dataset, version, flow_run=flow_run.id)
    outcome = "waits for a decision" if verdict.waiting else f"is {verdict.alias or 'held back'}"
    log.info("%s %s: %s", version.uri, outcome, verdict.reasons[0])
    ui_artifacts.show_verdict(verdict)
    return verdict


def package_if_champion(config: Config, verdict: Verdict) -> BentoTag | None:
    """Return the champion's Bento, built if the champion is new; None if packaging is disabled."""
    if not config.packaging.enabled:
        return None
    # A candidate that was not promoted is not packaged; the champion's existing Bento is shown.
    if verdict.promoted:
        bento: BentoTag | None = package_task(config, verdict.model)
    else:
        bento = chain.bento_of(verdict.champion) if verdict.champion else None
    if bento:
        ui_artifacts.show_bento(bento)
    return bento


@_task()
def package_task(config: Config, version: ModelVersion) -> BentoTag:
    """Build the Bento of a version, start it and compare its samples."""
    log = get_run_logger()
    log.info("building the Bento of %s, and comparing its samples", version.uri)
    bento = chain.package_stage(config, version)
    log.info("%s gives %d golden samples", bento.tag, bento.num_golden)
    return bento
