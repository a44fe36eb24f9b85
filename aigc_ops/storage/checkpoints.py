"""Models on disk: weights in safetensors with JSON metadata, read from verified folders only."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aigc_ops.core.artifacts import Checkpoint, differences
from aigc_ops.core.atomic_dirs import (
    MODEL_JSON,
    PROVENANCE,
    read_model_json,
    read_provenance,
    verify_folder,
)
from aigc_ops.core.errors import CheckpointError
from aigc_ops.interfaces.model import FamilyConfig, Generative
from aigc_ops.models import family_type

WEIGHTS = "model.safetensors"
PREVIEW = "samples.*"


@dataclass(frozen=True)
class StoredModel:
    """A snapshot of a model in memory, ready to be written while training continues."""

    record: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: Generative[Any]) -> Self:
        """Copy a model's weights to the CPU; tied weights are copied once."""
        state = model.state_dict()
        record = {
            "family": model.config.family,
            "config": model.config.model_dump(mode="json"),
            "blueprint": model.blueprint(),
        }
        names = [names[0] for names in _shared(model).values()]
        return cls(record, {name: cpu_copy(state[name]) for name in names})

    def write(self, folder: Path) -> None:
        """Write weights (safetensors) and JSON into an existing folder."""
        save_file(dict(self.weights), folder / WEIGHTS)
        text = json.dumps(self.record, indent=2, ensure_ascii=False)
        (folder / MODEL_JSON).write_text(text + "\n", encoding="utf-8")


def cpu_copy(tensor: Tensor) -> Tensor:
    """Return a contiguous copy on the CPU that shares no memory with the tensor."""
    # `to` returns the tensor itself where it is on the CPU and contiguous already.
    copy = tensor.detach().to("cpu", memory_format=torch.contiguous_format)
    return copy.clone() if copy.data_ptr() == tensor.data_ptr() else copy


def write_model(model: Generative[Any], folder: Path) -> None:
    """Write a model's weights (safetensors) and its JSON into an existing folder."""
    StoredModel.of(model).write(folder)


def load_model(
    folder: Path, *, expected: str | None = None, config: FamilyConfig | None = None
) -> Generative[Any]:
    """Load the model of a verified folder, in eval mode on the CPU, in fp32.

    `config` replaces the stored config, for training with other settings. Only safetensors and
    JSON are read, never a pickle. Raises CheckpointError for a damaged or unsuitable folder.
    """
    # 1. Verify digests before any content is read.
    verify_folder(folder, expected=expected)
    record = read_model_json(folder)
    family = family_type(record["family"])
    if config is None:
        config = _stored_config(folder, family, record["config"])
    elif config.family != record["family"]:
        raise CheckpointError(
            f"{folder}: model.family is {record['family']!r} in this folder and {config.family!r} "
            "in the config; training can only start from a model of the same family"
        )
    # 2. Build the networks. Initial weights consume random numbers, of which loading a model must
    # leave the caller's as they were.
    with torch.random.fork_rng(devices=[]):
        try:
            model = family.from_blueprint(config, record["blueprint"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder / MODEL_JSON}: its blueprint does not describe a {config.family} "
                f"({error!r}); train the model again"
            ) from error
    # 3. Load the weights. With another config their misfit is explained by the fields that differ.
    stored, current = record["config"], config.model_dump(mode="json")
    try:
        load_weights(model, folder)
    except CheckpointError as error:
        if stored == current:
            raise
        raise CheckpointError(
            f"{folder}: its weights do not fit this model: "
            f"{differences(stored, current, prefix='model.')}; use the stored values for fields "
            "that shape the networks"
        ) from error
    return model.eval()


def _stored_config(folder: Path, family: type[Generative[Any]], config: Any) -> FamilyConfig:
    """Return a folder's config; raises CheckpointError naming the invalid fields."""
    try:
        return family.config_type.model_validate(config)
    except ValidationError as error:
        problems = ", ".join(
            f"{'.'.join(map(str, ('model', *problem['loc'])))}: {problem['msg']}"
            for problem in error.errors()
        )
        raise CheckpointError(
            f"{folder / MODEL_JSON}: not a config of this version of aigc-ops ({problems})"
        ) from error


def load_weights(model: Generative[Any], folder: Path) -> None:
    """Load the weights of a folder, which the caller has verified, into a model."""
    try:
        state = load_file(folder / WEIGHTS)
        # Tied weights are stored under one of their names, since safetensors refuses shared memory.
        # Any of the names is accepted.
        for names in _shared(model).values():
            stored = next((name for name in names if name in state), None)
            state |= {name: state[stored] for name in names if stored}
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: does not fit the model ({error})") from error


def _shared(model: Generative[Any]) -> dict[tuple[int, torch.Size], list[str]]:
    """Return the names of the model's weights by memory address and shape, sorted."""
    # The shape too, because views of one buffer may begin at the same address.
    names: dict[tuple[int, torch.Size], list[str]] = {}
    state = model.state_dict()
    for name in sorted(state):
        names.setdefault((state[name].data_ptr(), state[name].shape), []).append(name)
    return names


def read_checkpoint(folder: Path) -> Checkpoint:
    """Return the Checkpoint record of a model folder, after verifying it."""
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
            grid_uri=next((str(path) for path in sorted(folder.glob(PREVIEW))), None),
        )
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / PROVENANCE}: incomplete ({error})") from error
