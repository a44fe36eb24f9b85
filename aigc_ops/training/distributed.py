"""The process group of a run: one process, or those that torchrun has started."""

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


class ProcessGroup:
    """A process group of one: it computes every row, and writes."""

    rank, size = 0, 1

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @property
    def is_writer(self) -> bool:
        """True for the process that writes checkpoints and reports."""
        return self.rank == 0

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors in place by their means over all processes."""

    def from_writer(self, value: T) -> T:
        """Return the writer's value in every process."""
        return value

    def agree(self, facts: Mapping[str, object]) -> None:
        """Raise TrainingError in every process when the processes' facts differ."""

    def wait(self) -> None:
        """Block until every process has called this."""

    def prepare(self, model: nn.Module) -> None:
        """Make batch norm reduce its statistics over all processes."""


class _FabricGroup(ProcessGroup):
    """Several processes, joined by Lightning Fabric; each takes some rows of every batch."""

    def __init__(self, fabric: Any) -> None:
        super().__init__(fabric.device)
        self._fabric = fabric
        self.rank, self.size = fabric.global_rank, fabric.world_size

    def average(self, tensors: Sequence[Tensor]) -> None:
        if not tensors:
            return
        # One all-reduce of a flat float32 buffer: a call for each tensor costs a round trip, and
        # sums of bf16 gradients would lose digits.
        flat = torch.cat([tensor.detach().float().flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)  # Fabric's all_reduce adds a barrier before it
        flat /= self.size
        means = flat.split_with_sizes([tensor.numel() for tensor in tensors])
        for tensor, mean in zip(tensors, means, strict=True):
            tensor.detach().copy_(mean.view_as(tensor))

    def from_writer(self, value: T) -> T:
        sent: T = self._fabric.broadcast(value)
        return sent

    def agree(self, facts: Mapping[str, object]) -> None:
        # Every process gathers all facts, so all of them raise. If one alone raised, the others
        # would wait in their next collective until it times out.
        gathered: list[Mapping[str, object]] = [{}] * self.size
        torch.distributed.all_gather_object(gathered, dict(facts))
        for rank, others in enumerate(gathered):
            for name, value in others.items():
                if value != gathered[0][name]:
                    raise TrainingError(
                        f"the processes disagree on the {name}: {gathered[0][name]} in process 0, "
                        f"{value} in process {rank}; all need one AIGC_OPS_HOME on a shared disk, "
                        "the same config and the same precision"
                    )

    def wait(self) -> None:
        self._fabric.barrier()

    def prepare(self, model: nn.Module) -> None:
        if self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
            return
        # SyncBatchNorm has no CPU kernels. Replacing `forward` keeps the modules and the names
        # of their tensors, so checkpoints stay the same as those of one process.
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.forward = partial(_batch_norm, module, self.size)  # type: ignore[method-assign]


class _Sum(torch.autograd.Function):
    """All-reduce sum whose backward pass is an all-reduce sum as well."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        # Applied as a function, so that a gradient penalty can differentiate it once more.
        total: Tensor = _Sum.apply(gradient.contiguous())
        return total


def _batch_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, size: int, rows: Tensor) -> Tensor:
    """Normalise rows by statistics of all processes (Ioffe & Szegedy 2015, algorithm 1)."""
    if not norm.training:
        return type(norm).forward(norm, rows)
    # 1. Mean and variance in float32, in two passes: E[x^2] - E[x]^2 cancels for a large mean.
    dims = [dim for dim in range(rows.ndim) if dim != 1]
    shape = [1, -1] + [1] * (rows.ndim - 2)
    values = rows.float()
    num = values.numel() // values.shape[1] * size
    mean = _Sum.apply(values.sum(dims)) / num
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims)) / num
    # 2. Running statistics as torch keeps them, with the unbiased variance.
    with torch.no_grad():
        assert norm.running_mean is not None, norm
        assert norm.running_var is not None, norm
        assert norm.num_batches_tracked is not None, norm
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum or 0.0)
        norm.running_var.lerp_(variance * num / max(1, num - 1), norm.momentum or 0.0)
    # 3. Normalise by the biased variance, then scale and shift.
    normed = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        normed = normed * norm.weight.view(shape) + norm.bias.view(shape)
    result: Tensor = normed.to(rows.dtype)
    return result


@contextmanager
def join_process_group(device: DeviceName) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun has started; without torchrun, a group of one."""
    num = num_processes()
    if num == 1:
        yield ProcessGroup(choose_device(device))
        return
    from lightning_fabric import Fabric  # one process does without it

    kind = choose_device(device).type
    num_local = _num_local(num, kind)
    num_nodes = num // num_local
    fabric = Fabric(accelerator=kind, devices=num_local, num_nodes=num_nodes, strategy="ddp")
    fabric.launch()
    yield _FabricGroup(fabric)
    # Not in a `finally`: after an error other processes may hang in an all-reduce, and NCCL
    # would wait for them here.
    torch.distributed.destroy_process_group()


def _num_local(num: int, kind: str) -> int:
    """Return the processes on this machine, of `num` in all; ConfigError when that is invalid."""
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if not num_local or num % num_local:
        raise ConfigError(
            f"WORLD_SIZE is {num}, and LOCAL_WORLD_SIZE {num_local or 'missing'}; start the "
            "processes with torchrun, with the same --nproc-per-node on every machine, or unset "
            "WORLD_SIZE"
        )
    if kind == "mps":
        raise ConfigError("MPS serves only one process; use --training.device cpu")
    if kind == "cuda" and num_local > torch.cuda.device_count():
        raise ConfigError(
            f"{num_local} processes but only {torch.cuda.device_count()} GPUs on this machine; "
            f"give torchrun --nproc-per-node {torch.cuda.device_count()}, or use "
            "--training.device cpu"
        )
    return num_local
