"""Short training runs of a case, and the comparison of their checkpoints."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from aigc_ops.core.artifacts import Checkpoint, DatasetRef
from aigc_ops.core.tracking import SilentTracker
from aigc_ops.laws.cases import Case
from aigc_ops.training import RunFolder, TrainingConfig, TrainingJob, train

FILES = ("model.safetensors", "training.safetensors")


def trained(case: Case, folder: Path, **settings: object) -> Checkpoint:
    """Train a case's model, or resume the run in the folder; return the last checkpoint."""
    dataset = DatasetRef(
        uri="memory",
        modality=case.modality.name,
        content_digest="0" * 64,
        num_train=len(case.data),
        num_heldout=0,
    )
    defaults = {"batch_size": 8, "watch": {"action": "off"}}
    return train(
        TrainingJob(
            model=case.config,
            config=TrainingConfig.model_validate({**defaults, **settings}),
            dataset=dataset,
            read_data=lambda _: case.data,
            seed=1,
            folder=RunFolder(folder),
            tracker=SilentTracker(),
        )
    )


def assert_bit_equal(one: Path, other: Path) -> None:
    """Assert that two checkpoints hold the same weights and training state."""
    for name in FILES:
        left, right = load_file(one / name), load_file(other / name)
        assert left.keys() == right.keys(), f"{name}: {left.keys() ^ right.keys()}"
        for key, tensor in left.items():
            assert torch.equal(tensor, right[key]), f"{name}: {key}"
