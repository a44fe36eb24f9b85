"""The commands that use a trained model: serve, sample, chat, export."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_ops.core.errors import ModelError

if TYPE_CHECKING:
    from aigc_ops.interfaces.model import Generative
    from aigc_ops.sampling.metadata import Origin

Answer = dict[str, Any]


def serve(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Serves until stopped."""
    from aigc_ops.pipeline import chain

    where = {"host": arguments.host, "port": arguments.port}
    if arguments.follow:
        code = chain.follow(arguments.model, **where)
        return {"served": arguments.model, "failed": code != 0}, ["stopped"]
    chain.serve(arguments.model, **where)
    return {"served": arguments.model}, ["stopped"]


def sample(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Samples drawn into a folder."""
    from aigc_ops.cli.config_flags import control_values
    from aigc_ops.interfaces.discovery import find_modality
    from aigc_ops.sampling import sampler
    from aigc_ops.sampling.files import write_samples

    controls = control_values(arguments.controls)
    model, origin = _load_with_origin(arguments.model)
    asked = sampler.requests(
        model,
        arguments.num,
        seed=arguments.seed,
        label=None if arguments.label is None else sampler.class_label(model, arguments.label),
        prompt=arguments.prompt,
        controls=controls,
        stop=arguments.stop,
    )
    drawn = sampler.draw_timed(_on_device(model), asked, progress=True)
    out = Path(arguments.out)
    modality = find_modality(model.modality)
    write_samples(modality, drawn.samples, asked, out, origin=origin)
    answer = {"out": str(out), "num": len(asked), modality.rate_name: drawn.rate}
    return answer, [f"{len(asked)} samples in {out}"]


def chat(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """The conversation, which was written as it went."""
    from aigc_ops.cli.chat import chat as converse
    from aigc_ops.cli.chat import typed_lines
    from aigc_ops.cli.config_flags import control_values

    controls = control_values(arguments.controls)
    messages = converse(
        _on_device(_load_model(arguments.model)),
        typed_lines(),
        sys.stderr if arguments.json else arguments.output,
        seed=arguments.seed,
        system=arguments.system,
        controls=controls,
        stop=arguments.stop,
    )
    shown = [{"role": message.role, "content": message.text} for message in messages]
    return {"model": arguments.model, "messages": shown}, []


def export(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """The folder that was written."""
    out = Path(arguments.out)
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty; give a new folder")
    model = _load_model(arguments.model)
    out.mkdir(parents=True, exist_ok=True)
    model.export(out)
    return {"out": str(out)}, [f"{arguments.model} as a Hugging Face folder: {out}"]


COMMANDS = {"serve": serve, "sample": sample, "chat": chat, "export": export}


def _load_model(name: str) -> "Generative[Any]":
    """The model of a version or checkpoint folder, its files checked."""
    return _load_with_origin(name)[0]


def _on_device(model: "Generative[Any]") -> "Generative[Any]":
    """The model on the best device that is here."""
    from aigc_ops.compute.devices import choose_device

    return model.to(choose_device("auto"))


def _load_with_origin(name: str) -> "tuple[Generative[Any], Origin]":
    """That model, and what its samples tell of it."""
    from aigc_ops.pipeline import chain
    from aigc_ops.sampling.metadata import Origin
    from aigc_ops.storage.checkpoints import load_model

    version = chain.version_of(name) if name.startswith("models:/") else None
    checkpoint = chain.resolve(version.uri if version else name)
    digest = checkpoint.manifest_digest
    model = load_model(Path(checkpoint.uri), expected=digest)
    return model, Origin(model=version and version.uri, manifest_digest=digest)
