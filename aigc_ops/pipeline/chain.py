"""The stages of the chain, each with its folder, tracker and resolved models.

Both the flow and the command line call these functions, so a stage is wired in one place.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
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
from aigc_ops.data.canaries import make_canaries, require_canaries, require_clean_start
from aigc_ops.data.validation import worker
from aigc_ops.data.validation.suite import require
from aigc_ops.evaluation import EvaluationConfig, evaluate
from aigc_ops.interfaces.canaries import CANARIES
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.reading import Reading
from aigc_ops.interfaces.sections import with_present_names
from aigc_ops.modalities.image import MODALITY as IMAGES
from aigc_ops.modalities.image.image_sets import ImageSet
from aigc_ops.modalities.image.metrics.compare_sets import METRICS, score_sets
from aigc_ops.models import require_fit
from aigc_ops.pipeline import stage_records
from aigc_ops.pipeline.run_cache import RunRecord
from aigc_ops.pipeline.run_config import RunConfig, merged, parse_config, run_config_type
from aigc_ops.promotion.stage import PromotionContext, promote
from aigc_ops.provenance.code_version import code_digest, revision
from aigc_ops.registry import lookup, registration, resolution
from aigc_ops.registry.client import connect
from aigc_ops.registry.runs import source_tags
from aigc_ops.registry.tracker.journal import JOURNAL
from aigc_ops.registry.tracker.tracker import MlflowTracker, reporting_to
from aigc_ops.serving.bento import packaging
from aigc_ops.serving.bento.store import find_bento, find_newest_bento
from aigc_ops.serving.runtime import alias_watcher, server
from aigc_ops.training import RunFolder, TrainingJob, run_key, train

Config = RunConfig[Any]


def preload() -> None:
    """Import heavy modules and connect to MLflow's store, while the caller waits for servers."""
    import torch._dynamo  # noqa: F401 - every optimiser imports it, for two seconds

    # An unreachable store is reported by the stage that needs it.
    with suppress(RegistryError):
        connect()


def open_data(config: Config) -> DatasetRef:
    """Return the run's dataset, checked against its DVC pin."""
    return open_dataset(config.data)


def validate_stage(config: Config, dataset: DatasetRef, *, force: bool = False) -> ValidationReport:
    """Return the report on the dataset; raises ValidationFailed if an expectation fails.

    Reuses the stored report if config, data and code are unchanged, unless `force` is set.
    """
    # A folder for each group of settings, so that a report is not replaced by that of another run
    # on the same data.
    settings = config.model_dump(mode="json", include={"data", "validation"})
    folder = _folder("reports", config, dataset) / json_digest(settings)[:8]

    def compute() -> ValidationReport:
        report = worker.validate(dataset, config.data, config.validation, folder=folder)
        require(report)  # a failed report raises, so it is never stored for reuse
        return report

    return stage_records.recall_or_compute(
        stage_records.key("validate", config, ("data", "validation"), [dataset]),
        ValidationReport,
        compute,
        files=lambda report: [report.html_uri, report.json_uri],
        force=force,
    )


