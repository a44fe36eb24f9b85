"""Training steps on a GPU, recorded once as a CUDA graph and then replayed with one launch.

A small network's kernels take less time than Python needs to launch them: an H100 takes a
character GPT's steps six to eight times as fast when it replays them (`benchmarks/characters.py`).
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from aigc_ops.compute.devices import Precision
from aigc_ops.compute.random import ReplayedNoise
from aigc_ops.core.errors import ModelError
from aigc_ops.training.batches import MicroBatch
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.distributed import ProcessGroup
from aigc_ops.training.state import TrainingState
from aigc_ops.training.step import take_step

WARMUP_STEPS = 3  # in which cuDNN chooses its kernels and the optimisers make their moments


@dataclass(frozen=True)
class _Recording:
    """A captured step: its kernels, and the buffers that they read and write."""

    graph: torch.cuda.CUDAGraph
    noises: Sequence[ReplayedNoise]
    batches: Sequence[Mapping[str, Tensor]]
    names: Sequence[str]
    scalars: Tensor

    def fits(self, micro_batches: Sequence[MicroBatch]) -> bool:
        """Return whether the micro-batches have the recorded shapes."""
        recorded = [_shapes(batch) for batch in self.batches]
        return recorded == [_shapes(micro_batch.batch) for micro_batch in micro_batches]

    def replay(self, micro_batches: Sequence[MicroBatch]) -> Mapping[str, Tensor]:
        # A graph reads fixed addresses, so the new rows and noise are copied into its buffers.
        for noise, batch, micro_batch in zip(self.noises, self.batches, micro_batches, strict=True):
            noise.refill(micro_batch.noise)
            for name, rows in batch.items():
                rows.copy_(micro_batch.batch[name])
        self.graph.replay()
        scalars = self.scalars.clone()  # the next replay writes over them
        return dict(zip(self.names, scalars.unbind(), strict=True))


TakeStep = Callable[[Sequence[MicroBatch]], Mapping[str, Tensor]]


def make_take_step(
    state: TrainingState, config: TrainingConfig, *, processes: ProcessGroup, precision: Precision
) -> TakeStep:
    """Return a run's step function: `take_step`, recorded if one process uses a CUDA GPU."""
    take: TakeStep = partial(
        take_step,
        state,
        processes=processes,
        precision=precision,
        max_norm=config.max_gradient_norm,
    )
    # GradScaler keeps its counters in Python, which a replay does not run, and collectives of
    # several processes deadlock during capture.
    may_record = processes.size == 1 and not state.scaler.is_enabled() and config.cuda_graphs
    if may_record and processes.device.type == "cuda":
        return Recorder(state, take, processes.device).take
    return take


class Recorder:
    """Steps of a run on a GPU: three ordinary ones, then replays of a recorded one."""

    def __init__(self, state: TrainingState, take: TakeStep, device: torch.device) -> None:
        self._state, self._take, self._device = state, take, device
        self._may_record = True
        self._begin()

    def _begin(self) -> None:
        self._attempt, self._num_taken = self._state.progress.attempt, 0
        self._recording: _Recording | None = None
        _move_rates(self._state.optimizers, self._device)
        # One stream for warm-up and capture: cuBLAS keeps a workspace for each stream it meets.
        self._side_stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def take(self, micro_batches: Sequence[MicroBatch]) -> Mapping[str, Tensor]:
        """Take a step like `take_step`, and return its scalars."""
        if not self._may_record:
            return self._take(micro_batches)
        if self._attempt != self._state.progress.attempt:
            # A rollback loads new moments into the optimisers; the graph holds the old addresses.
            self._begin()
        if self._recording is not None:
            # The graph has fixed shapes; a batch of other shapes is launched kernel by kernel.
            fits = self._recording.fits(micro_batches)
            return self._recording.replay(micro_batches) if fits else self._take(micro_batches)
        scalars = self._step_on_side_stream(micro_batches)
        self._num_taken += 1
        if self._num_taken == WARMUP_STEPS:
            self._record(micro_batches)
        return scalars

    def _step_on_side_stream(self, micro_batches: Sequence[MicroBatch]) -> Mapping[str, Tensor]:
        """Take a step on the side stream, as torch requires of warm-up steps before a capture."""
        main_stream = torch.cuda.current_stream()
        # Both waits order the streams: batches are copied and scalars are read on the main one.
        self._side_stream.wait_stream(main_stream)
        with torch.cuda.stream(self._side_stream):
            scalars = self._take(micro_batches)
        main_stream.wait_stream(self._side_stream)
        return scalars

    def _record(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Capture a step over micro-batches of these shapes; nothing is computed."""
        # 1. Make the fixed buffers: noise in the shapes that the step just taken asked for.
        noises = [ReplayedNoise(micro_batch.noise) for micro_batch in micro_batches]
        batches = [{name: rows.clone() for name, rows in s.batch.items()} for s in micro_batches]
        fixed = [MicroBatch(batch, noise) for batch, noise in zip(batches, noises, strict=True)]
        graph, main_stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        # 2. Capture. A model that cannot be captured still trains, only slower.
        try:
            # thread_local: the thread that prefetches batches uses CUDA during the capture.
            with torch.cuda.graph(
                graph, stream=self._side_stream, capture_error_mode="thread_local"
            ):
                named = self._take(fixed)
                scalars = torch.stack(list(named.values()))
        except (RuntimeError, ModelError) as error:
            # A capture that fails at its end leaves its stream as the current one.
            torch.cuda.set_stream(main_stream)
            self._may_record = False
            tqdm.write(
                "warning: this step cannot be recorded as a CUDA graph; training goes on without "
                f"CUDA graphs: {str(error).partition(chr(10))[0]}",
                file=sys.stderr,
            )
        else:
            self._recording = _Recording(graph, noises, batches, list(named), scalars)


def _shapes(batch: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: rows.shape for name, rows in batch.items()}


def _move_rates(optimizers: Mapping[str, torch.optim.Optimizer], device: torch.device) -> None:
    """Move the learning rates into GPU memory, so that a replay reads their current values."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            group["capturable"] = True
