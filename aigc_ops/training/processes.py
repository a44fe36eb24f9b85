"""The processes that train together: one alone, or those that torchrun has started."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from aigc_ops.devices import DeviceName, choose_device
from aigc_ops.errors import ConfigError

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
        flat = self._fabric.all_reduce(flat, reduce_op="mean")
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.detach().copy_(mean.view_as(tensor))

    def from_writer(self, value: T) -> T:
        sent: T = self._fabric.broadcast(value)
        return sent

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
    num = int(os.environ.get("WORLD_SIZE", "1"))
    if num == 1:
        yield Processes(choose_device(device))
        return
    from lightning_fabric import Fabric

    here = int(os.environ["LOCAL_WORLD_SIZE"])
    kind = choose_device(device).type
    if kind == "mps":
        raise ConfigError("several processes do not share MPS; use --training.device cpu")
    fabric = Fabric(accelerator=kind, devices=here, num_nodes=num // here, strategy="ddp")
    fabric.launch()
    try:
        yield _Together(fabric)
    finally:
        torch.distributed.destroy_process_group()
