"""What is measured and shown while a text model trains."""

from bisect import bisect_left
from itertools import accumulate
from typing import Any

from torch import Tensor

from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.media import Media
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.training import TrainingHooks
from aigc_ops.modalities.text.codec import TextCodec
from aigc_ops.modalities.text.model import TextData
from aigc_ops.sampling import sampler

NUM_TEXTS = 8
NUM_CHARACTERS = 2**18
"""Of held-out texts at first, then four times as many until there are enough examples."""


class TextTraining(TrainingHooks):
    """The loss of held-out texts, and some samples."""

    def heldout_examples(
        self, model: Generative[Any], data: TrainingData, num: int
    ) -> dict[str, Tensor]:
        """Return the first examples of the first texts that fill as many rows."""
        assert isinstance(data, TextData), type(data)
        ends, num_characters = list(accumulate(map(len, data.texts))), NUM_CHARACTERS
        while True:
            num_texts = min(len(data), bisect_left(ends, num_characters) + 1)
            examples = model.examples(data.take(range(num_texts)))
            if num_texts == len(data) or len(next(iter(examples.values()))) >= num:
                return {name: rows[:num].clone() for name, rows in examples.items()}
            num_characters *= 4

    def preview(self, model: Generative[Any], data: TrainingData | None) -> Media:
        prompts = data.prompts if isinstance(data, TextData) else None
        taken = sampler.servable(model, prompts or (), NUM_TEXTS)
        requests = sampler.requests(model, NUM_TEXTS, seed=0, prompt=taken or None)
        return TextCodec().preview(sampler.draw(model, requests), requests)
