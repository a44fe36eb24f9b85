"""Everything a run needs to go on as if it had never stopped."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import _SpectralNorm

from aigc_ops.compute.devices import Precision
from aigc_ops.core.errors import CheckpointError
from aigc_ops.core.state_dir import num_processes
from aigc_ops.interfaces.model import Generative
from aigc_ops.storage.checkpoints import StoredModel, copied, load_weights

TENSORS = "training.safetensors"
RECORD = "training.json"
NUM_ITERATIONS = 20


class Averages:
    """Exponential moving averages of the parts that sample, batch statistics included.

    The decay warms up as min(decay, (1 + step) / (10 + step)), so early weights fade. Spectral
    norm's singular vectors are not averaged, which would shorten them: those of the averaged
    weights are sought, beginning from the live ones.
    """

    def __init__(self, model: Generative[Any], decay: float) -> None:
        parts = model.parts()
        self.decay = decay
        tensors = {
            tensor.data_ptr(): (
                f"{part}.{name}",
                tensor.detach(),
            )  # once, where names share weights
            for part in sorted(model.averaged_parts if decay else ())
            for name, tensor in parts[part].state_dict(keep_vars=True).items()
            if tensor.is_floating_point() and (tensor.requires_grad or not _is_parameter(tensor))
        }
        self.live = dict(tensors.values())
        self.mean = {name: tensor.detach().clone() for name, tensor in self.live.items()}
        self._norms = {
            f"{part}.{name}": module.dim
            for part in parts
            for name, module in parts[part].named_modules()
            if isinstance(module, _SpectralNorm) and f"{part}.{name}._u" in self.live
        }
        vectors = {f"{name}.{vector}" for name in self._norms for vector in ("_u", "_v")}
        self._averaged = [name for name in self.live if name not in vectors]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the live weights after step number `step`."""
        if self.live:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(
                [self.mean[name] for name in self._averaged],
                [self.live[name].detach() for name in self._averaged],
                1 - decay,
            )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages stand in the model's place until the block ends."""
        self._seek_vectors()
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _seek_vectors(self) -> None:
        """Power iteration on each averaged weight (Miyato et al. 2018, algorithm 1)."""
        for name, dim in self._norms.items():
            matrix = self.mean[f"{name[:-1]}original"].movedim(dim, 0).flatten(1)
            u, v = self.live[f"{name}._u"], self.live[f"{name}._v"]
            for _ in range(NUM_ITERATIONS):
                u = functional.normalize(matrix @ v, dim=0)
                v = functional.normalize(matrix.T @ u, dim=0)
            self.mean[f"{name}._u"].copy_(u)
            self.mean[f"{name}._v"].copy_(v)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self.live.items():
            kept = live.detach().clone()
            live.copy_(self.mean[name])
            self.mean[name].copy_(kept)


@dataclass
class Progress:
    """What a run knows of itself beside its tensors."""

    step: int = 0
    attempt: int = 0
    """Rollbacks so far: each goes on with other noise, order and learning rates."""
    is_healthy: bool = True
    """Whether no alarm rang at the last look, a young model's included."""
    was_healthy: bool = False
    last_healthy: int = 0
    """Step of the newest checkpoint that is sound, and at which no alarm rang."""
    unproven: int = 0
    """Step of a checkpoint whose weights no finite loss has shown to be sound yet; 0: none."""
    ringing: dict[str, int] = field(default_factory=dict)
    """Looks in a row at which each alarm has rung."""
    least_losses: dict[str, float] = field(default_factory=dict)
    """The least mean of each loss between two looks so far."""
    best_step: int = 0
    best_value: float | None = None
    checkpoints_since_best: int = 0

    def note_kept(self) -> None:
        """A checkpoint of this step is written; the next step's loss tells whether it is sound."""
        self.unproven = self.step

    def note_proven(self) -> None:
        """The newest checkpoint has led to a finite loss; if healthy, it may be gone back to."""
        if self.is_healthy:
            self.last_healthy = self.unproven
        self.unproven = 0


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment, in memory of its own: written while training goes on."""

    model: StoredModel
    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write the sampling weights and all else into an existing folder."""
        self.model.write(folder)
        save_file(dict(self.tensors), folder / TENSORS)
        (folder / RECORD).write_text(json.dumps(self.record, indent=2) + "\n")


