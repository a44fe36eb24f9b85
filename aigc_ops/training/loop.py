"""The only training loop: every family, every device, one reading from top to bottom."""

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

from aigc_ops.compute.devices import Precision, choose_precision, tuned
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
from aigc_ops.training.cuda_graphs import TakeStep, step_taker
from aigc_ops.training.curves import Curves, profiled
from aigc_ops.training.distributed import Processes, joined
from aigc_ops.training.error_hints import explained
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
    """All that one training run is made from."""

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
    """Kept in each checkpoint's provenance."""
    cache: Path | None = None
    """Where examples made of much text are kept."""


def train(job: TrainingJob) -> Checkpoint:
    """Return the checkpoint after `job.config.steps`; resume where the folder holds an earlier one.

    With early stopping, the best checkpoint. Raises TrainingError when a loss is not
    finite, the model has collapsed or memory ran out; the last good checkpoint stays.
    """
    config, folder = job.config, job.folder
    with (
        explained(),
        joined(config.device) as team,
        tuned(team.device, deterministic=config.deterministic),
    ):
        finished = folder.finished(config.steps)
        team.agree({"run": folder.path.name, "checkpoint": finished and finished.step})
        if finished:
            return finished
        while True:
            try:
                step = _train(job, team)
                break
            except (RuntimeError, MemoryError) as error:
                # Others would wait for ever for the gradients of one that begins its step anew.
                alone = team.size == 1
                config = smaller_batches(error, job.config, job.model, folder, may_split=alone)
            free_memory()
            job = replace(job, config=config)
        if team.is_writer:
            folder.finish(steps=config.steps, step=step)
        team.wait()
    return read_checkpoint(folder.checkpoint(step))


@dataclass(frozen=True)
class _Parts:
    """What takes part in the loop."""

    state: TrainingState
    data: TrainingData
    batches: Batches
    take_step: TakeStep
    watchdog: Watchdog
    curves: Curves
    rate: Rate
    provenance: Mapping[str, Any]


def _parts(job: TrainingJob, team: Processes) -> _Parts:
    """Read the data and make or resume the model and what trains it."""
    config = job.config
    precision = choose_precision(config.precision, team.device)
    data = job.read_data("train")
    if len(data) == 0:
        raise TrainingError("the training split is empty; there is nothing to learn from")
    state = _begun(job, data, team, precision)
    model = state.model
    read_heldout = partial(job.read_data, "heldout") if job.dataset.num_heldout else None
    at_once = config.batch_size // (config.micro_batches * team.size)
    modality = find_modality(model.modality)
    online = OnlineMetrics(modality.training, data, read_heldout, rows_at_once=at_once)
    return _Parts(
        state=state,
        data=data,
        take_step=step_taker(state, config, team=team, precision=precision),
        batches=Batches(Examples(model, data, team.device, job.cache), config, job.seed, team),
        watchdog=Watchdog(config.watch, online, job.folder, job.tracker, team),
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


def _train(job: TrainingJob, team: Processes) -> int:
    """Train as one of the processes; return the step of the checkpoint to end with."""
    config, folder, tracker, parts = job.config, job.folder, job.tracker, _parts(job, team)
    state, watchdog, curves, rate = parts.state, parts.watchdog, parts.curves, parts.rate
    model = state.model
    model.train()
    with (
        progress_bar(
            total=config.steps,
            initial=state.step,
            desc="train",
            unit="step",
            disable=not team.is_writer,
        ) as bar,
        CheckpointWriter(
            folder, keep=config.keep_checkpoints, is_writer=team.is_writer
        ) as checkpoints,
        profiled(
            config.profile_steps if team.is_writer else 0,
            folder.path,
            tracker,
            num_to_come=config.steps - state.step,
        ) as next_step,
    ):
        while state.step < config.steps:
            shares = parts.batches.shares(state.progress)
            set_learning_rates(state.optimizers, config, state.progress)
            scalars = parts.take_step(shares)
            state.progress.step += 1
            state.averages.update(state.step)
            next_step()

            # What people look at: the bar, the curves, the samples, the checkpoint.
            rate.count(team.size * sum(model.example_units(share.batch) for share in shares))
            bar.update()
            last = state.step == config.steps
            keep = last or state.step % config.checkpoint_every == 0
            look = watchdog.is_due(state.step, is_kept=keep)
            problem = curves.add(scalars, wait=keep or look)
            # The part that is stepped first meets the weights as they were kept.
            if state.progress.unproven and next(iter(scalars.values())).isfinite():
                state.progress.note_proven()
            if keep and not problem:
                problem = state.wrecked()
            if keep or look or state.step % config.log_every == 0:
                metrics = curves.read(rate.value, state.optimizers)
                tracker.log_metrics(metrics, step=state.step)
                bar.set_postfix(curves.shown(metrics), refresh=False)
            with rate.paused():
                if look and not problem:
                    problem = watchdog.look(state, metrics, is_kept=keep)
                if problem:
                    checkpoints.wait()
                    watchdog.fail(state, problem)  # raises, or rolls the state back
                    curves.clear()
                    bar.n = state.step
                elif last or state.step % config.sample_every == 0:
                    if team.is_writer:
                        show_samples(state, folder, tracker, parts.data)
                if keep or problem:
                    if not problem:
                        state.progress.note_kept()
                    checkpoints.write(state.snapshot, {**parts.provenance, "rate": rate.value})
            if watchdog.has_stalled(state.progress):
                break
    best = config.watch.early_stopping and state.progress.best_step
    return best or state.step


def _begun(
    job: TrainingJob, data: TrainingData, team: Processes, precision: Precision
) -> TrainingState:
    """Return model and state: from the newest whole checkpoint, from given weights, or new."""
    config, initial = job.config, job.initial
    torch.manual_seed(job.seed)
    resumed = job.folder.newest()
    team.agree({"checkpoint": resumed and resumed.name, "precision": precision})
    model = _build(job.model, data, resumed or (Path(initial.uri) if initial else None))
    if initial:
        model.go_on(data)
    model.to(team.device)
    if model.memory_format is not torch.contiguous_format:
        model.to(memory_format=model.memory_format)
    team.prepare(model)
    if config.compile:
        claim("TORCHINDUCTOR_CACHE_DIR")
        _compile(model)
    state = new_state(model, ema_decay=config.ema_decay, device=team.device, precision=precision)
    if resumed:
        _resume(state, resumed)
    return state


def _build(config: FamilyConfig, data: TrainingData, source: Path | None) -> Generative[Any]:
    """A new model, or one of this config with the source's vocabulary and weights."""
    if source is None:
        return family_type(config.family).from_data(config, data)
    model = load_model(source, config=config)
    find_modality(model.modality).training.check_start(model, data, source)
    return model


def _resume(state: TrainingState, checkpoint: Path) -> None:
    written = recorded_versions(checkpoint)
    if changes := differences(written, state.versions):
        warnings.warn(
            f"{checkpoint.name} was written elsewhere: {changes}; the run goes on, but not bit "
            "for bit as it would have",
            stacklevel=3,
        )
    state.restore(checkpoint)
    tqdm.write(f"train: resumed after step {state.step} from {checkpoint}", file=sys.stderr)


def _compile(model: Generative[Any]) -> None:
    for part in model.parts().values():
        for network in list(part.children()) or [part]:
            # A list is never called itself, but each of its blocks is.
            for each in network if isinstance(network, nn.ModuleList) else [network]:
                each.compile()
