"""Settings of the training loop."""

import math
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from aigc_ops.compute.devices import DeviceName, PrecisionName
from aigc_ops.core.artifacts import Checkpoint, DatasetRef, json_digest
from aigc_ops.core.input_paths import InputPath, collect_inputs, path_digest
from aigc_ops.core.stable_values import stable_values
from aigc_ops.data.config import DataConfig
from aigc_ops.interfaces.model import FamilyConfig


class WatchConfig(BaseModel):
    """When training is checked, and the reaction when it has failed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    added_fields: ClassVar[frozenset[str]] = frozenset()
    """Like `TrainingConfig.added_fields`."""

    every: int = Field(default=100, ge=1, description="Steps between checks of the samples.")
    action: Literal["off", "warn", "stop", "roll_back"] = Field(
        default="stop",
        description="On collapse: warn, stop, or roll back to the last healthy checkpoint. "
        "off: no checks, except for early stopping.",
    )
    grace_steps: int = Field(
        default=1000,
        ge=0,
        description="Steps before alarms count; fewer once the model was healthy.",
    )
    patience: int = Field(
        default=3, ge=1, description="Consecutive unhealthy checks that fail a run."
    )
    max_rollbacks: int = Field(default=2, ge=0, description="Rollbacks before the run stops.")
    rollback_learning_rate: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Factor by which each rollback multiplies the learning rates.",
    )
    early_stopping: int = Field(
        default=0,
        ge=0,
        description=(
            "Stop after this many consecutive checkpoints without improvement of the family's "
            "metric, and return the best one. 0: never."
        ),
    )


class TrainingConfig(BaseModel):
    """Settings of the training loop."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    added_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields added after version 0.1, which are left out of the run key at their default.

    Name every new field here, or all unfinished runs start again from step 0.
    """

    steps: int = Field(default=2000, ge=1, description="Optimisation steps.")
    batch_size: int = Field(default=64, ge=1, description="Examples per batch, over all processes.")
    micro_batches: int = Field(
        default=1,
        ge=1,
        description="Micro-batches per batch, computed one after another to save memory.",
    )
    halve_on_out_of_memory: bool = Field(
        default=True,
        description="When memory runs out, continue with at least twice as many micro-batches.",
    )
    device: DeviceName = Field(default="auto", description="auto: CUDA, then MPS, then the CPU.")
    precision: PrecisionName = Field(
        default="auto",
        description="auto: bf16 autocast where the hardware has it; else fp16 on CUDA, else fp32.",
    )
    compile: bool = Field(default=False, description="Compile the networks with torch.compile.")
    cuda_graphs: bool = Field(
        default=True,
        description="On one CUDA GPU, record a step as a CUDA graph and replay it.",
    )
    deterministic: bool = Field(
        default=False,
        description="Use only deterministic kernels, which are slower on a GPU.",
    )
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="Learning rate schedule after the warm-up."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps of linear warm-up from 0.")
    final_learning_rate: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Final over initial learning rate of the cosine schedule.",
    )
    max_gradient_norm: float | None = Field(
        default=None,
        gt=0,
        description="Clip the gradient norm of each part of the model; empty: never.",
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Decay per step of the EMA of the weights that sample; 0: no EMA.",
    )
    init_from: InputPath | None = Field(
        default=None,
        description="Start from these weights: models:/NAME@champion or a checkpoint folder.",
    )
    watch: WatchConfig = Field(default=WatchConfig(), description="Collapse and early stopping.")
    log_every: int = Field(default=20, ge=1, description="Steps between logged metrics.")
    sample_every: int = Field(default=500, ge=1, description="Steps between previews of samples.")
    checkpoint_every: int = Field(default=500, ge=1, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(
        default=2, ge=1, description="Newest checkpoints to keep, in addition to the best one."
    )
    profile_steps: int = Field(
        default=0, ge=0, description="Steps to profile into trace.json, after a warm-up; 0: none."
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.micro_batches:
            raise ValueError(
                f"micro_batches {self.micro_batches} does not divide batch_size {self.batch_size}"
            )
        return self

    def outcome(self) -> dict[str, Any]:
        """Return the settings that decide the weights, which a resumed run must share."""
        # Settings that only observe the run, or choose how the same step is computed.
        observing = {"device", "log_every", "sample_every", "checkpoint_every", "keep_checkpoints"}
        observing |= {"halve_on_out_of_memory", "init_from", "profile_steps", "cuda_graphs"}
        if self.watch.early_stopping or self.watch.action == "roll_back":
            # These decide which checkpoint is best or healthy, and so the final weights.
            observing -= {"checkpoint_every", "log_every"}
        return stable_values(self, exclude=observing)

    def learning_rate_factor(self, step: int) -> float:
        """Return the factor on the learning rates at a step from 0 (Loshchilov & Hutter 2017)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        # Eq. 5, with one cycle over the steps after the warm-up.
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        wave = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.final_learning_rate + (1 - self.final_learning_rate) * wave


def run_key(
    model: FamilyConfig,
    config: TrainingConfig,
    dataset: DatasetRef,
    data: DataConfig,
    *,
    seed: int | None,
    initial: Checkpoint | None = None,
    canaries: int = 0,
) -> str:
    """Return the key of a training run: 16 hex digits over all that decides its weights.

    With `seed` None it is the key of the config: of all runs that differ by their seed alone.
    The key of a config must never change, because unfinished runs are found by it. A new field
    goes into the `added_fields` of its config.
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
    # Local files are named by their content, since a path says nothing about it. Names on the
    # Hugging Face hub have no local path and stand for themselves.
    local = {
        name: Path(path) for name, path in collect_inputs(model).items() if Path(path).exists()
    }
    # Runs without canaries keep the key that they had before there were any.
    if canaries:
        decisive["canaries"] = canaries
    if local:
        decisive["files"] = {name: path_digest(path) for name, path in local.items()}
    return json_digest(decisive)[:16]
