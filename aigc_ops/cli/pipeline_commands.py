"""The commands that run stages, score image sets and list caches.

A command returns its answer as JSON, and as lines of text.
"""

# Heavy libraries are imported inside the functions, so that `--help`, an error or an unchanged run
# takes a fraction of a second.

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from aigc_ops.cli import data_commands, model_commands, project_commands, review_commands
from aigc_ops.cli.output import run_summary, score_lines, values_lines, verdict_text
from aigc_ops.core.artifacts import (
    Checkpoint,
    DatasetRef,
    Record,
    RunResult,
)
from aigc_ops.core.errors import AigcOpsError, ConfigError, TrainingError
from aigc_ops.core.state_dir import is_first_process, lock_state_dir, num_processes
from aigc_ops.pipeline import run_cache

Answer = dict[str, Any]


def require_usage(arguments: argparse.Namespace, flags: Sequence[str]) -> None:
    """Raise ConfigError for unknown flags, a missing CONFIG or MODEL, or a process group."""
    command = arguments.command
    if flags and command not in WITH_CONFIG:
        raise ConfigError(f"{flags[0]} is not an option of `aigc-ops {command}`; see --help")
    if command in WITH_CONFIG and _subject(arguments) is None:
        what = "CONFIG" if hasattr(arguments, "config") else "MODEL"
        raise ConfigError(f"{what} is missing; see aigc-ops {command} --help")
    # Every process of torchrun would run the other stages as well, and register a version each.
    if command in WITH_CONFIG and command != "train" and num_processes() > 1:
        raise ConfigError(
            f"WORLD_SIZE is {num_processes()}, but only `train` runs in several processes: "
            f"torchrun … -m aigc_ops train CONFIG, then `aigc-ops {command}` as one process"
        )


def run_command(arguments: argparse.Namespace, flags: Sequence[str]) -> tuple[Answer, list[str]]:
    """Run the whole chain, or return the result of an earlier run if nothing has changed."""
    # The earlier result is looked up before torch, Prefect or BentoML are imported.
    start = time.perf_counter()
    digest = run_cache.command_digest(Path(arguments.config), flags)
    earlier = run_cache.load_if_valid(digest) if digest and not arguments.force else None
    result = earlier or _run_flow(arguments, flags, digest)
    answer = {
        **result.model_dump(mode="json"),
        **_rate(result.checkpoint),
        "reused": list(RunResult.model_fields)[1:] if earlier else [],
        "seconds": round(time.perf_counter() - start, 2),
    }
    return answer, run_summary(result, reused=earlier is not None, seconds=answer["seconds"])


def _run_flow(arguments: argparse.Namespace, flags: Sequence[str], digest: str | None) -> RunResult:
    from aigc_ops.data.validation import worker
    from aigc_ops.pipeline.inputs import absent_here, require_inputs
    from aigc_ops.pipeline.run_config import read_yaml
    from flows.runtime.logs import leave_errors_to_caller
    from flows.runtime.server import temporary_server

    # 1. Check the inputs, so that a missing file ends the command before a server starts.
    config, overrides = _load_config(arguments, flags)
    file = Path(arguments.config)
    require_inputs(config, file, overrides)
    with _state_lock():
        # 2. Check what later stages need, which requires no Prefect server. Meanwhile the
        # validation worker, a process, imports its libraries.
        worker.start()
        from aigc_ops.pipeline.chain import config_digest, open_data, preload
        from aigc_ops.pipeline.needs import require_stages

        require_stages(config, open_data(config))
        server = temporary_server()
        from flows.deployments import pipeline_of

        pipeline = pipeline_of(config.model.family)
        # 3. Import torch and MLflow in a thread while this one waits for the server. The flow
        # imports the same modules: two threads in one circle of imports find unfinished modules.
        preloading = threading.Thread(target=preload, name="preload", daemon=True)
        preloading.start()
        if server:
            server.wait()
        preloading.join()
        # 4. Run the flow. `main` prints its error, so Prefect's log must not show it once more.
        leave_errors_to_caller()
        result: RunResult = pipeline(config, force=arguments.force)
        # 5. The flow has saved the result under the config's digest. The digest of the command
        # finds it without parsing the config, which imports torch.
        if digest:
            absent = absent_here(config, read_yaml(file), overrides)
            run_cache.add_alias(config_digest(config), digest, absent=absent)
        return result


def validate_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """Validate the config's dataset."""
    from aigc_ops.data.reading import describe
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.inputs import require_inputs

    config, overrides = _load_config(arguments, flags)
    require_inputs(config, Path(arguments.config), overrides, sections=["data"])
    with _state_lock():
        dataset = _open_data(config, lists_rows=True)
        report = chain.validate_stage(config, dataset)
        reading = describe(dataset, config.data)
    lines = [
        f"{report.num_expectations} expectations hold for {report.num_rows} rows",
        *reading.lines(),
        f"report: {report.html_uri}",
    ]
    return report.model_dump(mode="json") | reading.model_dump(mode="json"), lines


