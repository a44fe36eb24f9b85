"""Everything a run needs to go on as if it had never stopped."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aigc_ops.errors import CheckpointError
from aigc_ops.generative import Generative

TENSORS = "training.safetensors"
RECORD = "training.json"


class Averages:
    """Exponential moving averages of the parts that sample, batch statistics included.

    The decay warms up as min(decay, (1 + step) / (10 + step)), so early weights fade.
    """

    def __init__(self, model: Generative, decay: float) -> None:
        parts = model.parts()
        self.decay = decay
        tensors = {
            tensor.data_ptr(): (f"{part}.{name}", tensor)  # once, where two names share weights
            for part in sorted(model.averaged_parts if decay else ())
            for name, tensor in parts[part].state_dict().items()
            if tensor.is_floating_point()
        }
        self.live = dict(tensors.values())
        self.mean = {name: tensor.detach().clone() for name, tensor in self.live.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the live weights after step number `step`."""
        if self.live:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(
                list(self.mean.values()), [t.detach() for t in self.live.values()], 1 - decay
            )

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages stand in the model's place until the block ends."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, live in self.live.items():
            kept = live.detach().clone()
            live.copy_(self.mean[name])
            self.mean[name].copy_(kept)


@dataclass
class TrainingState:
    """Model, optimisers, averages, noise and cursor of one run."""

    model: Generative
    optimizers: dict[str, torch.optim.Optimizer]
    averages: Averages
    generator: torch.Generator
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write all but the sampling weights, which the checkpoint holds beside this.

        Call it while the averages are applied: what they displace is saved here.
        """
        tensors = {f"live.{name}": t.contiguous() for name, t in self.averages.mean.items()}
        for part, optimizer in self.optimizers.items():
            for index, entries in optimizer.state_dict()["state"].items():
                for name, value in entries.items():
                    tensors[f"optimizer.{part}.{index}.{name}"] = value.contiguous()
        tensors["rng.global"] = torch.get_rng_state()
        tensors["rng.noise"] = self.generator.get_state()
        if torch.cuda.is_available():
            tensors["rng.cuda"] = torch.cuda.get_rng_state()
        save_file(tensors, folder / TENSORS)
        record = {"step": self.step, "versions": versions()}
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")

    def restore(self, folder: Path) -> None:
        """Take over what `save` wrote; the model already holds the sampling weights."""
        record = json.loads((folder / RECORD).read_text())
        tensors = load_file(folder / TENSORS)
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
        torch.set_rng_state(tensors["rng.global"])
        self.generator.set_state(tensors["rng.noise"])
        if torch.cuda.is_available() and "rng.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng.cuda"])
        self.step = record["step"]


def new_state(model: Generative, *, ema_decay: float, seed: int, device: Any) -> TrainingState:
    """The state before the first step; the model already stands on its device."""
    parts: Mapping[str, nn.Module] = model.parts()
    return TrainingState(
        model=model,
        optimizers={part: model.optimizer(part) for part in parts},
        averages=Averages(model, ema_decay),
        generator=torch.Generator(device).manual_seed(seed),
    )


def versions() -> dict[str, str | int]:
    """What bit-equal training depends on besides the checkpoint."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def recorded_versions(folder: Path) -> dict[str, str | int]:
    """The `versions()` under which a checkpoint was written."""
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
