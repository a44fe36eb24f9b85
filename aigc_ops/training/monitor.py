"""Online metrics: cheap measurements of a model while it trains, on little data.

They steer one run: they stop it, roll it back, or choose its best checkpoint. They are never a
model's score; those come from the evaluate stage.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aigc_ops.compute.random import Noise
from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.discriminator import (
    MIN_SCORED,
    NUM_SCORED,
    HasDiscriminator,
    pairs_above,
    scored_rows,
)
from aigc_ops.interfaces.model import Generative, Loss
from aigc_ops.interfaces.training import Monitor, TrainingHooks

NUM_HELDOUT = 256


class OnlineMetrics:
    """Metrics of generated samples, and the loss on a fixed batch of held-out examples.

    Held-out data is read at the first call. `rows_at_once` limits the rows of one pass through
    the networks to the size of a micro-batch, for which memory is known to suffice.
    """

    def __init__(
        self,
        hooks: TrainingHooks,
        train: TrainingData,
        read_heldout: Callable[[], TrainingData] | None,
        *,
        rows_at_once: int,
    ) -> None:
        self._hooks, self._rows_at_once, self._train = hooks, rows_at_once, train
        self._read_heldout = read_heldout
        self._monitor: Monitor | None = hooks.monitor(train)
        self._heldout: dict[str, Tensor] = {}
        self._scored: list[dict[str, Tensor]] = []

    def measure(self, model: Generative[Any]) -> dict[str, float]:
        """Return metrics of the model, which must be in eval mode with its EMA weights."""
        figures: dict[str, float] = {}
        if self._monitor:
            figures |= self._monitor(model)
        if self._read_heldout and model.judged_by.startswith("heldout/"):
            if not self._heldout:
                data = self._read_heldout()
                self._heldout = self._hooks.heldout_examples(model, data, NUM_HELDOUT)
            figures["heldout/loss"] = self._heldout_loss(model)
        if self._read_heldout and isinstance(model, HasDiscriminator):
            figures |= self._discriminator_figures(model, self._read_heldout)
        return figures

    def _discriminator_figures(
        self, model: Any, read_heldout: Callable[[], TrainingData]
    ) -> dict[str, float]:
        """Return the AUC with which the discriminator ranks training examples above held-out ones.

        It is 0.5 without overfitting (membership inference by Hayes et al. 2019). Karras et al.
        2020, eq. 1, compare the means of the scores instead (their r_v): in a healthy run these
        approach those of samples, so that the ratio rises without any memorisation.
        """
        if not self._scored:
            splits = (self._train, read_heldout())
            if min(map(len, splits)) < MIN_SCORED:
                return {}
            self._scored = [
                model.examples(data.take(scored_rows(len(data), NUM_SCORED))) for data in splits
            ]
        train, heldout = (self._discriminator_scores(model, batch) for batch in self._scored)
        return {"critic/membership_auc": pairs_above(train, heldout).mean().item()}

    def _discriminator_scores(self, model: HasDiscriminator, batch: dict[str, Tensor]) -> Tensor:
        num, at_once = len(next(iter(batch.values()))), self._rows_at_once
        scores = [
            model.discriminator_scores(
                {name: rows[first : first + at_once] for name, rows in batch.items()}
            )
            for first in range(0, num, at_once)
        ]
        return torch.cat(scores)

    @torch.no_grad()
    def _heldout_loss(self, model: Generative[Any]) -> float:
        """Return the mean loss of the held-out batch, summed over the model's parts."""
        device = next(model.parameters()).device
        num = len(next(iter(self._heldout.values())))
        sums: dict[str, float] = defaultdict(float)
        weights: dict[str, float] = defaultdict(float)
        for first in range(0, num, self._rows_at_once):
            rows = slice(first, min(num, first + self._rows_at_once))
            batch = {name: values[rows].to(device) for name, values in self._heldout.items()}
            # Seed 0 at every step, so that a change of the loss is a change of the model.
            for pair in model.losses(batch, Noise(0, rows=rows, batch_size=num, device=device)):
                loss = Loss(*pair)
                weight = (rows.stop - first) * (1.0 if loss.weight is None else loss.weight.item())
                weights[loss.part] += weight
                if weight:  # the mean over no targets is NaN
                    sums[loss.part] += weight * loss.value.item()
        return sum(total / weights[part] for part, total in sums.items())
