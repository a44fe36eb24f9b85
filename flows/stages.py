"""Each stage as a Prefect task: run name, cache key, retries, and what its page shows.

Validate, train and evaluate are cached by what decides their result. Register, promote
and package change a store, so they always ask that store and find their own work done.
"""

import base64
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from prefect import Task
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.runtime import flow_run

from aigc_ops import chain
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
from aigc_ops.plain import markdown
from aigc_ops.registry import pages
from aigc_ops.revision import code_digest

Config = RunConfig[Any]
NounT = TypeVar("NounT", bound=Noun)
P = ParamSpec("P")
R = TypeVar("R")


def _cache_key(sections: tuple[str, ...], _: TaskRunContext, parameters: dict[str, Any]) -> str:
    """Digest of the config's sections, the nouns before this stage, the code and the home."""
    config = parameters["config"].model_dump(mode="json", include={"name", "seed", *sections})
    nouns = {k: v.digest for k, v in parameters.items() if isinstance(v, Noun)}
    return json_digest([sections, config, nouns, code_digest(), str(home())])


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
    return result if present(result) else stage.with_options(refresh_cache=True)(*nouns)


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
    return _believed(_train, config, dataset, force, force=force, present=_is_whole)


@_cached("data", "model", "training")
def _train(config: Config, dataset: DatasetRef, anew: bool) -> Checkpoint:
    checkpoint = chain.train(config, dataset, anew=anew)
    if checkpoint.modality == "image" and checkpoint.grid_uri:
        content = base64.b64encode(Path(checkpoint.grid_uri).read_bytes()).decode()
        create_image_artifact(
            image_url=f"data:image/png;base64,{content}",
            key=_key(config, "samples"),
            description=f"Samples after step {checkpoint.step}, the same seeds at every step.",
        )
    elif checkpoint.grid_uri:
        texts = Path(checkpoint.grid_uri).read_text(encoding="utf-8")
        create_markdown_artifact(f"```text\n{texts}\n```", key=_key(config, "samples"))
    return checkpoint


def _is_whole(checkpoint: Checkpoint) -> bool:
    try:
        verify_folder(Path(checkpoint.uri), expected=checkpoint.manifest_digest)
    except CheckpointError:
        return False
    return True


def evaluate(config: Config, dataset: DatasetRef, checkpoint: Checkpoint, *, force: bool) -> Scores:
    """The checkpoint's scores, each with its interval and contract."""
    return _believed(
        _evaluate,
        config,
        dataset,
        checkpoint,
        force=force,
        present=lambda s: s.report_uri is not None and Path(s.report_uri).is_file(),
    )


@_cached("data", "evaluation")
def _evaluate(config: Config, dataset: DatasetRef, checkpoint: Checkpoint) -> Scores:
    scores = chain.evaluate(config, dataset, checkpoint)
    rows = [
        {"metric": name, "value": s.value, "low": s.low, "high": s.high, **s.contract}
        for name, s in scores.values.items()
    ]
    create_table_artifact(
        rows, key=_key(config, "scores"), description="Comparable under equal contracts only."
    )
    return scores


def register(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, scores: Scores
) -> ModelVersion:
    """The version of this checkpoint in the registry, made once."""
    return _register(config, dataset, checkpoint, scores)


@_storing(retries=2)
def _register(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, scores: Scores
) -> ModelVersion:
    version = chain.register(config, dataset, checkpoint, scores)
    create_markdown_artifact(pages.card(version), key=_key(config, "model-card"))
    for what, link in pages.links(version).items():
        create_link_artifact(link, link_text=what, key=_key(config, f"mlflow-{what}"))
    return version


def promote(config: Config, dataset: DatasetRef, version: ModelVersion) -> Verdict:
    """The decision on the version, or that a person must take it."""
    return _promote(config, dataset, version)


@_storing(retries=2)
def _promote(config: Config, dataset: DatasetRef, version: ModelVersion) -> Verdict:
    verdict = chain.promote(config, dataset, version, flow_run=flow_run.id)
    reasons = "\n".join(f"- {markdown(reason)}" for reason in verdict.reasons)
    what = "waits for a person's decision" if verdict.waiting else f"is **{verdict.alias}**"
    create_markdown_artifact(
        f"**{version.uri}** {what}.\n\n{reasons}\n\n"
        f"`aigc-ops review {version.name} {version.version}` opens the evidence.",
        key=_key(config, "verdict"),
    )
    if verdict.packet_digest:
        link = pages.packet_link(version, verdict.packet_digest)
        create_link_artifact(link, link_text="review packet", key=_key(config, "review-packet"))
    return verdict


def package(config: Config, verdict: Verdict) -> BentoTag | None:
    """The champion's Bento, booted and compared; None when packaging is switched off.

    A candidate that was not promoted packages nothing: the champion's Bento is reported.
    """
    if not config.packaging.enabled:
        return None
    if not verdict.promoted:
        return chain.bento_of(verdict.champion) if verdict.champion else None
    return _package(config, verdict.model)


@_storing()
def _package(config: Config, version: ModelVersion) -> BentoTag:
    bento = chain.package(config, version)
    create_markdown_artifact(
        f"`{bento.tag}` was booted and drew {bento.num_golden} golden samples at most "
        f"{bento.max_levels_apart} of 255 levels apart. Serve it: "
        f"`aigc-ops serve {version.uri}`",
        key=_key(config, "bento"),
    )
    return bento


def _key(config: Config, what: str) -> str:
    """An artifact key, which Prefect wants in lower case, digits and dashes."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in config.name.lower())
    return f"{plain}-{what}"
