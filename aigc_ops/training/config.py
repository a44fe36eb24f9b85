"""Settings of the training loop."""

import math
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aigc_ops.compute.devices import DeviceName, PrecisionName
from aigc_ops.core.artifacts import Checkpoint, DatasetRef, json_digest
from aigc_ops.core.input_paths import Reference, content_digest, references
from aigc_ops.core.stable_values import stable_values
from aigc_ops.data.config import DataConfig
from aigc_ops.interfaces.model import FamilyConfig


class WatchConfig(BaseModel):
    """When training is judged, and what follows when it has failed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    added_fields: ClassVar[frozenset[str]] = frozenset()
    """As those of `TrainingConfig`."""

    every: int = Field(default=100, ge=1, description="Steps between looks at the samples.")
    action: Literal["off", "warn", "stop", "roll_back"] = Field(
        default="stop",
        description="On collapse: warn, stop, or go on from the last healthy checkpoint; off: "
        "look at no samples, but for early stopping.",
    )
    grace_steps: int = Field(
        default=1000,
        ge=0,
        description="Steps before an unhealthy model counts as failed; fewer once it was healthy.",
    )
    patience: int = Field(default=3, ge=1, description="Unhealthy looks in a row that fail a run.")
    max_rollbacks: int = Field(default=2, ge=0, description="Rollbacks before the run stops.")
    rollback_learning_rate: float = Field(
        default=0.5, gt=0, le=1, description="Factor on the learning rates at each rollback."
    )
    early_stopping: int = Field(
        default=0,
        ge=0,
        description=(
            "Checkpoints in a row no better than an earlier one, by the family's metric, after "
            "which training ends with the best; 0: never."
        ),
    )


class TrainingConfig(BaseModel):
    """How long, how fast and how carefully to train."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    added_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after version 0.1; at their default they are left out of the run key.

    Name every new field here, else all unfinished runs start anew from step 0.
    """

    steps: int = Field(default=2000, ge=1, description="Batches to train on.")
    batch_size: int = Field(default=64, ge=1, description="Examples in a batch.")
    micro_batches: int = Field(
        default=1,
        ge=1,
        description="Parts in which a batch is computed one after another, to save memory.",
    )
    halve_on_out_of_memory: bool = Field(
        default=True,
        description="When memory runs out, halve the micro-batches and go on, with a warning.",
    )
    device: DeviceName = Field(default="auto", description="auto: CUDA, then MPS, then the CPU.")
    precision: PrecisionName = Field(
        default="auto",
        description="auto: bf16 autocast where the hardware has it; else fp16 on CUDA, else fp32.",
    )
    compile: bool = Field(default=False, description="Compile the networks with torch.compile.")
    cuda_graphs: bool = Field(
        default=True,
        description="On one CUDA GPU, record a step's kernels once and replay them.",
    )
    deterministic: bool = Field(
        default=False,
        description="Only deterministic kernels, also on a GPU, where they cost time.",
    )
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Course of the learning rates after the warm-up."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up from 0.")
    final_learning_rate: float = Field(
        default=0.0, ge=0, le=1, description="Share of the learning rate left by the cosine's end."
    )
    max_gradient_norm: float | None = Field(
        default=None, gt=0, description="Clip each part's gradients to this norm; empty: never."
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Moving average of the weights that sample, per step; 0 keeps none.",
    )
    init_from: Reference | None = Field(
        default=None,
        description="Start from these weights: models:/NAME@champion or a checkpoint folder.",
    )
    watch: WatchConfig = Field(default=WatchConfig(), description="Collapse and early stopping.")
    log_every: int = Field(default=20, ge=1, description="Steps between logged metrics.")
    sample_every: int = Field(default=500, ge=1, description="Steps between sample grids or texts.")
    checkpoint_every: int = Field(default=500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Newest checkpoints to keep, beside the best one."
    )
    profile_steps: int = Field(
        default=0, ge=0, description="Steps to profile after the warm-up, into trace.json; 0: none."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"micro_batches is {self.micro_batches}, which does not divide the batch_size of "
                f"{self.batch_size}"
            )
        return self

    def outcome(self) -> dict[str, Any]:
        """The settings that decide the weights, which a resumed run must share."""
        observing = {"device", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints"}
        observing |= {"halve_on_out_of_memory", "init_from", "profile_steps", "cuda_graphs"}
        if self.watch.early_stopping or self.watch.action == "roll_back":
            observing -= {"checkpoint_every", "log_every"}  # which step is gone back to
        return stable_values(self, exclude=observing)

    def learning_rate_factor(self, step: int) -> float:
        """Share of the learning rates at a step, counted from 0 (Loshchilov & Hutter 2017)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        wave = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.final_learning_rate + (1 - self.final_learning_rate) * wave


def run_key(
    model: FamilyConfig,
    config: TrainingConfig,
    dataset: DatasetRef,
    data: DataConfig,
    *,
    seed: int,
    initial: Checkpoint | None = None,
) -> str:
    """Return the name of a training run by all that decides its weights: 16 hex digits.

    The key of a config must stay what it is: unfinished runs are found by it. A new field goes
    into the `added_fields` of its config.
    """
    decisive = {
        "model": stable_values(model),
        "training": config.outcome(),
        "dataset": dataset.content_digest,
        "reading": data.decisive_values(),
        "shape": dataset.sample_shape,
        "seed": seed,
        "initial": initial and initial.manifest_digest,
    }
    # What is named on the hub is pinned by its name.
    local = {name: Path(path) for name, path in references(model).items() if Path(path).exists()}
    if local:
        decisive["files"] = {name: content_digest(path) for name, path in local.items()}
    return json_digest(decisive)[:16]