def train_stage(config: Config, dataset: DatasetRef, *, anew: bool = False) -> Checkpoint:
    """Train and return the checkpoint; resumes an interrupted run of the same config.

    `anew` trains from the first step, in a separate folder and MLflow run.
    """
    require_fit(config.model.family, dataset.modality, dataset.uri)
    num_canaries = config.evaluation.canaries
    require_canaries(dataset, num_canaries, seed=config.seed)
    # 1. The run key digests everything that decides the weights, so it finds the folder of an
    # earlier run. With `anew` the time makes the key new.
    start = config.training.init_from
    initial = resolution.resolve(start) if start else None
    require_clean_start(initial)
    key_of = partial(
        run_key,
        config.model,
        config.training,
        dataset,
        config.data,
        initial=initial,
        canaries=num_canaries,
    )
    key = key_of(seed=config.seed)
    if anew:
        key += time.strftime("-%Y%m%dT%H%M%SZ", time.gmtime())
    folder = RunFolder(home() / "checkpoints" / f"{config.name}-{key}")
    journal = folder.path / JOURNAL
    # 2. Return a finished checkpoint only if nothing is pending. A journal holds metrics that
    # MLflow has not received. In a process group every rank enters `train`, which lets none leave
    # before all have seen the end.
    is_idle = num_processes() == 1 and not journal.exists()
    if is_idle and (finished := folder.finished(config.training.steps)):
        return finished
    # 3. Train, with the config, the revision and the machine recorded in the checkpoint.
    source, read = revision(), Dataset(dataset, config.data).read
    more: dict[str, Any] = {}
    record: dict[str, Any] = {
        "config": config.model_dump(mode="json"),
        "config_key": key_of(seed=None),
        "revision": source and source.model_dump(mode="json"),
        "machine": describe_machine(),
    }
    if num_canaries:
        canaries = make_canaries(dataset, read("train"), num_canaries, seed=config.seed)
        dataset, more = canaries.dataset(dataset), {"plant": canaries.plant}
        record[CANARIES] = canaries.record.model_dump(mode="json")
    with tracking(config, dataset, folder.path.name, journal) as tracker:
        trained = train(
            TrainingJob(
                model=config.model,
                config=config.training,
                dataset=dataset,
                read_data=read,
                seed=config.seed,
                folder=folder,
                tracker=tracker,
                initial=initial,
                cache=home() / "cache" / "examples",
                record=record,
                **more,
            )
        )
    # 4. Training may have added tokenised texts and row groups to the cache.
    caches.trim()
    return trained


@contextmanager
def tracking(config: Config, dataset: DatasetRef, key: str, journal: Path) -> Iterator[Tracker]:
    """Yield the MLflow run of a training run; close it as FINISHED, FAILED or KILLED."""
    # In a process group rank 0 logs for all.
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
    """Return the checkpoint's scores on the dataset, logged to the run that trained it.

    Reuses the stored scores if config, data and code are unchanged, unless `force` is set.
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
    allow_unread: bool,
    num_processes: int,
    **settings: Any,
) -> tuple[dict[str, Score], dict[str, Reading]]:
    """Return scores of one set of images against another, and what was read of both.

    `settings` are those of EvaluationConfig. Raises DataError if too many files are unread.
    """
    from pydantic import ValidationError

    if unknown := sorted(set(metrics) - set(METRICS)):
        raise ConfigError(
            f"--metrics: unknown metric {unknown[0]!r}; choose from {', '.join(METRICS)}"
        )
    if num_processes < 1:
        raise ConfigError(f"--processes: expected 1 or more, found {num_processes}")
    try:
        config = EvaluationConfig(**settings)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    sets = {"real": ImageSet(Path(real), skip_damaged), "fake": ImageSet(Path(fake), skip_damaged)}
    for each in sets.values() if not allow_unread else ():
        each.require_read()
    values = score_sets(
        sets["real"],
        sets["fake"],
        [metric for metric in METRICS if metric in metrics],
        config.section(IMAGES.name),
        config,
        cache=home() / "cache" / "reference",
        num_processes=num_processes,
    )
    caches.trim()
    return values, {name: each.reading() for name, each in sets.items()}


def register_stage(
    config: Config, dataset: DatasetRef, checkpoint: Checkpoint, scores: Scores
) -> ModelVersion:
    """Register a checkpoint and return its version; a registered one is found, not duplicated."""
    return registration.register(
        checkpoint,
        scores,
        name=config.name,
        dataset=dataset,
        prompts=_prompts(config, dataset),
    )


def _prompts(config: Config, dataset: DatasetRef) -> Sequence[str]:
    """Return held-out prompts for the golden samples; empty for models without prompts."""
    # Asked before the held-out split is read, which may take long for images.
    requests = find_modality(dataset.modality).requests
    if not requests.takes_prompts:
        return ()
    return requests.default_prompts(read_split(dataset, config.data, "heldout"))


def promote_stage(
    config: Config, dataset: DatasetRef, version: ModelVersion, *, flow_run: str | None = None
) -> Verdict:
    """Return the decision on a version, or a verdict that waits for a reviewer."""
    context = PromotionContext(
        dataset, config.data, config.evaluation, config.promotion, config.seed
    )
    verdict = promote(version, context, flow_run=flow_run)
    caches.trim()  # a comparison keeps samples of both models
    return verdict


def package_stage(config: Config, version: ModelVersion) -> BentoTag:
    """Build the version's Bento, start it and compare it with the golden samples."""
    folder = Path(resolve(version.uri).uri)
    return packaging.package(version, folder, config=config.packaging)


