"""The commands that use a trained model: serve, sample, chat, export."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_ops.core.errors import ModelError

if TYPE_CHECKING:
    from aigc_ops.interfaces.model import Generative
    from aigc_ops.sampling.metadata import ModelRef

Answer = dict[str, Any]


def serve_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Serve a model until stopped."""
    from aigc_ops.pipeline import chain

    address = {"host": arguments.host, "port": arguments.port}
    if arguments.follow:
        code = chain.follow(arguments.model, **address)
        return {"served": arguments.model, "failed": code != 0}, ["stopped"]
    chain.serve(arguments.model, **address)
    return {"served": arguments.model}, ["stopped"]


def sample_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Generate samples and write them to a folder."""
    from aigc_ops.cli.config_flags import control_values
    from aigc_ops.interfaces.discovery import find_modality
    from aigc_ops.sampling import sampler
    from aigc_ops.sampling.files import write_samples

    # Before the model is loaded, which takes seconds: a mistyped control fails at once.
    controls = control_values(arguments.controls)
    model, origin = _load_with_origin(arguments.model)
    word = arguments.label
    label = None if word is None else sampler.class_label(model, word)
    requests = sampler.requests(
        model,
        arguments.num,
        seed=arguments.seed,
        conditions={
            "label": label,
            "prompt": arguments.prompt,
            "stop": tuple(arguments.stop) or None,
        },
        controls=controls,
    )
    generated = sampler.generate_timed(_on_device(model), requests, progress=True)
    out = Path(arguments.out)
    modality = find_modality(model.modality)
    write_samples(modality, generated.samples, requests, out, origin=origin)
    answer = {"out": str(out), "num": len(requests), modality.rate_name: generated.rate}
    return answer, [f"{len(requests)} samples in {out}"]


def chat_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Run a chat in the terminal and return the conversation."""
    from aigc_ops.cli.chat import chat, typed_lines
    from aigc_ops.cli.config_flags import control_values

    controls = control_values(arguments.controls)
    messages = chat(
        _on_device(_load_model(arguments.model)),
        typed_lines(),
        # With --json standard output holds one JSON object, printed at the end.
        sys.stderr if arguments.json else arguments.output,
        seed=arguments.seed,
        system=arguments.system,
        controls=controls,
        stop=arguments.stop,
    )
    shown = [{"role": message.role, "content": message.text} for message in messages]
    return {"model": arguments.model, "messages": shown}, []


def export_command(arguments: argparse.Namespace, _: Sequence[str]) -> tuple[Answer, list[str]]:
    """Write a model as a Hugging Face folder."""
    out = Path(arguments.out)
    if out.exists() and any(out.iterdir()):
        raise ModelError(f"{out} is not empty; give a new folder")
    model = _load_model(arguments.model)
    # Only after the model is loaded, so that an error leaves no empty folder.
    out.mkdir(parents=True, exist_ok=True)
    model.export(out)
    return {"out": str(out)}, [f"{arguments.model} as a Hugging Face folder: {out}"]


COMMANDS = {
    "serve": serve_command,
    "sample": sample_command,
    "chat": chat_command,
    "export": export_command,
}


def _load_model(name: str) -> "Generative[Any]":
    """Load a registered version or a checkpoint folder, after a check of its files."""
    return _load_with_origin(name)[0]


def _on_device(model: "Generative[Any]") -> "Generative[Any]":
    """Move a model to the best device of this machine."""
    from aigc_ops.compute.devices import choose_device

    return model.to(choose_device("auto"))


def _load_with_origin(name: str) -> "tuple[Generative[Any], ModelRef]":
    """Load a model, and return it with the reference that its samples' metadata holds."""
    from aigc_ops.pipeline import chain
    from aigc_ops.sampling.metadata import ModelRef
    from aigc_ops.storage.checkpoints import load_model

    version = chain.version_of(name) if name.startswith("models:/") else None
    checkpoint = chain.resolve(version.uri if version else name)
    digest = checkpoint.manifest_digest
    model = load_model(Path(checkpoint.uri), expected=digest)
    return model, ModelRef(model=version and version.uri, manifest_digest=digest)
