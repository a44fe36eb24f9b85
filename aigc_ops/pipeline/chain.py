"""Each stage with its folder, its tracker and its resolved models.

The flow and the command line both call these, so a stage is wired once.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aigc_ops.compute.devices import describe_machine
from aigc_ops.core import caches
from aigc_ops.core.artifacts import (
    BentoTag,
    Checkpoint,
    DatasetRef,
    ModelVersion,
    RunResult,
    Score,
    Scores,
    ValidationReport,
    Verdict,
    dotted,
    json_digest,
)
from aigc_ops.core.atomic_dirs import read_provenance
from aigc_ops.core.errors import ConfigError, ModelError, RegistryError
from aigc_ops.core.state_dir import home, is_first_process, num_processes
from aigc_ops.core.tracking import SilentTracker, Tracker
from aigc_ops.data import Dataset, open_dataset, read_split
from aigc_ops.data.validation import worker
from aigc_ops.data.validation.suite import require
from aigc_ops.evaluation import EvaluationConfig, evaluate
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.sections import with_present_names
from aigc_ops.modalities.image import MODALITY as IMAGES
from aigc_ops.modalities.image.image_sets import Collection
from aigc_ops.modalities.image.metrics.compare_sets import METRICS, score_sets
from aigc_ops.pipeline import stage_records
from aigc_ops.pipeline.run_cache import RunRecord
from aigc_ops.pipeline.run_config import RunConfig, merged, parse_config, run_config_type
from aigc_ops.promotion.stage import Setting, promote
from aigc_ops.provenance.code_version import code_digest, revision
from aigc_ops.registry import lookup, registration, resolution
from aigc_ops.registry.client import connect
from aigc_ops.registry.runs import source_tags
from aigc_ops.registry.tracker.journal import JOURNAL
from aigc_ops.registry.tracker.tracker import MlflowTracker, reporting_to
from aigc_ops.serving.bento import packaging
from aigc_ops.serving.bento.store import find_bento, standing_bento
from aigc_ops.serving.runtime import alias_watcher, server
from aigc_ops.training import RunFolder, TrainingJob, run_key, train

Config = RunConfig[Any]


def preload() -> None:
    """Import now what the stages would import one after another, while there is time."""
    import torch._dynamo  # noqa: F401 - every optimiser imports it, for two seconds

    # A store that does not answer is the business of the stage that needs it.
    with suppress(RegistryError):
        connect()


def open_data(config: Config) -> DatasetRef:
    """The run's dataset, checked against its DVC pin."""
    return open_dataset(config.data)


def validate_stage(config: Config, dataset: DatasetRef, *, force: bool = False) -> ValidationReport:
    """Return the report on the dataset; raises ValidationFailed when an expectation fails.

    A recorded one is returned where nothing that decides it has changed, unless `force` is set.
    """
    settings = config.model_dump(mode="json", include={"data", "validation"})
    folder = _folder("reports", config, dataset) / json_digest(settings)[:8]

    def compute() -> ValidationReport:
        report = worker.validate(dataset, config.data, config.validation, folder=folder)
        require(report)
        return report

    return stage_records.recall_or_compute(
        stage_records.key("validate", config, ("data", "validation"), [dataset]),
        ValidationReport,
        compute,
        files=lambda report: [report.html_uri, report.json_uri],
        force=force,
    )


def train_stage(config: Config, dataset: DatasetRef, *, anew: bool = False) -> Checkpoint:
    """The trained checkpoint; continues where an earlier run of the same config stopped.

    `anew` trains from the first step, in a folder and an MLflow run of its own.
    """
    start = config.training.init_from
    initial = resolution.resolve(start) if start else None
    key = run_key(
        config.model, config.training, dataset, config.data, seed=config.seed, initial=initial
    )
    if anew:
        key += time.strftime("-%Y%m%dT%H%M%SZ", time.gmtime())
    folder = RunFolder(home() / "checkpoints" / f"{config.name}-{key}")
    journal = folder.path / JOURNAL
    # Else reports are to be sent, or others to be told: none leaves before all have seen the end.
    at_rest = num_processes() == 1 and not journal.exists()
    if at_rest and (finished := folder.finished(config.training.steps)):
        return finished
    source = revision()
    with tracking(config, dataset, folder.path.name, journal) as tracker:
        trained = train(
            TrainingJob(
                model=config.model,
                config=config.training,
                dataset=dataset,
                read_data=Dataset(dataset, config.data).read,
                seed=config.seed,
                folder=folder,
                tracker=tracker,
                initial=initial,
                cache=home() / "cache" / "examples",
                record={
                    "config": config.model_dump(mode="json"),
                    "revision": source and source.model_dump(mode="json"),
                    "machine": describe_machine(),
                },
            )
        )
    caches.trim()
    return trained


@contextmanager
def tracking(config: Config, dataset: DatasetRef, key: str, journal: Path) -> Iterator[Tracker]:
    """The MLflow run of a training run; closed as FINISHED, FAILED or KILLED.

    Of several processes that train together, the first reports for all.
    """
    if not is_first_process():
        yield SilentTracker()
        return
    with MlflowTracker.start(
        key,
        run_name(config, dataset),
        params=dotted(config.model_dump(mode="json")),
        tags=source_tags(revision()),
        dataset=dataset,
        system_metrics=True,
        journal=journal,
    ) as tracker:
        yield tracker


