"""The commands about datasets: data, dvc."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from aigc_ops.core.errors import ConfigError

Answer = dict[str, Any]
MAX_CLASSES = 20  # that are listed


def data_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Return a dataset's size, digest and pin; or fetch the data that DVC pins."""
    from aigc_ops.data import DataConfig, dvc, open_dataset, pin_hint
    from aigc_ops.data.reading import describe
    from aigc_ops.interfaces.discovery import find_modality

    if not arguments.path:
        raise ConfigError("data: an empty path; give the folder or file of a dataset")
    if arguments.action == "pull":
        dvc.pull(arguments.path)
        return {"pulled": arguments.path}, [f"{arguments.path} is the data that DVC pins"]
    config = DataConfig(path=arguments.path, allow_unread=True)  # it lists them, and trains nothing
    dataset = open_dataset(config)
    reading = describe(dataset, config)
    lines = [
        f"{find_modality(dataset.modality).unit}: {dataset.num_train} to train on, "
        f"{dataset.num_heldout} held out",
        *_shape_lines(dataset.sample_shape or {}),
        *reading.lines(),
        f"digest: {dataset.content_digest}",
        pin_hint(dataset) or f"pinned by DVC as {dataset.dvc_digest}",
    ]
    return dataset.model_dump(mode="json") | reading.model_dump(mode="json"), lines


def _shape_lines(shape: Mapping[str, Any]) -> list[str]:
    """Return the classes by number, and the other sizes of the samples, a line each."""
    sizes = {name: value for name, value in shape.items() if name != "class_names"}
    names = shape.get("class_names") or ()
    shown = ", ".join(f"{label} ({name})" for label, name in enumerate(names[:MAX_CLASSES]))
    more = ", …" if len(names) > MAX_CLASSES else ""
    lines = [", ".join(f"{name} {value}" for name, value in sizes.items())] if sizes else []
    return [*lines, f"{len(names)} classes: {shown}{more}"] if names else lines


def dvc_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Run a DVC command, which prints its own output; return its exit code."""
    from aigc_ops.data.dvc import run_dvc

    if not arguments.words:
        raise ConfigError("dvc: no DVC command; for example: aigc-ops dvc add FOLDER")
    # With --json standard output holds one JSON object, so DVC writes to standard error.
    code = run_dvc(arguments.words, sys.stderr if arguments.json else arguments.output)
    return {"command": arguments.words, "exit_code": code, "failed": code != 0}, []


COMMANDS = {"data": data_command, "dvc": dvc_command}