@dataclass
class TrainingState:
    """Model, optimisers, averages and cursor of one run.

    Random numbers are functions of seed, attempt and step, so none are kept.
    """

    model: Generative[Any]
    optimizers: dict[str, torch.optim.Optimizer]
    averages: Averages
    scaler: torch.amp.GradScaler
    versions: Mapping[str, str | int]
    progress: Progress = field(default_factory=Progress)

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.progress.step

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """The model in eval mode with its averages, until the block ends.

        Nothing is compiled for it: each number of rows and tokens would be, anew.
        """
        with self.averages.applied(), torch.compiler.set_stance("force_eager"):
            self.model.eval()
            yield
            self.model.train()

    def wrecked(self) -> str | None:
        """What is wrong with weights that are not finite, or whose squares are not.

        Or with gradients that were not for so many steps that the losses' scale is used up.
        """
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            return "the gradients became infinite or no numbers, however the losses are scaled"
        weights = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        norm = torch.nn.utils.get_total_norm(weights).item()
        return None if math.isfinite(norm) else f"the norm of the weights became {norm}"

    def snapshot(self) -> Snapshot:
        """A copy that later steps leave alone."""
        tensors = {f"live.{name}": t.detach() for name, t in self.averages.live.items()}
        for part, optimizer in self.optimizers.items():
            for index, entries in optimizer.state_dict()["state"].items():
                for name, value in entries.items():
                    tensors[f"optimizer.{part}.{index}.{name}"] = value
        tensors = {name: copied(tensor) for name, tensor in tensors.items()}
        with self.averages.applied():
            model = StoredModel.of(self.model)
        record = {
            "progress": asdict(self.progress),
            "scaler": self.scaler.state_dict(),
            "versions": dict(self.versions),
        }
        return Snapshot(model, tensors, record)

    def restore(self, folder: Path) -> None:
        """Take over what a snapshot wrote, weights included."""
        record = json.loads((folder / RECORD).read_text())
        tensors = load_file(folder / TENSORS)
        load_weights(self.model, folder)
        for part, optimizer in self.optimizers.items():
            optimizer.load_state_dict(
                {
                    "state": _optimizer_state(tensors, f"optimizer.{part}.", optimizer),
                    "param_groups": optimizer.state_dict()["param_groups"],
                }
            )
        with torch.no_grad():
            for name, live in self.averages.live.items():
                self.averages.mean[name].copy_(live)
                live.copy_(_take(tensors, f"live.{name}", folder))
        if record["scaler"]:
            self.scaler.load_state_dict(record["scaler"])
        self.progress = Progress(**record["progress"])


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def new_state(
    model: Generative[Any], *, ema_decay: float, device: torch.device, precision: Precision
) -> TrainingState:
    """The state before the first step; the model already stands on its device."""
    parts: Mapping[str, nn.Module] = model.parts()
    return TrainingState(
        model=model,
        optimizers={part: model.optimizer(part) for part in parts},
        averages=Averages(model, ema_decay),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        versions=versions(device, precision),
    )


def versions(device: torch.device, precision: Precision) -> dict[str, str | int]:
    """What bit-equal training depends on besides the checkpoint."""
    is_gpu = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if is_gpu else device.type,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "processes": num_processes(),
    }


def recorded_versions(folder: Path) -> dict[str, str | int]:
    """The `versions` under which a checkpoint was written."""
    found: dict[str, str | int] = json.loads((folder / RECORD).read_text())["versions"]
    return found


def _optimizer_state(
    tensors: Mapping[str, Tensor], prefix: str, optimizer: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(prefix):
            index, name = key.removeprefix(prefix).split(".", 1)
            like = parameters[int(index)]
            # torch 2.14's fused Adam on the CPU walks raw memory: moments in another layout
            # than their weights (channels_last) would be matched with the wrong weights.
            moments = tensor.shape == like.shape and tensor.ndim > 0
            state.setdefault(int(index), {})[name] = (
                torch.empty_like(like, requires_grad=False).copy_(tensor) if moments else tensor
            )
    return state


def _take(tensors: Mapping[str, Tensor], key: str, folder: Path) -> Tensor:
    if key not in tensors:
        raise CheckpointError(f"{folder / TENSORS}: {key} is missing; it is of another model")
    return tensors[key]
