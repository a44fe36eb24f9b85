"""Settings of the training loop."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from aigc_ops.artifacts import Checkpoint, DatasetRef, json_digest
from aigc_ops.data.config import DataConfig
from aigc_ops.devices import DeviceName, PrecisionName
from aigc_ops.generative import FamilyConfig


class TrainingConfig(BaseModel):
    """How long, how fast and how carefully to train."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=2000, ge=1, description="Batches to train on.")
    batch_size: int = Field(default=64, ge=1, description="Examples in a batch.")
    device: DeviceName = Field(default="auto", description="auto: CUDA, then MPS, then the CPU.")
    precision: PrecisionName = Field(
        default="auto", description="auto: bf16 autocast where the processor has it, else fp32."
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Moving average of the weights that sample, per step; 0 keeps none.",
    )
    init_from: str | None = Field(
        default=None,
        description="Start from these weights: models:/NAME@champion or a checkpoint folder.",
    )
    log_every: int = Field(default=20, ge=1, description="Steps between logged metrics.")
    sample_every: int = Field(default=500, ge=1, description="Steps between sample grids or texts.")
    checkpoint_every: int = Field(default=500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(default=2, ge=1, description="Newest checkpoints to keep.")

    def outcome(self) -> dict[str, Any]:
        """The settings that decide the weights, which a resumed run must share."""
        observing = {"device", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints"}
        return self.model_dump(mode="json", exclude=observing | {"init_from"})


def run_key(
    model: FamilyConfig,
    config: TrainingConfig,
    dataset: DatasetRef,
    data: DataConfig,
    *,
    seed: int,
    initial: Checkpoint | None = None,
) -> str:
    """Names a training run by all that decides its weights: 16 hex digits."""
    return json_digest(
        {
            "model": model.model_dump(mode="json"),
            "training": config.outcome(),
            "dataset": dataset.content_digest,
            "reading": data.model_dump(mode="json", exclude={"path"}),
            "shape": dataset.image_shape and dataset.image_shape.model_dump(mode="json"),
            "seed": seed,
            "initial": initial and initial.manifest_digest,
        }
    )[:16]