def train_command(arguments: argparse.Namespace, flags: Sequence[str]) -> tuple[Answer, list[str]]:
    """Train a model, or resume its training."""
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.inputs import require_inputs
    from aigc_ops.pipeline.needs import require_stages

    config, overrides = _load_config(arguments, flags)
    sections = ["data", "model", "training"]
    require_inputs(config, Path(arguments.config), overrides, sections=sections)
    with _state_lock():
        dataset = _open_data(config)
        if is_first_process():
            require_stages(config, dataset, ["train"])
            _warn_of_evaluation(config, dataset)
        checkpoint = chain.train_stage(config, dataset)
    lines = [f"checkpoint: {checkpoint.uri}", f"samples: {checkpoint.grid_uri}"]
    return {**checkpoint.model_dump(mode="json"), **_rate(checkpoint)}, lines


def _warn_of_evaluation(config: Any, dataset: DatasetRef) -> None:
    """Print why the trained model could not be evaluated, if so."""
    from aigc_ops.pipeline.needs import require_stages

    # A warning, because a model may be trained without ever being scored here.
    try:
        require_stages(config, dataset, ["evaluate"])
    except AigcOpsError as error:
        print(f"warning: the model could not be evaluated: {error}", file=sys.stderr)


def evaluate_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """Evaluate a model on the dataset of its stored config, or of `--data.path`."""
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.needs import require_stages

    checkpoint = chain.resolve(arguments.model)
    config = _stored_config(checkpoint, flags)
    with _state_lock():
        dataset = _open_data(config)
        require_stages(config, dataset, ["evaluate"])
        scores = chain.evaluate_stage(config, dataset, checkpoint)
    lines = [*score_lines(scores), *_copy_lines(scores, config), f"report: {scores.report_uri}"]
    return scores.model_dump(mode="json"), lines


def _copy_lines(scores: Any, config: Any) -> list[str]:
    """Return the line on copies of training data, if copies were measured."""
    from aigc_ops.promotion.validity import memorisation_reason, unexamined_reason

    if reason := memorisation_reason(scores, config.promotion):
        return [f"copies: {reason}"]
    reason = unexamined_reason(scores, config.promotion)
    return [f"copies were not examined: {reason}"] if reason else []


def register_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """Evaluate a checkpoint and register it as a version."""
    from aigc_ops.pipeline import chain

    checkpoint = chain.resolve(arguments.model)
    config = _stored_config(checkpoint, flags)
    with _state_lock():
        dataset = _open_data(config)
        scores = chain.evaluate_stage(config, dataset, checkpoint)
        version = chain.register_stage(config, dataset, checkpoint, scores)
    return _dump(version, uri=version.uri), [f"registered: {version.uri}"]


def promote_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """Decide on a registered version, or leave the decision to a reviewer."""
    from aigc_ops.pipeline import chain

    config = _stored_config(chain.resolve(arguments.model), flags)
    with _state_lock():
        verdict = chain.promote_stage(config, _open_data(config), chain.version_of(arguments.model))
    lines = [f"{verdict.model.uri} {verdict_text(verdict)}", *verdict.reasons]
    return verdict.model_dump(mode="json"), lines


def package_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """Build and check the Bento of a registered version."""
    from aigc_ops.pipeline import chain

    config = _stored_config(chain.resolve(arguments.model), flags)
    with _state_lock():
        bento = chain.package_stage(config, chain.version_of(arguments.model))
    return bento.model_dump(mode="json"), [f"Bento: {bento.tag}", f"folder: {bento.uri}"]


def score_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Compute scores of a set of images against another."""
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.inputs import find_project, locate, require
    from aigc_ops.pipeline.run_config import read_yaml

    weights = "dinov2_weights" if arguments.extractor.startswith("dinov2") else "inception_weights"
    backbone = read_yaml(Path(arguments.backbone)) if arguments.backbone else {}
    # A relative path in the YAML file is looked up as in a config: here, then in its project.
    if isinstance(path := backbone.get("weights"), str):
        backbone["weights"] = locate("backbone.weights", path, file := Path(arguments.backbone))
        require("backbone.weights", backbone["weights"], find_project(file))
    values, readings = chain.score(
        arguments.real,
        arguments.fake,
        [name.strip() for name in arguments.metrics.split(",")],
        skip_damaged=arguments.skip_damaged,
        allow_unread=arguments.allow_unread,
        num_processes=arguments.processes,
        image={
            "extractor": arguments.extractor,
            "backbone": backbone,
            weights: arguments.weights,
            "inception_resize": arguments.resize,
        },
        precision="bf16" if arguments.mode == "fast" else "fp32",
        device=arguments.device,
        batch_size=arguments.batch_size,
    )
    read = [f"{name}: {line}" for name, each in readings.items() for line in each.lines()]
    answer = {name: each.model_dump(mode="json") for name, each in (values | readings).items()}
    return answer, [*read, *values_lines(values)]


def cache_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """List the cache's entries by last use, or remove the least recently used."""
    from aigc_ops.core import caches

    if arguments.action == "prune":
        removed = caches.prune(int(arguments.max_gb * 2**30))
        answer: Answer = {"removed": [entry.describe() for entry in removed]}
        return answer, [f"removed {len(removed)} entries"]
    entries = caches.entries()
    total = sum(entry.num_bytes for entry in entries)
    lines = [entry.line() for entry in entries]
    answer = {"entries": [entry.describe() for entry in entries], "bytes": total}
    return answer, [*lines, f"{len(entries)} entries, {total / 2**20:.1f} MiB"]


