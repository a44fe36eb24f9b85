"""One step of one batch: every part's loss, its gradients, and their use."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aigc_ops.compute.devices import Precision, autocast
from aigc_ops.interfaces.model import Loss
from aigc_ops.training.batches import Share
from aigc_ops.training.config import TrainingConfig
from aigc_ops.training.distributed import Processes
from aigc_ops.training.state import Progress, TrainingState


def set_learning_rates(
    optimizers: Mapping[str, torch.optim.Optimizer], config: TrainingConfig, progress: Progress
) -> None:
    """Set each group's rate for the coming step: its own, by schedule and rollbacks."""
    factor = config.learning_rate_factor(progress.step)
    factor *= config.watch.rollback_learning_rate**progress.attempt
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            rate = group.setdefault("initial_lr", group["lr"]) * factor
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate


def take_step(
    state: TrainingState,
    shares: Sequence[Share],
    *,
    team: Processes,
    precision: Precision,
    max_norm: float | None,
) -> Mapping[str, Tensor]:
    """Step every part once over shares of equal size; losses and metrics, as scalars.

    The shares go through a part's loss together, so each part meets the updated parts
    before it whatever their number.
    """
    games = [state.model.losses(share.batch, share.noise) for share in shares]
    is_alone = len(games) * team.size == 1  # weights cancel out then
    seen: dict[str, list[Tensor]] = defaultdict(list)
    weights: dict[str, list[Tensor]] = defaultdict(list)
    while True:
        stepped, counts = None, list[Tensor]()
        for game in games:
            with autocast(team.device, precision):
                found = next(game, None)
            if found is None:
                break
            loss = Loss(*found)
            weight = None if is_alone else loss.weight
            counts.append(torch.ones_like(loss.value.detach()) if weight is None else weight)
            optimizer = state.optimizers[loss.part]
            if stepped is None:
                optimizer.zero_grad(set_to_none=True)
            stepped = loss.part
            # Only this part's gradients: a generator's loss leaves the critic's weights alone.
            scaled = state.scaler.scale(loss.value * counts[-1] / len(games))
            torch.autograd.backward(scaled, inputs=_parameters(optimizer))
            for name, scalar in {f"loss/{stepped}": loss.value, **loss.metrics}.items():
                seen[name].append(scalar.detach() * counts[-1])
                weights[name].append(counts[-1])
        if stepped is None:
            break
        total = None if is_alone else torch.stack(counts).mean()
        norm = _use_gradients(state, stepped, total, team, max_norm)
        seen[f"gradient_norm/{stepped}"].append(norm)
    # Means, also over the steps of a part that is stepped several times.
    scalars = {name: torch.stack(values).mean() for name, values in seen.items()}
    means = {name: torch.stack(values).mean() for name, values in weights.items()}
    team.average([*scalars.values(), *means.values()])
    return {name: value / means.get(name, 1) for name, value in scalars.items()}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]


def _use_gradients(
    state: TrainingState, part: str, weight: Tensor | None, team: Processes, max_norm: float | None
) -> Tensor:
    """Average over processes, clip and step; the gradients' norm before they were clipped.

    `weight`: the mean of those by which the shares' losses were multiplied.
    """
    optimizer = state.optimizers[part]
    parameters = [p for p in _parameters(optimizer) if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if weight is not None:
        team.average([*gradients, weight])
        torch._foreach_div_(gradients, weight)
    state.scaler.unscale_(optimizer)
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    state.scaler.step(optimizer)
    state.scaler.update()
    return norm