def serve(model: str, *, host: str, port: int) -> None:
    """Serve a model's Bento, or its folder if it has none, until stopped."""
    # A checkpoint folder need not be registered, and then has no version.
    _require_settings()
    version = version_of(model) if model.startswith(resolution.SCHEME) else None
    bento = find_bento(version) if version else None
    folder = Path(bento.uri if bento else resolve(model).uri)
    server.serve(folder, version=version, host=host, port=port)


def follow(model: str, *, host: str, port: int) -> int:
    """Serve the version that an alias names and restart when it moves; return the exit code."""
    if not model.startswith(resolution.SCHEME) or "@" not in model:
        raise ConfigError(
            f"--follow needs an alias such as models:/NAME@champion, but {model!r} never changes"
        )
    _require_settings()
    # Checked first, since the watcher would start a service that cannot listen again and again.
    host = server.require_address(host, port)
    return alias_watcher.follow_alias(lambda: version_of(model), host=host, port=port)


def _require_settings() -> None:
    """Raise ConfigError for invalid settings of the service."""
    # The service reads them in a child process. BentoML would restart it again and again.
    from aigc_ops.serving.runtime.model_runner import read_settings

    read_settings()


def resolve(model: str) -> Checkpoint:
    """Return the verified local checkpoint of a version, an alias or a checkpoint folder."""
    checkpoint = resolution.resolve(model)
    caches.trim()  # a download may have filled the cache
    return checkpoint


def version_of(model: str) -> ModelVersion:
    """Return the version of `models:/NAME@champion`, `models:/NAME/3` or a checkpoint folder."""
    if model.startswith(resolution.SCHEME):
        return resolution.resolve_version(model)
    return lookup.version_of(resolution.resolve(model))


def config_of(checkpoint: Checkpoint, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the config that a checkpoint was trained with, updated by `overrides` (nested)."""
    stored = read_provenance(Path(checkpoint.uri)).get("config")
    if not isinstance(stored, dict):
        raise ModelError(f"{checkpoint.uri}: holds no run config, so its data is unknown")
    # A checkpoint of an earlier release may use former names of fields; no warning for those.
    present, _ = with_present_names(run_config_type(checkpoint.family), stored)
    return parse_config(merged(present, overrides or {}), source=f"the config of {checkpoint.uri}")


def bento_of(version: ModelVersion) -> BentoTag | None:
    """Return the newest existing Bento of a version; None without one."""
    return find_newest_bento(version)


def config_digest(config: Config) -> str:
    """Return a digest of the whole config, under which a run's record is stored."""
    return json_digest(config.model_dump(mode="json"))


def record_of(
    config: Config, result: RunResult, data_digest: str, inputs: Mapping[str, str]
) -> RunRecord:
    """Return the record of a finished run for `run_cache.save`.

    `data_digest` and `inputs` are those from before the run.
    """
    # Data that changed during the run then differs from the record, and the next run is not
    # taken for unchanged.
    return RunRecord(
        code_digest=code_digest(),
        data_path=config.data.path,
        data_digest=data_digest,
        inputs=dict(inputs),
        packaged=config.packaging.enabled,
        result=result,
    )


def run_name(config: Config, dataset: DatasetRef) -> str:
    """Return a run's name in Prefect and MLflow: model, family and data version."""
    return f"{config.name}-{config.model.family}-data-{dataset.version}"


def _folder(kind: str, config: Config, dataset: DatasetRef) -> Path:
    return home() / kind / f"{config.name}-{dataset.version}"
