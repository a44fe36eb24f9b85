"""Models at rest: weights in safetensors, JSON beside them, read from verified folders alone."""

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
    """A model as it was at one moment, in memory of its own, ready to be written."""

    record: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, model: Generative[Any]) -> Self:
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


def write_model(model: Generative[Any], folder: Path) -> None:
    """Write a model's weights (safetensors) and its JSON into an existing folder."""
    StoredModel.of(model).write(folder)


def load_model(
    folder: Path, *, expected: str | None = None, config: FamilyConfig | None = None
) -> Generative[Any]:
    """The model of a verified folder, in eval mode on the CPU, in fp32.

    `config` takes the stored config's place, for training on with other settings. Only
    safetensors and JSON are read, never a pickle.
    """
    verify_folder(folder, expected=expected)
    record = read_model_json(folder)
    family = family_type(record["family"])
    if config is None:
        config = _stored(folder, family, record["config"])
    elif config.family != record["family"]:
        raise CheckpointError(
            f"{folder}: model.family is {record['family']!r} there and {config.family!r} here; "
            "a model starts from one of its own family"
        )
    with torch.random.fork_rng(devices=[]):
        try:
            model = family.from_blueprint(config, record["blueprint"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{folder / MODEL_JSON}: its blueprint is none of a {config.family} ({error!r})"
            ) from error
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


def _stored(folder: Path, family: type[Generative[Any]], config: Any) -> FamilyConfig:
    """The config that a folder records; raises CheckpointError naming what does not fit."""
    try:
        return family.config_type.model_validate(config)
    except ValidationError as error:
        misfits = ", ".join(
            f"{'.'.join(map(str, ('model', *each['loc'])))}: {each['msg']}"
            for each in error.errors()
        )
        raise CheckpointError(
            f"{folder / MODEL_JSON}: not a config of this version of aigc-ops ({misfits})"
        ) from error


def load_weights(model: Generative[Any], folder: Path) -> None:
    """Fill a model with the weights of a folder, whose digests were checked before."""
    try:
        state = load_file(folder / WEIGHTS)
        for names in _shared(model).values():  # of which one name was stored
            stored = next((name for name in names if name in state), None)
            state |= {name: state[stored] for name in names if stored}
        model.load_state_dict(state)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{folder / WEIGHTS}: does not fit the model ({error})") from error


def _shared(model: Generative[Any]) -> dict[tuple[int, torch.Size], list[str]]:
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
            grid_uri=next((str(path) for path in sorted(folder.glob(PREVIEW))), None),
        )
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / PROVENANCE}: incomplete ({error})") from error
