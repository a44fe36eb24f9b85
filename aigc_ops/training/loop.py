"""Training loop of every family on every device, written to be read from top to bottom."""

import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from aigc_ops.compute.devices import Precision, choose_precision, torch_settings
from aigc_ops.core.artifacts import Checkpoint, DatasetRef, differences
from aigc_ops.core.errors import TrainingError
from aigc_ops.core.private_folders import claim
from aigc_ops.core.tracking import Tracker, progress_bar
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.ingestion import Split
from aigc_ops.interfaces.model import FamilyConfig, Generative
from aigc_ops.models import family_type
from aigc_ops.storage.checkpoints import load_model, read_checkpoint
from aigc_ops.training.batches import Batches
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.cuda_graphs import TakeStep, make_take_step
from aigc_ops.training.curves import Curves, profiled
from aigc_ops.training.distributed import ProcessGroup, join_process_group
from aigc_ops.training.error_hints import translate_torch_errors
from aigc_ops.training.examples import Examples
from aigc_ops.training.monitor import OnlineMetrics
from aigc_ops.training.oom import free_memory, smaller_batches
from aigc_ops.training.previews import show_samples
from aigc_ops.training.run_dir import CheckpointWriter, RunFolder
from aigc_ops.training.state import TrainingState, new_state, recorded_versions
from aigc_ops.training.step import set_learning_rates
from aigc_ops.training.throughput import Rate
from aigc_ops.training.watchdog import Watchdog


@dataclass(frozen=True)
class TrainingJob:
    """Inputs of one training run."""

    model: FamilyConfig
    config: TrainingConfig
    dataset: DatasetRef
    read_data: Callable[[Split], TrainingData]
    seed: int
    folder: RunFolder
    tracker: Tracker
    initial: Checkpoint | None = None
    """The first weights: the resolved `config.init_from`."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Values stored in the provenance of each checkpoint."""
    cache: Path | None = None
    """Folder of the cache for examples made of large texts."""
    plant: Callable[[TrainingData], TrainingData] = lambda data: data
    """Function that adds canaries to the training data; monitoring does not see them."""


def train(job: TrainingJob) -> Checkpoint:
    """Train to `job.config.steps` and return the last checkpoint; resume from an earlier one.

    With early stopping the best checkpoint is returned. Raises TrainingError when a loss is not
    finite, the model has collapsed or memory ran out; the last good checkpoint is kept.
    """
    config, folder = job.config, job.folder
    with (
        translate_torch_errors(),
        join_process_group(config.device) as processes,
        torch_settings(processes.device, deterministic=config.deterministic),
    ):
        # Processes that see other folders would train apart, each as if it were alone.
        finished = folder.finished(config.steps)
        processes.agree({"run": folder.path.name, "checkpoint": finished and finished.step})
        if finished:
            return finished
        # An attempt that runs out of memory is repeated with more micro-batches, from the newest
        # checkpoint, since the failed step may have updated some of the model's parts.
        while True:
            try:
                step = _train(job, processes)
                break
            except (RuntimeError, MemoryError) as error:
                # A retry on one process would deadlock the all-reduce of the others.
                alone = processes.size == 1
                config = smaller_batches(error, job.config, job.model, folder, may_split=alone)
            free_memory()  # outside of `except`, where the error keeps its tensors alive
            job = replace(job, config=config)
        if processes.is_writer:
            folder.finish(steps=config.steps, step=step)
        processes.wait()
    return read_checkpoint(folder.checkpoint(step))


@dataclass(frozen=True)
class _Components:
    """Objects that the loop works with."""

    state: TrainingState
    data: TrainingData
    batches: Batches
    take_step: TakeStep
    watchdog: Watchdog
    curves: Curves
    rate: Rate
    provenance: Mapping[str, Any]


