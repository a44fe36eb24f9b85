"""Models at rest: folders written whole or not at all, checked by digest when read."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aigc_ops.artifacts import Checkpoint, file_digest
from aigc_ops.errors import CheckpointError
from aigc_ops.generative import FamilyConfig, Generative
from aigc_ops.models import family_type

MANIFEST = "manifest.json"
MODEL_JSON = "model.json"
WEIGHTS = "model.safetensors"
PROVENANCE = "provenance.json"
GRIDS = ("samples.png", "samples.txt")


def write_folder(target: Path, fill: Callable[[Path], None]) -> str:
    """Write a folder atomically with a SHA-256 manifest; return the manifest's digest.

    `fill` writes the files into a hidden sibling, which is synced to disk and renamed
    over `target` only when it is whole, so a kill leaves the old folder or the new one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{uuid.uuid4().hex}.partial"
    partial.mkdir()
    try:
        fill(partial)
        return _seal(partial, target)
    except OSError as error:
        raise CheckpointError(
            f"{target}: cannot be written ({error.strerror or error}); "
            "free space or choose another AIGC_OPS_HOME, then run again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _seal(partial: Path, target: Path) -> str:
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    entries = {
        path.relative_to(partial).as_posix(): {
            "sha256": file_digest(path),
            "bytes": path.stat().st_size,
        }
        for path in files
    }
    manifest = partial / MANIFEST
    manifest.write_text(json.dumps({"files": entries}, indent=2, sort_keys=True) + "\n")
    for path in [*files, manifest]:
        _sync(path)
    _sync(partial)
    digest = file_digest(manifest)
    if target.exists():
        retired = partial.with_suffix(".retired")
        target.rename(retired)
        partial.rename(target)
        shutil.rmtree(retired)
    else:
        partial.rename(target)
    _sync(target.parent)
    return digest


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_folder(folder: Path, *, expected: str | None = None) -> str:
    """Check every file against the manifest; return the manifest's SHA-256.

    Raises CheckpointError naming the first file that is missing, extra or changed.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise CheckpointError(f"{folder}: no {MANIFEST}; this is not a model folder")
    digest = file_digest(manifest)
    if expected is not None and digest != expected:
        raise CheckpointError(
            f"{folder}: manifest digest is {digest[:12]}, expected {expected[:12]}; "
            "the folder is not the one that was recorded"
        )
    entries = _read_manifest(manifest)
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    if extra := sorted(present - entries.keys() - {MANIFEST}):
        raise CheckpointError(f"{folder}: {extra[0]} is not in its manifest; do not trust it")
    for name, sha256 in entries.items():
        path = folder / name
        if name not in present or path.is_symlink():
            raise CheckpointError(f"{folder}: {name} is missing")
        if file_digest(path) != sha256:
            raise CheckpointError(f"{folder}: {name} is damaged (its SHA-256 differs)")
    return digest


def _read_manifest(manifest: Path) -> dict[str, str]:
    try:
        files = json.loads(manifest.read_text())["files"]
        return {name: entry["sha256"] for name, entry in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{manifest}: not a manifest ({error})") from error


@dataclass(frozen=True)
class StoredModel:
    """A model as it was at one moment, in memory of its own, ready to be written."""

    record: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: Generative) -> Self:
        """A copy of the model's weights on the CPU; those that share memory are kept once."""
        state = model.state_dict()
        record = {
            "family": model.config.family,
            "config": model.config.model_dump(mode="json"),
            "blueprint": model.blueprint(),
        }
        return cls(record, {names[0]: copied(state[names[0]]) for names in _shared(model).values()})

    def write(self, folder: Path) -> None:
        """Write weights (safetensors) and JSON into an existing folder."""
        save_file(dict(self.weights), folder / WEIGHTS)
        text = json.dumps(self.record, indent=2, ensure_ascii=False)
        (folder / MODEL_JSON).write_text(text + "\n")


def copied(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU, in memory of its own."""
    copy = tensor.detach().to("cpu", memory_format=torch.contiguous_format)
    return copy.clone() if copy.data_ptr() == tensor.data_ptr() else copy


def write_model(model: Generative, folder: Path) -> None:
    """Write a model's weights (safetensors) and its JSON into an existing folder."""
    StoredModel.of(model).write(folder)


def read_model_json(folder: Path) -> dict[str, Any]:
    """`{"family", "config", "blueprint"}` of a model folder."""
    try:
        record: dict[str, Any] = json.loads((folder / MODEL_JSON).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / MODEL_JSON}: unreadable ({error})") from error
    return record


def load_model(
    folder: Path, *, expected: str | None = None, config: FamilyConfig | None = None
) -> Generative:
    """The model of a verified folder, in eval mode on the CPU, in fp32.

    `config` takes the stored config's place, for training on with other settings. Only
    safetensors and JSON are read, never a pickle.
    """
    verify_folder(folder, expected=expected)
    record = read_model_json(folder)
    family = family_type(record["family"])
    if config is None:
        config = family.config_type.model_validate(record["config"])
    elif config.family != record["family"]:
        raise CheckpointError(
            f"{folder}: model.family is {record['family']!r} there and {config.family!r} here; "
            "a model starts from one of its own family"
        )
    with torch.random.fork_rng(devices=[]):
        model = family.from_blueprint(config, record["blueprint"])
    there, here = record["config"], config.model_dump(mode="json")
    try:
        load_weights(model, folder)
    except CheckpointError as error:
        if there == here:
            raise
        raise CheckpointError(
            f"{folder}: its weights do not fit this model: "
            f"{differences(there, here, prefix='model.')}; set what shapes the networks as there"
        ) from error
    return model.eval()


def differences(there: Mapping[str, Any], here: Mapping[str, Any], *, prefix: str = "") -> str:
    """The fields in which two records differ, by their dotted names, with both values."""
    found = []
    for name in dict.fromkeys([*there, *here]):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found.append(differences(old, new, prefix=f"{prefix}{name}."))
        elif old != new:
            found.append(f"{prefix}{name} is {old!r} there and {new!r} here")
    return ", ".join(filter(None, found))


def load_weights(model: Generative, folder: Path) -> None:
    """Fill a model with the weights of a folder, whose digests were checked before."""
    try:
        state = load_file(folder / WEIGHTS)
        for names in _shared(model).values():  # of which one name was stored
            stored = next((name for name in names if name in state), None)
            state |= {name: state[stored] for name in names if stored}
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: does not fit the model ({error})") from error


def _shared(model: Generative) -> dict[tuple[int, torch.Size], list[str]]:
    """Names of the model's weights by the memory they lie in, in order."""
    names: dict[tuple[int, torch.Size], list[str]] = {}
    state = model.state_dict()
    for name in sorted(state):
        names.setdefault((state[name].data_ptr(), state[name].shape), []).append(name)
    return names


def read_checkpoint(folder: Path) -> Checkpoint:
    """The noun of a verified model folder, from its own records."""
    digest = verify_folder(folder)
    family = read_model_json(folder)["family"]
    provenance = read_provenance(folder)
    try:
        return Checkpoint(
            uri=str(folder),
            manifest_digest=digest,
            family=family,
            modality=family_type(family).modality,
            step=provenance["step"],
            dataset_digest=provenance["dataset_digest"],
            run_id=provenance["run_id"],
            rate=provenance["rate"],
            grid_uri=next((str(folder / g) for g in GRIDS if (folder / g).is_file()), None),
        )
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / PROVENANCE}: incomplete ({error})") from error


def read_provenance(folder: Path) -> dict[str, Any]:
    """What training recorded of a model folder: step, data, seed, run, config, revision."""
    try:
        record: dict[str, Any] = json.loads((folder / PROVENANCE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / PROVENANCE}: unreadable ({error})") from error
    return record
