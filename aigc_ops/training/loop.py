"""The only training loop: every family, every device, one reading from top to bottom."""

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from aigc_ops.artifacts import Checkpoint, DatasetRef
from aigc_ops.checkpoints import differences, load_model, read_checkpoint
from aigc_ops.data.config import Split
from aigc_ops.devices import Precision, choose_precision, tuned
from aigc_ops.errors import ModelError, TrainingError
from aigc_ops.generative import Data, FamilyConfig, Generative, ImageModel, Images
from aigc_ops.models import family_type
from aigc_ops.private_folders import claim
from aigc_ops.tracking import Tracker, progress_bar
from aigc_ops.training.batches import Batches
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.curves import Curves, profiled
from aigc_ops.training.examples import Examples
from aigc_ops.training.faults import explained
from aigc_ops.training.folder import CheckpointWriter, RunFolder
from aigc_ops.training.judge import Judge
from aigc_ops.training.memory import within_memory
from aigc_ops.training.processes import Processes, joined
from aigc_ops.training.rate import Rate
from aigc_ops.training.replay import Stepper
from aigc_ops.training.samples import show_samples
from aigc_ops.training.state import TrainingState, new_state, recorded_versions
from aigc_ops.training.step import set_learning_rates
from aigc_ops.training.watchdog import Watchdog

RATE = {"image": "images_per_second", "text": "tokens_per_second"}


def train(
    model_config: FamilyConfig,
    config: TrainingConfig,
    dataset: DatasetRef,
    read_data: Callable[[Split], Data],
    *,
    seed: int,
    folder: RunFolder,
    tracker: Tracker,
    initial: Checkpoint | None = None,
    record: Mapping[str, Any] | None = None,
    cache: Path | None = None,
) -> Checkpoint:
    """The checkpoint after `config.steps`, resumed from `folder` when it holds an earlier one.

    With early stopping, the best checkpoint. `initial` gives the first weights (the
    resolved `config.init_from`); `record` is kept in each checkpoint's provenance; `cache` is
    where examples made of much text are kept. Raises TrainingError when a loss is not
    finite, the model has collapsed or memory ran out; the last good checkpoint stays.
    """
    with (
        explained(),
        joined(config.device) as team,
        tuned(team.device, deterministic=config.deterministic),
    ):
        finished = folder.finished(config.steps)
        team.agree({"run": folder.path.name, "checkpoint": finished and finished.step})
        if finished:
            return finished
        attempt = partial(
            _train,
            model_config,
            dataset=dataset,
            read_data=read_data,
            seed=seed,
            folder=folder,
            tracker=tracker,
            initial=initial,
            record=record or {},
            cache=cache,
            team=team,
        )
        # Others would wait for ever for the gradients of one that begins its step anew.
        alone = team.size == 1
        step = within_memory(attempt, config, model_config, folder, may_split=alone)
        if team.is_writer:
            folder.finish(steps=config.steps, step=step)
        team.wait()
    return read_checkpoint(folder.checkpoint(step))


def _train(
    model_config: FamilyConfig,
    config: TrainingConfig,
    *,
    dataset: DatasetRef,
    read_data: Callable[[Split], Data],
    seed: int,
    folder: RunFolder,
    tracker: Tracker,
    initial: Checkpoint | None,
    record: Mapping[str, Any],
    cache: Path | None,
    team: Processes,
) -> int:
    """Train as one of a team; the step of the checkpoint to end with."""
    device = team.device
    precision = choose_precision(config.precision, device)
    data = read_data("train")
    if len(data) == 0:
        raise TrainingError("the training split is empty; there is nothing to learn from")

    state = _begun(model_config, config, data, folder, initial, team, precision, seed=seed)
    model = state.model
    stepper = Stepper(state, config, team=team, precision=precision)
    batches = Batches(Examples(model, data, device, cache), config, seed, team)
    read_heldout = partial(read_data, "heldout") if dataset.num_heldout else None
    at_once = config.batch_size // (config.micro_batches * team.size)
    judge = Judge(data, read_heldout, rows_at_once=at_once)
    watchdog = Watchdog(config.watch, judge, folder, tracker, team)
    curves = Curves(RATE[model.modality], is_scaled=state.scaler.is_enabled())
    rate = Rate(warmup_steps=min(10, (config.steps - state.step) // 2))
    provenance = {
        **record,
        "dataset_digest": dataset.content_digest,
        "dvc_digest": dataset.dvc_digest,
        "seed": seed,
        "micro_batches": config.micro_batches,
        "run_id": tracker.run_id,
    }
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
            shares = batches.shares(state.progress)
            set_learning_rates(state.optimizers, config, state.progress)
            scalars = stepper.take(shares)
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
                        show_samples(state, folder, tracker, data)
                if keep or problem:
                    if not problem:
                        state.progress.note_kept()
                    checkpoints.write(state.snapshot, {**provenance, "rate": rate.value})
            if watchdog.has_stalled(state.progress):
                break
    best = config.watch.early_stopping and state.progress.best_step
    return best or state.step


def _begun(
    model_config: FamilyConfig,
    config: TrainingConfig,
    data: Data,
    folder: RunFolder,
    initial: Checkpoint | None,
    team: Processes,
    precision: Precision,
    *,
    seed: int,
) -> TrainingState:
    """Model and state: from the newest whole checkpoint, from given weights, or new."""
    torch.manual_seed(seed)
    resumed = folder.newest()
    team.agree({"checkpoint": resumed and resumed.name, "precision": precision})
    model = _build(model_config, data, resumed or (Path(initial.uri) if initial else None))
    if initial:
        model.go_on(data)
    model.to(team.device)
    if model.modality == "image":
        model.to(memory_format=torch.channels_last)
    team.prepare(model)
    if config.compile:
        claim("TORCHINDUCTOR_CACHE_DIR")
        _compile(model)
    state = new_state(model, ema_decay=config.ema_decay, device=team.device, precision=precision)
    if resumed:
        _resume(state, resumed)
    return state


def _build(config: FamilyConfig, data: Data, source: Path | None) -> Generative:
    """A new model, or one of this config with the source's vocabulary and weights."""
    if source is None:
        return family_type(config.family).from_data(config, data)
    model = load_model(source, config=config)
    if isinstance(model, ImageModel) and isinstance(data, Images) and model.shape != data.shape:
        there, here = (shape.model_dump(mode="json") for shape in (model.shape, data.shape))
        raise ModelError(
            f"{source}: was trained for images of another kind: {differences(there, here)}; "
            "start without it, or bring the data to its shape (data.image_size)"
        )
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


def _compile(model: Generative) -> None:
    for part in model.parts().values():
        for network in list(part.children()) or [part]:
            # A list is never called itself, but each of its blocks is.
            for each in network if isinstance(network, nn.ModuleList) else [network]:
                each.compile()
