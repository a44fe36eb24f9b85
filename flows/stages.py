"""Each stage as a Prefect task: run name, cache key, retries; and its result, shown.

Validate, train and evaluate are cached by what decides their result. Register, promote
and package change a store, so they always ask that store and find their own work done.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.runtime import flow_run

from aigc_ops import chain, records
from aigc_ops.artifacts import (
    BentoTag,
    Checkpoint,
    DatasetRef,
    ModelVersion,
    Noun,
    Scores,
    ValidationReport,
    Verdict,
    json_digest,
)
from aigc_ops.config import RunConfig
from aigc_ops.errors import CheckpointError, RegistryError
from aigc_ops.folders import verify_folder
from aigc_ops.home import home
from aigc_ops.references import references
from aigc_ops.revision import code_digest
from flows import showing

Config = RunConfig[Any]
NounT = TypeVar("NounT", bound=Noun)
P = ParamSpec("P")
R = TypeVar("R")


def _cache_key(sections: tuple[str, ...], _: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Digest of the config's sections, what they name, the nouns before, the code and the home."""
    config = parameters["config"].model_dump(mode="json", include={"name", "seed", *sections})
    named = [r for s in sections for r in references(getattr(parameters["config"], s)).values()]
    nouns = {k: v.digest for k, v in parameters.items() if isinstance(v, Noun)}
    return json_digest([sections, config, records.states(named), nouns, code_digest(), str(home())])


def _cached(*sections: str) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task whose JSON result is kept under the digest of what decides it."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return Task(
            fn=function,
            name=_name(function),
            task_run_name=_name(function) + "-{config.name}",
            cache_key_fn=partial(_cache_key, sections),
            persist_result=True,
            result_serializer="json",
        )

    return decorate


def _storing(*, retries: int = 0) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task that changes a store and is never believed from a cache."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return Task(
            fn=function,
            name=_name(function),
            task_run_name=_name(function) + "-{config.name}",
            cache_policy=NO_CACHE,
            retries=retries,
            retry_delay_seconds=5,
            retry_condition_fn=_is_registry_fault,
            persist_result=True,
            result_serializer="json",
        )

    return decorate


def _name(function: Callable[..., object]) -> str:
    return function.__name__.lstrip("_")


async def _is_registry_fault(_task: Any, _run: Any, state: Any) -> bool:
    error = await state.aresult(raise_on_failure=False)
    return isinstance(error, RegistryError)


def _believed(
    stage: Task[..., NounT], *nouns: Any, force: bool, present: Callable[[NounT], bool]
) -> NounT:
    """A cached result whose files are still there, or a new one."""
    result = stage.with_options(refresh_cache=force)(*nouns)
    if isinstance(result, stage.fn.__annotations__["return"]) and present(result):
        return result
    return stage.with_options(refresh_cache=True)(*nouns)


def validate(config: Config, dataset: DatasetRef, *, force: bool) -> ValidationReport:
    """The report on the dataset; a failed one ends the run."""
    return _believed(
        _validate, config, dataset, force=force, present=lambda r: Path(r.html_uri).is_file()
    )


@_cached("data", "validation")
def _validate(config: Config, dataset: DatasetRef) -> ValidationReport:
    return chain.validate(config, dataset)


def train(config: Config, dataset: DatasetRef, *, force: bool) -> Checkpoint:
    """The trained checkpoint, begun anew when forced, else resumed or as it was."""
    checkpoint = _believed(_train, config, dataset, force, force=force, present=_is_whole)
    showing.show_samples(config.name, checkpoint)
    return checkpoint


@_cached("data", "model", "training")
def _train(config: Config, dataset: DatasetRef, anew: bool) -> Checkpoint:
    return chain.train(config, dataset, anew=anew)


def _is_whole(checkpoint: Checkpoint) -> bool:
    try:
        verify_folder(Path(checkpoint.uri), expected=checkpoint.manifest_digest)
    except CheckpointError:
        return False
    return True


def evaluate(config: Config, dataset: DatasetRef, checkpoint: Checkpoint, *, force: bool) -> Scores:
    """The checkpoint's scores, each with its interval and contract."""
    scores = _believed(
        _evaluate,
        config,
        dataset,
        checkpoint,
        force=force,
        present=lambda s: s.report_uri is not None and Path(s.report_uri).is_file(),
    )
    showing.show_scores(config.name, scores)
    return scores


@_cached("data", "evaluation")
def _evaluate(config: Config, dataset: DatasetRef, checkpoint: Checkpoint) -> Scores:
    return chain.evaluate(config, dataset, checkpoint)


def register(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, scores: Scores
) -> ModelVersion:
    """The version of this checkpoint in the registry, made once."""
    version = _register(config, dataset, checkpoint, scores)
    showing.show_version(version)
    return version


@_storing(retries=2)
def _register(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, scores: Scores
) -> ModelVersion:
    return chain.register(config, dataset, checkpoint, scores)


def promote(config: Config, dataset: DatasetRef, version: ModelVersion) -> Verdict:
    """The decision on the version, or that a person must take it."""
    verdict = _promote(config, dataset, version)
    showing.show_verdict(verdict)
    return verdict


@_storing(retries=2)
def _promote(config: Config, dataset: DatasetRef, version: ModelVersion) -> Verdict:
    return chain.promote(config, dataset, version, flow_run=flow_run.id)


def package(config: Config, verdict: Verdict) -> BentoTag | None:
    """The champion's Bento, booted and compared; None when packaging is switched off.

    A candidate that was not promoted packages nothing: the champion's Bento is reported.
    """
    if not config.packaging.enabled:
        return None
    if verdict.promoted:
        bento: BentoTag | None = _package(config, verdict.model)
    else:
        bento = chain.bento_of(verdict.champion) if verdict.champion else None
    if bento:
        showing.show_bento(bento)
    return bento


@_storing()
def _package(config: Config, version: ModelVersion) -> BentoTag:
    return chain.package(config, version)