COMMANDS = {
    "run": run_command,
    "validate": validate_command,
    "train": train_command,
    "evaluate": evaluate_command,
    "register": register_command,
    "promote": promote_command,
    "package": package_command,
    "score": score_command,
    "cache": cache_command,
    **data_commands.COMMANDS,
    **model_commands.COMMANDS,
    **project_commands.COMMANDS,
    **review_commands.COMMANDS,
}
WITH_CONFIG = ("run", "validate", "train", "evaluate", "register", "promote", "package")


def _state_lock() -> AbstractContextManager[None]:
    """Lock the state directory; in a process group only rank 0 does, for all."""

    def waiting(holder: str) -> None:
        # The other ranks have started already, and would time out while rank 0 waits.
        if num_processes() > 1:
            raise TrainingError(
                f"{holder} holds the state directory; start again after it has ended"
            )
        print(f"waiting for {holder}, which holds the state directory", file=sys.stderr)

    return lock_state_dir(waiting) if is_first_process() else nullcontext()


def _open_data(config: Any, *, lists_rows: bool = False) -> DatasetRef:
    """Return the dataset after printing notes on it; `lists_rows`: the command's answer has those.

    The first process of a group prints for all.
    """
    from aigc_ops.data import pin_hint
    from aigc_ops.interfaces.reading import selection_lines
    from aigc_ops.pipeline import chain

    dataset = chain.open_data(config)
    lines = [] if lists_rows else selection_lines(dataset.dropped, dataset.noted)
    for line in filter(None, [pin_hint(dataset), *lines]) if is_first_process() else ():
        print(line, file=sys.stderr)
    return dataset


def _load_config(arguments: argparse.Namespace, flags: Sequence[str]) -> tuple[Any, Answer]:
    """Return the config that a command names, and the values that its flags set (nested)."""
    from aigc_ops.cli.config_flags import family_flag, parse_flags
    from aigc_ops.pipeline.run_config import (
        family_of,
        load_config,
        merged,
        read_yaml,
        run_config_type,
    )

    # The family decides which flags exist. The YAML file names it, unless a flag overrides it.
    path = Path(arguments.config)
    values = merged(read_yaml(path), family_flag(flags))
    overrides = parse_flags(run_config_type(family_of(values, source=str(path))), flags)
    return load_config(path, overrides), overrides


def _stored_config(checkpoint: Checkpoint, flags: Sequence[str]) -> Any:
    """Return the config that a checkpoint was trained with, overridden by flags."""
    from aigc_ops.cli.config_flags import parse_flags
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.run_config import run_config_type

    overrides = parse_flags(run_config_type(checkpoint.family), flags)
    return chain.config_of(checkpoint, overrides)


def print_help(arguments: argparse.Namespace, output: TextIO) -> None:
    """Print a command's flags, with the values of its config where one is named."""
    from aigc_ops.cli.config_flags import help_text, type_with_defaults
    from aigc_ops.interfaces.model import FamilyConfig
    from aigc_ops.pipeline.run_config import RunConfig, load_config

    kind: Any = RunConfig[FamilyConfig]
    hint = "The config stored with the model is used; flags override it for this command."
    if hasattr(arguments, "config"):
        hint = "Name a config to see its values and the flags of its model family."
    if path := getattr(arguments, "config", None):
        kind = type_with_defaults(load_config(Path(path)))
        hint = f"The defaults are the values in {path}; flags override them."
    print(help_text(arguments.command, arguments.summary, kind, hint), file=output)


def _subject(arguments: argparse.Namespace) -> str | None:
    subject: str | None = getattr(arguments, "config", None) or getattr(arguments, "model", None)
    return subject


def _rate(checkpoint: Checkpoint) -> Answer:
    # The key says what is counted: images_per_second or tokens_per_second.
    from aigc_ops.interfaces.discovery import find_modality

    return {find_modality(checkpoint.modality).rate_name: checkpoint.rate}


def _dump(record: Record, **more: Any) -> Answer:
    return {**record.model_dump(mode="json"), **more}
