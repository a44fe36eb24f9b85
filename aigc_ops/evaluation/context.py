"""Inputs for the evaluation hooks of a modality: loaded models, data and settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from aigc_ops.compute.devices import choose_device
from aigc_ops.core.artifacts import Checkpoint, DatasetRef, json_digest
from aigc_ops.core.atomic_dirs import MODEL_JSON, read_manifest
from aigc_ops.data import DataConfig, Dataset, open_dataset
from aigc_ops.evaluation.config import EvaluationConfig
from aigc_ops.interfaces.evaluation import EvaluationContext, LoadedModel
from aigc_ops.storage.checkpoints import WEIGHTS, load_model


def make_context(
    ref: DatasetRef, data_config: DataConfig, config: EvaluationConfig, *, seed: int, cache: Path
) -> EvaluationContext:
    """Return the context for evaluations on a dataset."""

    def open_other(path: str, **settings: Any) -> tuple[DatasetRef, Callable[..., Any]]:
        # Other data, such as texts to measure forgetting on, must have the same modality.
        other = DataConfig(path=path, modality=ref.modality, **settings)
        dataset = open_dataset(other)
        return dataset, Dataset(dataset, other).read

    return EvaluationContext(
        ref=ref,
        read=Dataset(ref, data_config).read,
        open_other=open_other,
        data_settings=data_config.stable_dump(),
        settings=config,
        section=config.section(ref.modality),
        seed=seed,
        cache=cache,
    )


def load(checkpoint: Checkpoint, config: EvaluationConfig, *, name: str = "") -> LoadedModel:
    """Return the checkpoint's model on its device, in eval mode; `name` is for progress bars."""
    folder = Path(checkpoint.uri)
    # The digest is checked again: the folder may have changed since the checkpoint was made.
    model = load_model(folder, expected=checkpoint.manifest_digest)
    # Weights and architecture only. The manifest's digest also covers provenance, so equal models
    # of two runs would not share cached samples.
    digests = read_manifest(folder)
    return LoadedModel(
        checkpoint=checkpoint,
        model=model.to(choose_device(config.device)).eval(),
        content_digest=json_digest([digests[WEIGHTS], digests[MODEL_JSON]]),
        name=name,
    )
