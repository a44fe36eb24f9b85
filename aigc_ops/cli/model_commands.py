"""The commands that list models and use one: models, serve, sample, chat, export."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc_ops.core.artifacts import contract_differences
from aigc_ops.core.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from aigc_ops.interfaces.model import Generative
    from aigc_ops.interfaces.row import Row
    from aigc_ops.registry.versions import ModelRow
    from aigc_ops.sampling.metadata import ModelRef

Answer = dict[str, Any]
DEFAULT_FRAMES = 8
MAX_NAMES = 20  # of classes that an error lists


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
    """Generate samples, an interpolation or reconstructions, and write them to a folder."""
    from aigc_ops.cli.config_flags import control_values

    # Before the model is loaded, which takes seconds: a mistyped control fails at once.
    _check_sample_flags(arguments)
    controls = control_values(arguments.controls)
    if arguments.interpolate:
        return _interpolate(arguments, controls)
    if arguments.reconstruct is not None:
        return _reconstruct(arguments)
    return _sample(arguments, controls)


def _sample(
    arguments: argparse.Namespace, controls: Mapping[str, float]
) -> tuple[Answer, list[str]]:
    from aigc_ops.interfaces.discovery import find_modality
    from aigc_ops.sampling import sampler
    from aigc_ops.sampling.files import write_samples

    model, origin = _load_with_origin(arguments.model)
    requests = sampler.requests(
        model,
        1 if arguments.num is None else arguments.num,
        seed=arguments.seed or 0,
        conditions={
            "label": _label(arguments, model),
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


def _interpolate(
    arguments: argparse.Namespace, controls: Mapping[str, float]
) -> tuple[Answer, list[str]]:
    from aigc_ops.interfaces.discovery import find_modality
    from aigc_ops.interfaces.latents import Interpolates
    from aigc_ops.sampling import latents, sampler
    from aigc_ops.sampling.files import INTERPOLATION, write_samples

    model, origin = _load_with_origin(arguments.model, able="interpolate", interface=Interpolates)
    conditions = {"label": _label(arguments, model)}
    # The index of both is 0, so that without --label both have the first class.
    start, end = (
        sampler.requests(model, 1, seed=seed, conditions=conditions, controls=controls)[0]
        for seed in arguments.interpolate
    )
    num = DEFAULT_FRAMES if arguments.num is None else arguments.num
    samples = latents.interpolate(_on_device(model), start, end, num)
    out, modality = Path(arguments.out), find_modality(model.modality)
    requests, frames = latents.frames(start, end, num)
    names = write_samples(modality, samples, requests, out, origin=origin, frames=frames)
    picture = next(str(out / name) for name in names if Path(name).stem == INTERPOLATION)
    answer = {"out": str(out), "num": num, "seeds": arguments.interpolate, "picture": picture}
    line = f"{num} samples in {out}, from seed {start.seed} to {end.seed}; all of them: {picture}"
    return answer, [line]


def _reconstruct(arguments: argparse.Namespace) -> tuple[Answer, list[str]]:
    from aigc_ops.data.folder import SampleFolder
    from aigc_ops.interfaces.discovery import find_modality
    from aigc_ops.interfaces.labels import label_index
    from aigc_ops.interfaces.latents import Reconstructs
    from aigc_ops.sampling.latents import Reconstruction

    model, origin = _load_with_origin(arguments.model, able="reconstruct", interface=Reconstructs)
    modality, names, out = find_modality(model.modality), model.class_names, Path(arguments.out)
    if modality.reconstruction is None:
        raise ModelError(f"{modality.unit} cannot be read for a reconstruction")
    folder = SampleFolder.open(
        arguments.reconstruct, model.modality, allow_unread=arguments.allow_unread
    )
    given = _label(arguments, model)

    def label_of(row: "Row") -> int | None:
        label = label_index(row.label, names) if given is None else given
        if names and (label is None or not 0 <= label < len(names)):
            known = ", ".join(names[:MAX_NAMES]) + ", …" * (len(names) > MAX_NAMES)
            raise DataError(
                f"{row.name}: this model needs the class of each picture; name the sub-folders of "
                f"{arguments.reconstruct} like the classes ({known}), or give one to all by --label"
            )
        return label if names else None

    made = Reconstruction(_on_device(model), modality.reconstruction, origin)
    picture = str(made.write(((row, label_of(row)) for row in folder.rows()), out))
    reading = folder.reading(made.num, names if given is None else ())
    metric, definition = modality.reconstruction.metric, modality.reconstruction.definition
    shown = "infinite: all are equal" if made.score is None else f"{made.score:.4g}"
    answer = {"out": str(out), "num": made.num, metric: made.score, "definition": definition}
    answer |= {"picture": picture}
    lines = [
        *reading.lines(),
        f"{metric}: {shown} ({definition})",
        f"{made.num} reconstructions in {out}; beside their sources: {picture}",
    ]
    return answer | reading.model_dump(mode="json"), lines


def _check_sample_flags(arguments: argparse.Namespace) -> None:
    """Raise ConfigError for flags of `sample` that do not go together."""
    given = {
        "--num": arguments.num is not None,
        "--seed": arguments.seed is not None,
        "--prompt": arguments.prompt is not None,
        "--stop": bool(arguments.stop),
        "--set": bool(arguments.controls),
        "--interpolate": arguments.interpolate is not None,
        "--reconstruct": arguments.reconstruct is not None,
        "--allow-unread": arguments.allow_unread,
    }
    unfit = {
        "--reconstruct": ("--interpolate", "--num", "--seed", "--prompt", "--stop", "--set"),
        "--interpolate": ("--seed", "--prompt", "--stop"),
    }
    for flag, others in unfit.items():
        for other in others if given[flag] else ():
            if given[other]:
                raise ConfigError(f"{flag} does not go together with {other}; leave one out")
    if given["--allow-unread"] and not given["--reconstruct"]:
        raise ConfigError("--allow-unread is about the files of --reconstruct; leave it out")


def _label(arguments: argparse.Namespace, model: "Generative[Any]") -> int | None:
    """Return the label that `--label` gives by number or name; None without it."""
    from aigc_ops.sampling import sampler

    word = arguments.label
    return None if word is None else sampler.class_label(model, word)


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


def models_command(_: argparse.Namespace, __: Sequence[str]) -> tuple[Answer, list[str]]:
    """List the registered versions."""
    from aigc_ops.registry.client import address
    from aigc_ops.registry.versions import models

    rows = models()
    champions = {row.name: row for row in rows if "champion" in row.aliases}
    lines = [
        f"{row.name}/{row.version}  {','.join(row.aliases) or '-'}  {row.family}  "
        + (f"{row.primary} {row.score:.4g}" if row.score is not None else "not scored")
        + _not_comparable(row, champions.get(row.name))
        for row in rows
    ]
    answer = {"models": [row.model_dump(mode="json") for row in rows]}
    return answer, lines or [f"no model is registered in {address()}; run: aigc-ops run CONFIG"]


def _not_comparable(row: "ModelRow", champion: "ModelRow | None") -> str:
    """Return a note if a version's score cannot be compared with the champion's, else ""."""
    # Different primary metrics are visible in the list; different conditions are not.
    if champion is None or not row.primary or row.primary != champion.primary:
        return ""
    terms = contract_differences(row.scores[row.primary], champion.scores[row.primary])
    return f"  not comparable with the champion's: other {', '.join(terms)}" if terms else ""


COMMANDS = {
    "models": models_command,
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


def _load_with_origin(
    name: str, *, able: str = "", interface: Any = None
) -> "tuple[Generative[Any], ModelRef]":
    """Load a model, and return it with the reference that its samples' metadata holds.

    Before it is loaded, ModelError is raised if its family lacks an optional interface.
    """
    from aigc_ops.pipeline import chain
    from aigc_ops.sampling.metadata import ModelRef
    from aigc_ops.storage.checkpoints import load_model

    version = chain.version_of(name) if name.startswith("models:/") else None
    checkpoint = chain.resolve(version.uri if version else name)
    if interface is not None:
        _require_family(checkpoint.family, able, interface)
    digest = checkpoint.manifest_digest
    model = load_model(Path(checkpoint.uri), expected=digest)
    return model, ModelRef(model=version and version.uri, manifest_digest=digest)


def _require_family(family: str, able: str, interface: Any) -> None:
    """Raise ModelError naming the families that can, unless the family has an interface."""
    from aigc_ops.models import family_names, family_type

    if not issubclass(family_type(family), interface):
        able_ones = [each for each in family_names() if issubclass(family_type(each), interface)]
        raise ModelError(
            f"a model of the family {family} cannot {able}; these families can: "
            f"{', '.join(able_ones)}"
        )