def _components(job: TrainingJob, processes: ProcessGroup) -> _Components:
    """Read the data; make or resume the model and all that trains it."""
    config = job.config
    precision = choose_precision(config.precision, processes.device)
    data = job.read_data("train")
    if len(data) == 0:
        raise TrainingError("the training split is empty; there is nothing to learn from")
    planted = job.plant(data)
    state = _initial_state(job, planted, processes, precision)
    model = state.model
    read_heldout = partial(job.read_data, "heldout") if job.dataset.num_heldout else None
    num_rows = config.batch_size // (config.micro_batches * processes.size)
    modality = find_modality(model.modality)
    online = OnlineMetrics(modality.training, data, read_heldout, rows_at_once=num_rows)
    return _Components(
        state=state,
        data=data,
        take_step=make_take_step(state, config, processes=processes, precision=precision),
        batches=Batches(
            Examples(model, planted, processes.device, job.cache), config, job.seed, processes
        ),
        watchdog=Watchdog(config.watch, online, job.folder, job.tracker, processes),
        curves=Curves(modality.rate_name, is_scaled=state.scaler.is_enabled()),
        rate=Rate(warmup_steps=min(10, (config.steps - state.step) // 2)),
        provenance={
            **job.record,
            "dataset_digest": job.dataset.content_digest,
            "dvc_digest": job.dataset.dvc_digest,
            "seed": job.seed,
            "micro_batches": config.micro_batches,
            "run_id": job.tracker.run_id,
        },
    )


def _train(job: TrainingJob, processes: ProcessGroup) -> int:
    """Train as one of the processes; return the step of the checkpoint to end with."""
    config, folder, tracker = job.config, job.folder, job.tracker
    parts = _components(job, processes)
    state, watchdog, curves, rate = parts.state, parts.watchdog, parts.curves, parts.rate
    model = state.model
    if processes.is_writer:
        # A new checkpoint is written before the oldest is removed.
        num = min(config.keep_checkpoints, -(-config.steps // config.checkpoint_every)) + 1
        folder.require_space(state.checkpoint_bytes(), num)
    model.train()
    with (
        progress_bar(
            total=config.steps,
            initial=state.step,
            desc="train",
            unit="step",
            disable=not processes.is_writer,
        ) as bar,
        CheckpointWriter(
            folder, keep=config.keep_checkpoints, is_writer=processes.is_writer
        ) as checkpoints,
        profiled(
            config.profile_steps if processes.is_writer else 0,
            folder.path,
            tracker,
            num_remaining=config.steps - state.step,
        ) as next_step,
    ):
        while state.step < config.steps:
            # 1. One optimisation step.
            micro_batches = parts.batches.micro_batches(state.progress)
            set_learning_rates(state.optimizers, config, state.progress)
            scalars = parts.take_step(micro_batches)
            state.progress.step += 1
            state.ema.update(state.step)
            next_step()

            # 2. Checks and logs. A GPU is waited for only where the result is needed at once.
            units = sum(model.example_units(each.batch) for each in micro_batches)
            rate.count(processes.size * units)
            bar.update()
            is_last = state.step == config.steps
            is_checkpoint = is_last or state.step % config.checkpoint_every == 0
            is_check = watchdog.is_due(state.step, is_checkpoint=is_checkpoint)
            problem = curves.add(scalars, wait=is_checkpoint or is_check)
            # The first part's loss was computed with the weights of the last checkpoint, if that
            # was a step ago, so a finite value verifies them.
            if state.progress.unproven and next(iter(scalars.values())).isfinite():
                state.progress.note_verified()
            if is_checkpoint and not problem:
                problem = state.nonfinite_reason()
            if is_checkpoint or is_check or state.step % config.log_every == 0:
                metrics = curves.read(rate.value, state.optimizers)
                tracker.log_metrics(metrics, step=state.step)
                bar.set_postfix(curves.progress_values(metrics), refresh=False)

            # 3. Health, previews and checkpoint, which don't count as training time.
            with rate.paused():
                if is_check and not problem:
                    problem = watchdog.check(state, metrics, is_checkpoint=is_checkpoint)
                if problem:
                    checkpoints.wait()  # the watchdog reads and removes checkpoints
                    watchdog.fail(state, problem)  # raises, or rolls the state back
                    curves.clear()
                    bar.n = state.step
                elif is_last or state.step % config.sample_every == 0:
                    if processes.is_writer:
                        show_samples(state, folder, tracker, parts.data)
                # After a rollback the checkpoint is written again, since it holds the attempt.
                if is_checkpoint or problem:
                    if not problem:
                        state.progress.note_written()
                    checkpoints.write(state.snapshot, {**parts.provenance, "rate": rate.value})
            if watchdog.has_stalled(state.progress):
                break
    best = config.watch.early_stopping and state.progress.best_step
    return best or state.step


def _initial_state(
    job: TrainingJob, data: TrainingData, processes: ProcessGroup, precision: Precision
) -> TrainingState:
    """Return the state from the newest complete checkpoint, from given weights, or a new one."""
    config, initial = job.config, job.initial
    # New weights are drawn on the CPU from the seed, so they are equal on every device and in
    # every process, and need no broadcast.
    torch.manual_seed(job.seed)
    resumed = job.folder.newest()
    processes.agree({"checkpoint": resumed and resumed.name, "precision": precision})
    model = _build(job.model, data, resumed or (Path(initial.uri) if initial else None))
    if initial:
        model.prepare_finetuning(data)
    model.to(processes.device)
    if model.memory_format is not torch.contiguous_format:
        model.to(memory_format=model.memory_format)
    processes.prepare(model)
    if config.compile:
        claim("TORCHINDUCTOR_CACHE_DIR")
        _compile(model)
    # After the moves: optimisers and EMA hold references to the tensors on the device.
    state = new_state(
        model, ema_decay=config.ema_decay, device=processes.device, precision=precision
    )
    if resumed:
        _resume(state, resumed)
    return state


def _build(config: FamilyConfig, data: TrainingData, source: Path | None) -> Generative[Any]:
    """Return a new model, or one of this config with the source's vocabulary and weights."""
    if source is None:
        return family_type(config.family).from_data(config, data)
    model = load_model(source, config=config)
    find_modality(model.modality).training.check_start(model, data, source)
    return model


def _resume(state: TrainingState, checkpoint: Path) -> None:
    written = recorded_versions(checkpoint)
    if changes := differences(written, state.versions):
        warnings.warn(
            f"{checkpoint.name} was written elsewhere: {changes}; the run resumes, but its "
            "weights will not bit for bit be those of an uninterrupted run",
            stacklevel=3,
        )
    state.restore(checkpoint)
    tqdm.write(f"train: resumed after step {state.step} from {checkpoint}", file=sys.stderr)


def _compile(model: Generative[Any]) -> None:
    for part in model.parts().values():
        for network in list(part.children()) or [part]:
            # An nn.ModuleList has no forward pass, so its blocks are compiled one by one.
            for module in network if isinstance(network, nn.ModuleList) else [network]:
                module.compile()
