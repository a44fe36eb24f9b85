"""The processes that train together: one alone, or those that torchrun has started."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from aigc_ops.compute.devices import DeviceName, choose_device
from aigc_ops.core.errors import ConfigError, TrainingError
from aigc_ops.core.state_dir import num_processes

T = TypeVar("T")


class Processes:
    """One process: it computes every row, and writes."""

    rank, size = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def is_writer(self) -> bool:
        """Whether this process writes checkpoints and reports."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over all processes."""

    def from_writer(self, value: T) -> T:
        """The writer's value, in every process."""
        return value

    def agree(self, what: Mapping[str, object]) -> None:
        """Raise TrainingError, in every process, where they differ in what must be the same."""

    def wait(self) -> None:
        """Until every process has come so far."""

    def prepare(self, model: nn.Module) -> None:
        """Let batch norm reduce its statistics over all processes."""


class _Together(Processes):
    """Several, joined by Lightning Fabric; batches are split among them by row."""

    def __init__(self, fabric: Any) -> None:
        super().__init__(fabric.device)
        self._fabric = fabric
        self.rank, self.size = fabric.global_rank, fabric.world_size

    def average(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)  # Fabric's own has a GPU's process wait before it
        flat /= self.size
        means = flat.split_with_sizes([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.detach().copy_(mean.view_as(tensor))

    def from_writer(self, value: T) -> T:
        sent: T = self._fabric.broadcast(value)
        return sent

    def agree(self, what: Mapping[str, object]) -> None:
        said: list[Mapping[str, object]] = [{}] * self.size
        torch.distributed.all_gather_object(said, dict(what))
        for rank, other in enumerate(said):
            for name, value in other.items():
                if value != said[0][name]:
                    raise TrainingError(
                        f"the processes do not agree: the {name} of the first is "
                        f"{said[0][name]}, that of number {rank} {value}; they need one "
                        "AIGC_OPS_HOME that all see, the same config, and one precision"
                    )

    def wait(self) -> None:
        self._fabric.barrier()

    def prepare(self, model: nn.Module) -> None:
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            return
        for module in model.modules():  # SyncBatchNorm has no CPU form
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.forward = partial(_batch_norm, module, self.size)  # type: ignore[method-assign]


class _Sum(torch.autograd.Function):
    """Sums over all processes; so is the gradient's way back."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        total: Tensor = _Sum.apply(gradient.contiguous())
        return total


def _batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, size: int, rows: Tensor) -> Tensor:
    """Batch norm by the statistics of all processes' rows (Ioffe & Szegedy 2015, algorithm 1)."""
    if not norm.training:
        return type(norm).forward(norm, rows)
    dims = [dim for dim in range(rows.ndim) if dim != 1]
    shape = [1, -1] + [1] * (rows.ndim - 2)
    values = rows.float()
    num = values.numel() // values.shape[1] * size
    mean = _Sum.apply(values.sum(dims)) / num
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims)) / num
    with torch.no_grad():
        assert norm.running_mean is not None, norm
        assert norm.running_var is not None, norm
        assert norm.num_batches_tracked is not None, norm
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum or 0.0)
        norm.running_var.lerp_(variance * num / max(1, num - 1), norm.momentum or 0.0)
    normed = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        normed = normed * norm.weight.view(shape) + norm.bias.view(shape)
    result: Tensor = normed.to(rows.dtype)
    return result


@contextmanager
def joined(device: DeviceName) -> Iterator[Processes]:
    """All processes of this run; one alone unless torchrun has started more."""
    num = num_processes()
    if num == 1:
        yield Processes(choose_device(device))
        return
    from lightning_fabric import Fabric

    kind = choose_device(device).type
    here = _num_here(num, kind)
    fabric = Fabric(accelerator=kind, devices=here, num_nodes=num // here, strategy="ddp")
    fabric.launch()
    yield _Together(fabric)
    # After an error others may stand in a reduction, for which NCCL would wait here.
    torch.distributed.destroy_process_group()


def _num_here(num: int, kind: str) -> int:
    """Processes on this machine, of `num` in all; raises ConfigError where that cannot be."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if not here or num % here:
        raise ConfigError(
            f"WORLD_SIZE is {num}, and LOCAL_WORLD_SIZE {here or 'missing'}; start the processes "
            "by torchrun, as many on each machine, or unset WORLD_SIZE"
        )
    if kind == "mps":
        raise ConfigError("several processes do not share MPS; use --training.device cpu")
    if kind == "cuda" and here > torch.cuda.device_count():
        raise ConfigError(
            f"{here} processes do not share {torch.cuda.device_count()} GPUs; give torchrun "
            f"--nproc-per-node {torch.cuda.device_count()}, or use --training.device cpu"
        )
    return here
