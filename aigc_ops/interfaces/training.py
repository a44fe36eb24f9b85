"""Interface of a modality for the training loop."""

import abc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.media import Media
from aigc_ops.interfaces.model import Generative

Monitor = Callable[[Generative[Any]], Mapping[str, float]]
"""Function that returns metrics named `samples/...` of a model in eval mode with EMA weights."""


class TrainingHooks(abc.ABC):
    """Interface of a modality for measuring and showing samples during training."""

    # False by default: sampling tokens from NaN logits raises an error, unlike showing NaN pixels.
    previews_failures: bool = False
    """True if samples of a failed model can be shown; its weights may be inf or NaN."""
    memory_settings: tuple[str, ...] = ()
    """Dotted data settings that an out-of-memory message suggests to lower."""

    def monitor(self, train: TrainingData) -> Monitor | None:  # noqa: ARG002
        """Return a function that measures samples against the training data, or None.

        It runs many times, so it must be cheap. Its metrics are for monitoring, not for
        comparing models.
        """
        # A function, so that statistics of the training data are computed once per run.
        return None

    def heldout_examples(
        self, model: Generative[Any], data: TrainingData, num: int
    ) -> dict[str, Tensor]:
        """Return at most `num` held-out examples, whose loss is monitored."""
        import torch

        return model.examples(data.take(torch.arange(min(num, len(data)))))

    def example_data(self) -> Mapping[str, TrainingData]:
        """Return small datasets by name, on which families are tested (aigc_ops/laws).

        About 32 samples each, made without files. Where one dataset is enough, the first is used.
        Without any, most tests of a family are skipped.
        """
        return {}

    @abc.abstractmethod
    def preview(self, model: Generative[Any], data: TrainingData | None) -> Media:
        """Return samples from fixed seeds, so that the previews of two steps are comparable.

        `data` may provide prompts.
        """

    def check_start(  # noqa: B027 - most modalities have nothing to check
        self, model: Generative[Any], data: TrainingData, source: Path
    ) -> None:
        """Raise ModelError when a loaded model does not fit the data to train on."""
