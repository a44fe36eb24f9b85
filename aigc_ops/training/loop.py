"""The only training loop: every family, every device, one reading from top to bottom."""

import math
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from aigc_ops import sampling
from aigc_ops.artifacts import Checkpoint, DatasetRef
from aigc_ops.checkpoints import load_model, read_checkpoint
from aigc_ops.devices import autocast, choose_device, choose_precision
from aigc_ops.errors import ModelError, TrainingError
from aigc_ops.generative import Data, FamilyConfig, Generative, ImageData, ImageModel, TextData
from aigc_ops.models import family_type
from aigc_ops.tracking import Tracker, progress_bar
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.folder import RunFolder
from aigc_ops.training.order import DataOrder
from aigc_ops.training.rate import Rate
from aigc_ops.training.state import TrainingState, new_state, recorded_versions, versions

NUM_GRID_SAMPLES = 100
NUM_SAMPLE_TEXTS = 8
RATE = {"image": "images_per_second", "text": "tokens_per_second"}


def train(
    model_config: FamilyConfig,
    config: TrainingConfig,
    dataset: DatasetRef,
    read_data: Callable[[], Data],
    *,
    seed: int,
    folder: RunFolder,
    tracker: Tracker,
    initial: Checkpoint | None = None,
    record: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """The checkpoint after `config.steps`, resumed from `folder` when it holds an earlier one.

    `initial` gives the first weights (the resolved `config.init_from`); `record` is kept
    in each checkpoint's provenance. Raises TrainingError when a loss is not finite; the
    last good checkpoint stays.
    """
    if finished := folder.finished(config.steps):
        return finished
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    data = read_data()
    if len(data) == 0:
        raise TrainingError("the training split is empty; there is nothing to learn from")

    # Model and state: from the newest whole checkpoint, from given weights, or new.
    torch.manual_seed(seed)
    resumed = folder.newest()
    source = resumed or (Path(initial.uri) if initial else None)
    model = _build(model_config, data, source)
    model.to(device)
    if model.modality == "image":
        model.to(memory_format=torch.channels_last)
    state = new_state(model, ema_decay=config.ema_decay, seed=seed, device=device)
    if resumed:
        _resume(state, resumed)

    examples = {name: tensor.to(device) for name, tensor in model.examples(data).items()}
    num_examples = len(next(iter(examples.values())))
    order = DataOrder(num_examples=num_examples, batch_size=config.batch_size, seed=seed)
    rate = Rate(warmup_steps=min(10, (config.steps - state.step) // 2))
    prompts = data.prompts if isinstance(data, TextData) else None
    provenance = {
        **(record or {}),
        "dataset_digest": dataset.content_digest,
        "dvc_digest": dataset.dvc_digest,
        "seed": seed,
        "run_id": tracker.run_id,
    }
    model.train()
    with progress_bar(total=config.steps, initial=state.step, desc="train", unit="step") as bar:
        while state.step < config.steps:
            batch = _batch(examples, order.batch(state.step))
            losses: dict[str, float] = {}
            pairs = model.losses(batch, state.generator)
            while True:
                with autocast(device, precision):
                    pair = next(pairs, None)
                if pair is None:
                    break
                part, loss = pair
                losses[part] = loss.item()
                if not math.isfinite(losses[part]):
                    raise _diverged(part, losses[part], state.step, folder)
                _step(state, part, loss)
            state.step += 1
            state.averages.update(state.step)

            # What people look at: the bar, the metrics, the samples, the checkpoint.
            rate.count(model.example_units(batch))
            bar.update()
            last = state.step == config.steps
            if last or state.step % config.log_every == 0:
                metrics = {f"loss/{part}": value for part, value in losses.items()}
                metrics[RATE[model.modality]] = rate.value or 0.0
                tracker.log_metrics(metrics, step=state.step)
                bar.set_postfix({k: f"{v:.3g}" for k, v in metrics.items()}, refresh=False)
            if last or state.step % config.sample_every == 0:
                with rate.paused():
                    _show_samples(state, folder, tracker, prompts)
            if last or state.step % config.checkpoint_every == 0:
                with rate.paused():
                    folder.save(state, {**provenance, "rate": rate.value})
                    folder.prune(keep=config.keep_checkpoints)
    return read_checkpoint(folder.checkpoint(config.steps))


def _build(config: FamilyConfig, data: Data, source: Path | None) -> Generative:
    """A new model, or one of this config with the source's vocabulary and weights."""
    if source is None:
        return family_type(config.family).from_data(config, data)
    model = load_model(source, config=config)
    if isinstance(model, ImageModel) and isinstance(data, ImageData) and model.shape != data.shape:
        raise ModelError(f"{source}: was trained for {model.shape}, the data has {data.shape}")
    return model


def _resume(state: TrainingState, checkpoint: Path) -> None:
    written = recorded_versions(checkpoint)
    if written != versions():
        warnings.warn(
            f"{checkpoint.name} was written under {written}, this is {versions()}: the run goes "
            "on, but not bit for bit as it would have",
            stacklevel=3,
        )
    state.restore(checkpoint)
    tqdm.write(f"train: resumed after step {state.step} from {checkpoint}", file=sys.stderr)


def _batch(examples: Mapping[str, Tensor], indices: Tensor) -> dict[str, Tensor]:
    batch = {}
    for name, tensor in examples.items():
        rows = tensor[indices.to(tensor.device)]
        is_image = rows.ndim == 4
        batch[name] = rows.contiguous(memory_format=torch.channels_last) if is_image else rows
    return batch


def _step(state: TrainingState, part: str, loss: Tensor) -> None:
    optimizer = state.optimizers[part]
    optimizer.zero_grad(set_to_none=True)
    # Only this part's gradients: a generator's loss leaves the critic's weights alone.
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    torch.autograd.backward(loss, inputs=parameters)
    optimizer.step()


def _diverged(part: str, loss: float, step: int, folder: RunFolder) -> TrainingError:
    kept = folder.newest()
    advice = f"the last good checkpoint is {kept}" if kept else "no checkpoint was written yet"
    return TrainingError(
        f"the {part}'s loss became {loss} at step {step + 1}; {advice}. "
        "Lower its learning rate, or set --training.precision fp32"
    )


def _show_samples(
    state: TrainingState, folder: RunFolder, tracker: Tracker, prompts: Sequence[str] | None
) -> None:
    """Draw the same fixed-seed samples as at every other step, to be looked at in order."""
    model = state.model
    with state.averages.applied(), torch.random.fork_rng():
        model.eval()
        if isinstance(model, ImageModel):
            asked = sampling.requests(model, NUM_GRID_SAMPLES, seed=0)
            grid = sampling.grid(sampling.draw(model, asked))
            tracker.log_image("samples", grid, step=state.step)
            folder.keep_grid(grid, state.step)
        else:
            taken = sampling.servable(model, prompts or (), NUM_SAMPLE_TEXTS)
            asked = sampling.requests(model, NUM_SAMPLE_TEXTS, seed=0, prompt=taken or None)
            texts = sampling.draw(model, asked)
            pairs = zip(asked, texts, strict=True)
            lines = "".join(f"{asked.prompt or ''} => {text}\n" for asked, text in pairs)
            tracker.log_text(lines, f"samples/step-{state.step:08d}.txt")
            folder.keep_texts(lines, state.step)
        model.train()