def evaluate_stage(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, *, force: bool = False
) -> Scores:
    """Return the checkpoint's scores against the dataset, reported to the run that trained it.

    Recorded ones are returned where nothing that decides them has changed, unless `force` is set.
    """

    def compute() -> Scores:
        with reporting_to(checkpoint.run_id) as tracker:
            return evaluate(
                checkpoint,
                dataset,
                config.data,
                config.evaluation,
                seed=config.seed,
                cache=home() / "cache" / "reference",
                folder=_folder("evaluations", config, dataset) / checkpoint.manifest_digest[:8],
                tracker=tracker,
            )

    scores = stage_records.recall_or_compute(
        stage_records.key("evaluate", config, ("data", "evaluation"), [dataset, checkpoint]),
        Scores,
        compute,
        files=lambda scores: [scores.report_uri, scores.grid_uri],
        force=force,
    )
    caches.trim()
    return scores


def score(
    real: str,
    fake: str,
    metrics: Sequence[str],
    *,
    skip_damaged: bool,
    num_processes: int,
    **settings: Any,
) -> dict[str, Score]:
    """Return scores of one set of images against another; `settings` are the evaluation's."""
    from pydantic import ValidationError

    if unknown := sorted(set(metrics) - set(METRICS)):
        raise ConfigError(f"--metrics: {unknown[0]!r} is none of {', '.join(METRICS)}")
    if num_processes < 1:
        raise ConfigError(f"--processes: expected 1 or more, found {num_processes}")
    try:
        config = EvaluationConfig(**settings)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    values = score_sets(
        Collection(Path(real), skip_damaged=skip_damaged),
        Collection(Path(fake), skip_damaged=skip_damaged),
        [metric for metric in METRICS if metric in metrics],
        config.section(IMAGES.name),
        config,
        cache=home() / "cache" / "reference",
        num_processes=num_processes,
    )
    caches.trim()
    return values


def register_stage(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, scores: Scores
) -> ModelVersion:
    """The checkpoint's version in the registry, made once."""
    return registration.register(
        checkpoint,
        scores,
        name=config.name,
        dataset=dataset,
        prompts=_prompts(config, dataset),
    )


def _prompts(config: Config, dataset: DatasetRef) -> Sequence[str]:
    """Return held-out prompts that the golden samples answer; empty for models without prompts."""
    requests = find_modality(dataset.modality).requests
    if not requests.takes_prompts:
        return ()
    return requests.default_prompts(read_split(dataset, config.data, "heldout"))


def promote_stage(
    config: Config, dataset: DatasetRef, version: ModelVersion, *, flow_run: str | None = None
) -> Verdict:
    """The decision on a version, or that a person must take it."""
    setting = Setting(dataset, config.data, config.evaluation, config.promotion, config.seed)
    return promote(version, setting, flow_run=flow_run)


def package_stage(config: Config, version: ModelVersion) -> BentoTag:
    """The version's Bento, booted and equal to its golden samples."""
    folder = Path(resolve(version.uri).uri)
    return packaging.package(version, folder, config=config.packaging)


def serve(model: str, *, host: str, port: int) -> None:
    """Serve a model's Bento, or its folder when it has none, until stopped."""
    _require_settings()
    version = version_of(model) if model.startswith(resolution.SCHEME) else None
    bento = find_bento(version) if version else None
    folder = Path(bento.uri if bento else resolve(model).uri)
    server.serve(folder, version=version, host=host, port=port)


def follow(model: str, *, host: str, port: int) -> int:
    """Serve whatever version an alias names, whenever it moves, until stopped; the exit code."""
    if not model.startswith(resolution.SCHEME) or "@" not in model:
        raise ConfigError(f"{model!r} never moves; follow an alias such as models:/NAME@champion")
    _require_settings()
    host = server.require_address(host, port)
    return alias_watcher.follow(lambda: version_of(model), host=host, port=port)


def _require_settings() -> None:
    """The service reads them in a process of its own, which would be started again for ever."""
    from aigc_ops.serving.runtime.model_runner import read_settings

    read_settings()


def resolve(model: str) -> Checkpoint:
    """The local, verified checkpoint of `models:/NAME@champion`, `models:/NAME/3` or a folder."""
    checkpoint = resolution.resolve(model)
    caches.trim()
    return checkpoint


def version_of(model: str) -> ModelVersion:
    """The version of `models:/NAME@champion`, `models:/NAME/3` or a registered checkpoint."""
    if model.startswith(resolution.SCHEME):
        return resolution.resolve_version(model)
    return lookup.version_of(resolution.resolve(model))


def config_of(checkpoint: Checkpoint, overrides: Mapping[str, Any] | None = None) -> Config:
    """The config that a checkpoint was trained with, with overrides (nested) on top."""
    stored = read_provenance(Path(checkpoint.uri)).get("config")
    if not isinstance(stored, dict):
        raise ModelError(f"{checkpoint.uri}: holds no run config, so its data is unknown")
    present, _ = with_present_names(run_config_type(checkpoint.family), stored)
    return parse_config(merged(present, overrides or {}), source=f"the config of {checkpoint.uri}")


def bento_of(version: ModelVersion) -> BentoTag | None:
    """The version's Bento, of the newest code that it was packaged with and still stands."""
    return standing_bento(version)


def config_digest(config: Config) -> str:
    """Names a run by its whole config."""
    return json_digest(config.model_dump(mode="json"))


def record_of(
    config: Config, result: RunResult, data_digest: str, inputs: Mapping[str, str]
) -> RunRecord:
    """The record of a finished run, for `records.keep`; data and inputs as they were before it."""
    return RunRecord(
        code_digest=code_digest(),
        data_path=config.data.path,
        data_digest=data_digest,
        inputs=dict(inputs),
        packaged=config.packaging.enabled,
        result=result,
    )


def run_name(config: Config, dataset: DatasetRef) -> str:
    """What people read in Prefect and MLflow: model, family and data version."""
    return f"{config.name}-{config.model.family}-data-{dataset.version}"


def _folder(kind: str, config: Config, dataset: DatasetRef) -> Path:
    return home() / kind / f"{config.name}-{dataset.version}"
