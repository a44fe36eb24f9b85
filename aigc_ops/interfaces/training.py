"""What a modality does for the training loop."""

import abc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.media import Media
from aigc_ops.interfaces.model import Generative

Monitor = Callable[[Generative[Any]], Mapping[str, float]]
"""Figures of the model as it is, by name `samples/...`; it is in eval mode, with its averages."""


class TrainingHooks(abc.ABC):
    """What is measured and shown while a model trains."""

    previews_failures: bool = False
    """Whether samples of a model that failed are worth showing; its weights may not be finite."""
    memory_settings: tuple[str, ...] = ()
    """Dotted settings of the data that a run may lower when memory runs out."""

    def monitor(self, train: TrainingData) -> Monitor | None:  # noqa: ARG002
        """Return a measurement of samples against the training data; None: there is none.

        It is asked several times in a run, so it must be cheap; it steers the run and is never a
        score.
        """
        return None

    def heldout_examples(
        self, model: Generative[Any], data: TrainingData, num: int
    ) -> dict[str, Tensor]:
        """Return at most `num` examples of held-out data, of which the loss is watched."""
        import torch

        return model.examples(data.take(torch.arange(min(num, len(data)))))

    @abc.abstractmethod
    def preview(self, model: Generative[Any], data: TrainingData | None) -> Media:
        """Return samples of the same seeds at every step, to be looked at in order.

        `data` may give prompts.
        """

    def check_start(  # noqa: B027 - most modalities have nothing to check
        self, model: Generative[Any], data: TrainingData, source: Path
    ) -> None:
        """Raise ModelError when a stored model does not fit the data that it starts on."""
