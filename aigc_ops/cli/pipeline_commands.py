"""What each command of the command line does, and how it reports."""

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from aigc_ops.cli import data_commands, model_commands, review_commands
from aigc_ops.cli.output import run_summary, score_lines, values_lines, verdict_text
from aigc_ops.core.artifacts import (
    Checkpoint,
    DatasetRef,
    Noun,
    RunResult,
    contract_differences,
)
from aigc_ops.core.errors import ConfigError, TrainingError
from aigc_ops.core.state_dir import exclusive, is_first_process, num_processes
from aigc_ops.pipeline import run_cache

if TYPE_CHECKING:
    from aigc_ops.registry.versions import ModelRow

Answer = dict[str, Any]


def require_usage(arguments: argparse.Namespace, flags: Sequence[str]) -> None:
    """Raise ConfigError for words that a command does not take, or lacks."""
    command = arguments.command
    if flags and command not in WITH_CONFIG:
        raise ConfigError(f"{flags[0]} is not an option of `aigc-ops {command}`; see --help")
    if command in WITH_CONFIG and _subject(arguments) is None:
        what = "CONFIG" if hasattr(arguments, "config") else "MODEL"
        raise ConfigError(f"{what} is missing; see aigc-ops {command} --help")
    if command in WITH_CONFIG and command != "train" and num_processes() > 1:
        raise ConfigError(
            f"WORLD_SIZE is {num_processes()}, but several processes share the training alone: "
            f"torchrun … -m aigc_ops train CONFIG, then `aigc-ops {command}` as one process"
        )


def run_command(arguments: argparse.Namespace, flags: Sequence[str]) -> tuple[Answer, list[str]]:
    """The whole chain, or what an unchanged earlier run left."""
    start = time.perf_counter()
    digest = run_cache.command_digest(Path(arguments.config), flags)
    earlier = run_cache.recall(digest) if digest and not arguments.force else None
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

    config, overrides = _load_config(arguments, flags)
    file = Path(arguments.config)
    require_inputs(config, file, overrides)
    with _alone():
        # Two processes begin at once; this one imports what it needs beside them.
        server = temporary_server()
        worker.start()
        from aigc_ops.pipeline.chain import config_digest, preload
        from flows.deployments import pipeline_of

        pipeline = pipeline_of(config.model.family)
        # While the flow waits for its server and for the validation, which are processes.
        threading.Thread(target=preload, name="preload", daemon=True).start()
        if server:
            server.wait()
        leave_errors_to_caller()
        result: RunResult = pipeline(config, force=arguments.force)
        if digest:
            absent = absent_here(config, read_yaml(file), overrides)
            run_cache.keep_as(config_digest(config), digest, absent=absent)
        return result


def validate_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """The report on the config's dataset."""
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.inputs import require_inputs

    config, overrides = _load_config(arguments, flags)
    require_inputs(config, Path(arguments.config), overrides, sections=["data"])
    with _alone():
        report = chain.validate_stage(config, _open_data(config))
    lines = [
        f"{report.num_expectations} expectations hold for {report.num_rows} rows",
        f"report: {report.html_uri}",
    ]
    return report.model_dump(mode="json"), lines


def train_command(arguments: argparse.Namespace, flags: Sequence[str]) -> tuple[Answer, list[str]]:
    """The trained checkpoint."""
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.inputs import require_inputs

    config, overrides = _load_config(arguments, flags)
    sections = ["data", "model", "training"]
    require_inputs(config, Path(arguments.config), overrides, sections=sections)
    with _alone():
        checkpoint = chain.train_stage(config, _open_data(config))
    lines = [f"checkpoint: {checkpoint.uri}", f"samples: {checkpoint.grid_uri}"]
    return {**checkpoint.model_dump(mode="json"), **_rate(checkpoint)}, lines


def evaluate_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """The model's scores on the dataset of its own config, or of `--data.path`."""
    from aigc_ops.pipeline import chain

    checkpoint = chain.resolve(arguments.model)
    config = _stored_config(checkpoint, flags)
    with _alone():
        scores = chain.evaluate_stage(config, _open_data(config), checkpoint)
    return scores.model_dump(mode="json"), score_lines(scores)


def register_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """The checkpoint's version in the registry, scored first."""
    from aigc_ops.pipeline import chain

    checkpoint = chain.resolve(arguments.model)
    config = _stored_config(checkpoint, flags)
    with _alone():
        dataset = _open_data(config)
        scores = chain.evaluate_stage(config, dataset, checkpoint)
        version = chain.register_stage(config, dataset, checkpoint, scores)
    return _dump(version, uri=version.uri), [f"registered: {version.uri}"]


def promote_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """The decision on a registered version."""
    from aigc_ops.pipeline import chain

    config = _stored_config(chain.resolve(arguments.model), flags)
    with _alone():
        verdict = chain.promote_stage(config, _open_data(config), chain.version_of(arguments.model))
    lines = [f"{verdict.model.uri} {verdict_text(verdict)}", *verdict.reasons]
    return verdict.model_dump(mode="json"), lines


def package_command(
    arguments: argparse.Namespace, flags: Sequence[str]
) -> tuple[Answer, list[str]]:
    """The Bento of a registered version."""
    from aigc_ops.pipeline import chain

    config = _stored_config(chain.resolve(arguments.model), flags)
    with _alone():
        bento = chain.package_stage(config, chain.version_of(arguments.model))
    return bento.model_dump(mode="json"), [f"Bento: {bento.tag}", f"folder: {bento.uri}"]


