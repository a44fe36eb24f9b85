"""Steps on a GPU: recorded once as a CUDA graph, then replayed with one launch.

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
from aigc_ops.training.batches import Share
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.distributed import Processes
from aigc_ops.training.state import TrainingState
from aigc_ops.training.step import take_step

WARMUP_STEPS = 3  # in which cuDNN chooses its kernels and the optimisers make their moments


@dataclass(frozen=True)
class _Recording:
    """A step's kernels, and the memory that they read and write."""

    graph: torch.cuda.CUDAGraph
    noises: Sequence[ReplayedNoise]
    batches: Sequence[Mapping[str, Tensor]]
    names: Sequence[str]
    scalars: Tensor

    def fits(self, shares: Sequence[Share]) -> bool:
        """Whether batches of these shapes can take the place of the recorded ones."""
        return [_shapes(batch) for batch in self.batches] == [_shapes(s.batch) for s in shares]

    def replay(self, shares: Sequence[Share]) -> Mapping[str, Tensor]:
        for noise, batch, share in zip(self.noises, self.batches, shares, strict=True):
            noise.draw_as(share.noise)
            for name, rows in batch.items():
                rows.copy_(share.batch[name])
        self.graph.replay()
        scalars = self.scalars.clone()  # the next replay writes over them
        return dict(zip(self.names, scalars.unbind(), strict=True))


TakeStep = Callable[[Sequence[Share]], Mapping[str, Tensor]]


def step_taker(
    state: TrainingState, config: TrainingConfig, *, team: Processes, precision: Precision
) -> TakeStep:
    """Return what takes a run's steps: `take_step`, which one process on a CUDA GPU records."""
    take: TakeStep = partial(
        take_step, state, team=team, precision=precision, max_norm=config.max_gradient_norm
    )
    # fp16's scaler counts in Python, and processes would record waiting for one another.
    may_record = team.size == 1 and not state.scaler.is_enabled() and config.cuda_graphs
    if may_record and team.device.type == "cuda":
        return Recorder(state, take, team.device).take
    return take


class Recorder:
    """Takes a run's steps on a GPU: records the fourth, then replays it."""

    def __init__(self, state: TrainingState, take: TakeStep, device: torch.device) -> None:
        self._state, self._take, self._device = state, take, device
        self._may_record = True
        self._begin()

    def _begin(self) -> None:
        self._attempt, self._num_taken = self._state.progress.attempt, 0
        self._recording: _Recording | None = None
        _move_rates(self._state.optimizers, self._device)
        # cuBLAS keeps a workspace for each stream it meets.
        self._aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def take(self, shares: Sequence[Share]) -> Mapping[str, Tensor]:
        """Do what `take_step` does, and return what it returns."""
        if not self._may_record:
            return self._take(shares)
        if self._attempt != self._state.progress.attempt:
            self._begin()  # a rollback has put the optimisers' moments elsewhere
        if self._recording is not None:
            fits = self._recording.fits(shares)
            return self._recording.replay(shares) if fits else self._take(shares)
        scalars = self._take_aside(shares)
        self._num_taken += 1
        if self._num_taken == WARMUP_STEPS:
            self._record(shares)
        return scalars

    def _take_aside(self, shares: Sequence[Share]) -> Mapping[str, Tensor]:
        """On a stream of its own, as those before a recording have to be."""
        here = torch.cuda.current_stream()
        self._aside.wait_stream(here)
        with torch.cuda.stream(self._aside):
            scalars = self._take(shares)
        here.wait_stream(self._aside)
        return scalars

    def _record(self, taken: Sequence[Share]) -> None:
        """Record a step over such shares, taken just now, without taking it."""
        noises = [ReplayedNoise(share.noise) for share in taken]
        batches = [{name: rows.clone() for name, rows in s.batch.items()} for s in taken]
        fixed = [Share(batch, noise) for batch, noise in zip(batches, noises, strict=True)]
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # thread_local: batches are brought by another thread meanwhile.
            with torch.cuda.graph(graph, stream=self._aside, capture_error_mode="thread_local"):
                named = self._take(fixed)
                scalars = torch.stack(list(named.values()))
        except (RuntimeError, ModelError) as error:
            torch.cuda.set_stream(here)  # a recording that fails at its end stays on its own
            self._may_record = False
            tqdm.write(
                "warning: this step cannot be recorded as a CUDA graph and is launched kernel by "
                f"kernel: {str(error).partition(chr(10))[0]}",
                file=sys.stderr,
            )
        else:
            self._recording = _Recording(graph, noises, batches, list(named), scalars)


def _shapes(batch: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: rows.shape for name, rows in batch.items()}


def _move_rates(optimizers: Mapping[str, torch.optim.Optimizer], device: torch.device) -> None:
    """Have the learning rates read from the GPU's memory, not fixed at recording."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
            group["capturable"] = True
