"""State of a training run: all that a resumed run needs to give the same weights."""

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
from aigc_ops.storage.checkpoints import StoredModel, cpu_copy, load_weights

TENSORS = "training.safetensors"
RECORD = "training.json"
NUM_ITERATIONS = 20  # of the power method, from the live vectors, which are close already


class EMA:
    """Exponential moving averages (EMA) of the parts that sample, batch statistics included.

    The decay warms up as min(decay, (1 + step) / (10 + step)), so early weights fade. Singular
    vectors of spectral norm are recomputed for the averaged weights instead of averaged.
    """

    def __init__(self, model: Generative[Any], decay: float) -> None:
        parts = model.parts()
        self.decay = decay
        # Keyed by address: weights that two names share (tied embeddings) are averaged once.
        # Frozen weights have no average, because it would equal them.
        tensors = {
            tensor.data_ptr(): (f"{part}.{name}", tensor.detach())
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
        # The average of unit vectors is shorter than 1, which would scale the normalised weight.
        vectors = {f"{name}.{vector}" for name in self._norms for vector in ("_u", "_v")}
        self._averaged = [name for name in self.live if name not in vectors]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the live weights; `step` counts the steps taken."""
        if self.live:
            decay = min(self.decay, (1 + step) / (10 + step))
            # Fused over all tensors; a loop would cost a kernel launch for each of them.
            torch._foreach_lerp_(
                [self.mean[name] for name in self._averaged],
                [self.live[name].detach() for name in self._averaged],
                1 - decay,
            )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averages into the model until the block ends."""
        self._update_singular_vectors()
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _update_singular_vectors(self) -> None:
        """Find each averaged weight's vectors by power iteration (Miyato et al. 2018, alg. 1)."""
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
        # Values are swapped, not tensors: the optimisers and a CUDA graph hold the addresses.
        for name, live in self.live.items():
            weights = live.detach().clone()
            live.copy_(self.mean[name])
            self.mean[name].copy_(weights)


@dataclass
class Progress:
    """Counters and health of a run; its fields are keys of `training.json` in checkpoints."""

    step: int = 0
    attempt: int = 0
    """Rollbacks so far; each changes the noise, the order of the data and the learning rates."""
    is_healthy: bool = True
    """True if no alarm was triggered at the last check, the grace period included."""
    was_healthy: bool = False
    last_healthy: int = 0
    """Step of the newest verified checkpoint at which no alarm was triggered."""
    unproven: int = 0
    """Step of a checkpoint whose weights have not given a finite loss yet; 0: none."""
    ringing: dict[str, int] = field(default_factory=dict)
    """Consecutive checks at which each alarm was triggered, by its metric."""
    least_losses: dict[str, float] = field(default_factory=dict)
    """Smallest mean loss of each part between two logs so far."""
    best_step: int = 0
    best_value: float | None = None
    checkpoints_since_best: int = 0

    def note_written(self) -> None:
        """Record a checkpoint of this step, to be verified by the next step's loss."""
        self.unproven = self.step

    def note_verified(self) -> None:
        """Record that the newest checkpoint gave a finite loss; a healthy one allows rollbacks."""
        if self.is_healthy:
            self.last_healthy = self.unproven
        self.unproven = 0


@dataclass(frozen=True)
class Snapshot:
    """Copy of a run's state at one step, which is written while training continues."""

    model: StoredModel
    tensors: Mapping[str, Tensor]
    record: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write the sampling weights and the training state into an existing folder."""
        self.model.write(folder)
        save_file(dict(self.tensors), folder / TENSORS)
        (folder / RECORD).write_text(json.dumps(self.record, indent=2) + "\n", encoding="utf-8")


@dataclass
class TrainingState:
    """Model, optimisers, EMA and progress of one run.

    Random numbers are functions of seed, attempt and step, so no generator state is stored.
    """

    model: Generative[Any]
    optimizers: dict[str, torch.optim.Optimizer]
    ema: EMA
    scaler: torch.amp.GradScaler
    versions: Mapping[str, str | int]
    progress: Progress = field(default_factory=Progress)

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return self.progress.step

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """Put the model into eval mode with its EMA weights until the block ends."""
        # Compiled code runs eagerly here: torch.compile would compile anew for each number of
        # rows and tokens that sampling uses.
        with self.ema.applied(), torch.compiler.set_stance("force_eager"):
            self.model.eval()
            yield
            self.model.train()

    def nonfinite_reason(self) -> str | None:
        """Return a message if the weights, their norm or fp16's gradients are not finite."""
        # The scaler halves its scale at every infinite gradient; below 1 no scale has helped.
        if self.scaler.is_enabled() and self.scaler.get_scale() < 1:
            return "the fp16 gradients are inf or NaN at every loss scale down to 1"
        weights = [t for t in self.model.state_dict().values() if t.is_floating_point()]
        norm = torch.nn.utils.get_total_norm(weights).item()
        return None if math.isfinite(norm) else f"the norm of the weights became {norm}"

    def snapshot(self) -> Snapshot:
        """Return a copy that later steps do not change."""
        tensors = {f"live.{name}": t.detach() for name, t in self.ema.live.items()}
        for part, optimizer in self.optimizers.items():
            for index, entries in optimizer.state_dict()["state"].items():
                for name, value in entries.items():
                    tensors[f"optimizer.{part}.{index}.{name}"] = value
        tensors = {name: cpu_copy(tensor) for name, tensor in tensors.items()}
        # The stored model has the weights that sample; the live ones are stored beside it.
        with self.ema.applied():
            model = StoredModel.of(self.model)
        record = {
            "progress": asdict(self.progress),
            "scaler": self.scaler.state_dict(),
            "versions": dict(self.versions),
        }
        return Snapshot(model, tensors, record)

    def checkpoint_bytes(self) -> int:
        """Return the size of a checkpoint's tensors once the optimisers have their moments."""
        # By address, because tied weights are stored once.
        weights = {t.data_ptr(): t.nbytes for t in self.model.state_dict().values()}
        live = sum(tensor.nbytes for tensor in self.ema.live.values())
        moments = 2 * sum(
            parameter.nbytes
            for optimizer in self.optimizers.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
        )
        total: int = sum(weights.values()) + live + moments
        return total

    def restore(self, folder: Path) -> None:
        """Load what a snapshot wrote: weights, optimisers, EMA and progress."""
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        load_weights(self.model, folder)
        for part, optimizer in self.optimizers.items():
            # Only the moments are stored; the groups with their settings are the config's.
            optimizer.load_state_dict(
                {
                    "state": _optimizer_state(tensors, f"optimizer.{part}.", optimizer),
                    "param_groups": optimizer.state_dict()["param_groups"],
                }
            )
        with torch.no_grad():
            # The model has just been loaded with the averages: move them to the EMA, then load
            # the live weights in their place.
            for name, live in self.ema.live.items():
                self.ema.mean[name].copy_(live)
                live.copy_(_take(tensors, f"live.{name}", folder))
        if record["scaler"]:
            self.scaler.load_state_dict(record["scaler"])
        self.progress = Progress(**record["progress"])


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def new_state(
    model: Generative[Any], *, ema_decay: float, device: torch.device, precision: Precision
) -> TrainingState:
    """Return the state before the first step; the model must be on its device already."""
    parts: Mapping[str, nn.Module] = model.parts()
    return TrainingState(
        model=model,
        optimizers={part: model.optimizer(part) for part in parts},
        ema=EMA(model, ema_decay),
        scaler=torch.amp.GradScaler(device.type, enabled=precision == "fp16"),
        versions=versions(device, precision),
    )


def versions(device: torch.device, precision: Precision) -> dict[str, str | int]:
    """Return everything besides the checkpoint that bit-equal training depends on."""
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
    """Return the `versions` under which a checkpoint was written."""
    recorded: dict[str, str | int] = json.loads((folder / RECORD).read_text(encoding="utf-8"))[
        "versions"
    ]
    return recorded


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
        raise CheckpointError(
            f"{folder / TENSORS}: {key} is missing; the checkpoint is of another model"
        )
    return tensors[key]