def score_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Scores of two sets of images, by name."""
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.inputs import find_project, locate, require
    from aigc_ops.pipeline.run_config import read_yaml

    weights = "dinov2_weights" if arguments.extractor.startswith("dinov2") else "inception_weights"
    backbone = read_yaml(Path(arguments.backbone)) if arguments.backbone else {}
    if isinstance(path := backbone.get("weights"), str):
        backbone["weights"] = locate("backbone.weights", path, file := Path(arguments.backbone))
        require("backbone.weights", backbone["weights"], find_project(file))
    values = chain.score(
        arguments.real,
        arguments.fake,
        [name.strip() for name in arguments.metrics.split(",")],
        skip_damaged=arguments.skip_damaged,
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
    answer = {name: each.model_dump(mode="json") for name, each in values.items()}
    return answer, values_lines(values)


def cache_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """What is kept, oldest use first; what was removed."""
    from aigc_ops.core import caches

    if arguments.action == "prune":
        removed = caches.prune(int(arguments.max_gb * 2**30))
        told = {"removed": [entry.describe() for entry in removed]}
        return told, [f"removed {len(removed)} entries"]
    entries = caches.entries()
    total = sum(entry.num_bytes for entry in entries)
    lines = [entry.line() for entry in entries]
    answer = {"entries": [entry.describe() for entry in entries], "bytes": total}
    return answer, [*lines, f"{len(entries)} entries, {total / 2**20:.1f} MiB"]


def models_command(_: argparse.Namespace, __: Sequence[str]) -> tuple[Answer, list[str]]:
    """Every registered version."""
    from aigc_ops.registry.versions import models as registered

    rows = registered()
    champions = {row.name: row for row in rows if "champion" in row.aliases}
    lines = [
        f"{row.name}/{row.version}  {','.join(row.aliases) or '-'}  {row.family}  "
        + (f"{row.primary} {row.score:.4g}" if row.score is not None else "not scored")
        + _not_comparable(row, champions.get(row.name))
        for row in rows
    ]
    answer = {"models": [row.model_dump(mode="json") for row in rows]}
    return answer, lines or ["no model is registered yet; aigc-ops run CONFIG makes one"]


def _not_comparable(row: "ModelRow", champion: "ModelRow | None") -> str:
    """What keeps a version's score from being compared with the champion's, if anything does."""
    if champion is None or not row.primary or row.primary != champion.primary:
        return ""
    terms = contract_differences(row.scores[row.primary], champion.scores[row.primary])
    return f"  not comparable with the champion's: other {', '.join(terms)}" if terms else ""


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
    "models": models_command,
    **data_commands.COMMANDS,
    **model_commands.COMMANDS,
    **review_commands.COMMANDS,
}
WITH_CONFIG = ("run", "validate", "train", "evaluate", "register", "promote", "package")


def _alone() -> AbstractContextManager[None]:
    """Hold the home; of several processes that train together, the first does for all.

    It does not wait, for the others have begun: raises TrainingError when the home is held.
    """

    def waiting(holder: str) -> None:
        if num_processes() > 1:
            raise TrainingError(f"{holder} holds this home; start again once it has ended")
        print(f"waiting for {holder}, which holds this home", file=sys.stderr)

    return exclusive(waiting) if is_first_process() else nullcontext()


def _open_data(config: Any) -> DatasetRef:
    from aigc_ops.data import pin_hint
    from aigc_ops.pipeline import chain

    dataset = chain.open_data(config)
    if hint := pin_hint(dataset):
        print(hint, file=sys.stderr)
    return dataset


def _load_config(arguments: argparse.Namespace, flags: Sequence[str]) -> tuple[Any, Answer]:
    """Return the config that a command names, and what its flags set in it."""
    from aigc_ops.cli.config_flags import family_flag, parse_flags
    from aigc_ops.pipeline.run_config import (
        family_of,
        load_config,
        merged,
        read_yaml,
        run_config_type,
    )

    path = Path(arguments.config)
    values = merged(read_yaml(path), family_flag(flags))
    overrides = parse_flags(run_config_type(family_of(values, source=str(path))), flags)
    return load_config(path, overrides), overrides


def _stored_config(checkpoint: Checkpoint, flags: Sequence[str]) -> Any:
    """The config that a checkpoint was trained with, with flags on top."""
    from aigc_ops.cli.config_flags import parse_flags
    from aigc_ops.pipeline import chain
    from aigc_ops.pipeline.run_config import run_config_type

    overrides = parse_flags(run_config_type(checkpoint.family), flags)
    return chain.config_of(checkpoint, overrides)


def print_help(arguments: argparse.Namespace, output: TextIO) -> None:
    """Print a command's flags, with the values of its config where one is named."""
    from aigc_ops.cli.config_flags import help_text, with_values
    from aigc_ops.interfaces.model import FamilyConfig
    from aigc_ops.pipeline.run_config import RunConfig, load_config

    kind: Any = RunConfig[FamilyConfig]
    hint = "A model keeps the config that it was trained with; flags change that for this command."
    if hasattr(arguments, "config"):
        hint = "Name a config to see its values, and the flags of its model family too."
    if path := getattr(arguments, "config", None):
        kind = with_values(load_config(Path(path)))
        hint = f"Defaults are those of {path}; flags override them."
    print(help_text(arguments.command, arguments.summary, kind, hint), file=output)


def _subject(arguments: argparse.Namespace) -> str | None:
    subject: str | None = getattr(arguments, "config", None) or getattr(arguments, "model", None)
    return subject


def _rate(checkpoint: Checkpoint) -> Answer:
    from aigc_ops.interfaces.discovery import find_modality

    return {find_modality(checkpoint.modality).rate_name: checkpoint.rate}


def _dump(noun: Noun, **more: Any) -> Answer:
    return {**noun.model_dump(mode="json"), **more}
