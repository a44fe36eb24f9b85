"""Optimisation step: loss, gradients and update of each part of a model."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aigc_ops.compute.devices import Precision, autocast
from aigc_ops.interfaces.model import Loss
from aigc_ops.training.batches import MicroBatch
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.distributed import ProcessGroup
from aigc_ops.training.state import Progress, TrainingState


def set_learning_rates(
    optimizers: Mapping[str, torch.optim.Optimizer], config: TrainingConfig, progress: Progress
) -> None:
    """Set each parameter group's learning rate for the coming step."""
    factor = config.learning_rate_factor(progress.step)
    factor *= config.watch.rollback_learning_rate**progress.attempt
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            # The group's own rate is kept aside, as torch's schedulers do, since lr is overwritten.
            rate = group.setdefault("initial_lr", group["lr"]) * factor
            # A recorded step reads the rate from GPU memory, so its tensor must stay the same one.
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def take_step(
    state: TrainingState,
    micro_batches: Sequence[MicroBatch],
    *,
    processes: ProcessGroup,
    precision: Precision,
    max_norm: float | None,
) -> Mapping[str, Tensor]:
    """Update every part of the model over micro-batches of equal size.

    Returns the step's mean losses, metrics and gradient norms by name, as scalar tensors on the
    device. A part may be yielded several times in a step, as a GAN's discriminator is.
    """
    # Each iterator yields the losses of one micro-batch, part after part. They advance in
    # lockstep: all micro-batches finish a part before any begins the next, so a later part's
    # loss sees the updated weights of the earlier one, however the batch is split.
    loss_iterators = [
        state.model.losses(micro_batch.batch, micro_batch.noise) for micro_batch in micro_batches
    ]
    is_alone = len(loss_iterators) * processes.size == 1  # weights cancel out then
    sums: dict[str, list[Tensor]] = defaultdict(list)
    weights: dict[str, list[Tensor]] = defaultdict(list)
    while True:
        # 1. Accumulate one part's gradients over the micro-batches.
        stepped, counts = None, list[Tensor]()
        for loss_iterator in loss_iterators:
            with autocast(processes.device, precision):
                pair = next(loss_iterator, None)
            if pair is None:
                break
            loss = Loss(*pair)
            # A micro-batch with fewer targets (padding, short texts) weighs less in the mean.
            weight = None if is_alone else loss.weight
            counts.append(torch.ones_like(loss.value.detach()) if weight is None else weight)
            optimizer = state.optimizers[loss.part]
            if stepped is None:  # the first micro-batch of this part
                optimizer.zero_grad(set_to_none=True)
            stepped = loss.part
            # Only this part's gradients: a generator's loss leaves the discriminator's alone.
            scaled = state.scaler.scale(loss.value * counts[-1] / len(loss_iterators))
            torch.autograd.backward(scaled, inputs=_parameters(optimizer))
            for name, scalar in {f"loss/{stepped}": loss.value, **loss.metrics}.items():
                sums[name].append(scalar.detach() * counts[-1])
                weights[name].append(counts[-1])
        if stepped is None:
            break
        # 2. Divide by the mean weight, clip, and update the part before its successors' losses.
        total = None if is_alone else torch.stack(counts).mean()
        norm = _use_gradients(state, stepped, total, processes, max_norm)
        sums[f"gradient_norm/{stepped}"].append(norm)
    # 3. Average over micro-batches, over repeated updates of a part, and over processes. Sums and
    # weights are averaged apart: a mean of ratios would count a small micro-batch like a large one.
    scalars = {name: torch.stack(values).mean() for name, values in sums.items()}
    means = {name: torch.stack(values).mean() for name, values in weights.items()}
    processes.average([*scalars.values(), *means.values()])
    return {name: value / means.get(name, 1) for name, value in scalars.items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    # Autograd raises when a frozen weight is among the inputs of a backward pass.
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def _use_gradients(
    state: TrainingState,
    part: str,
    weight: Tensor | None,
    processes: ProcessGroup,
    max_norm: float | None,
) -> Tensor:
    """Average gradients over processes, clip them and step; return their norm before clipping.

    `weight` is the mean weight of the micro-batches' losses; None when it is 1.
    """
    optimizer = state.optimizers[part]
    parameters = [p for p in _parameters(optimizer) if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if weight is not None:
        processes.average([*gradients, weight])
        torch._foreach_div_(gradients, weight)
    # fp16: the norm is that of unscaled gradients, else the clipping bound would be scaled too.
    state.scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    state.scaler.step(optimizer)
    state.scaler.update()
    return norm
