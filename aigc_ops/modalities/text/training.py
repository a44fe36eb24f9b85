"""Training hooks of text models: held-out examples and previews."""

from bisect import bisect_left
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

from torch import Tensor

from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.media import Media
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.training import TrainingHooks
from aigc_ops.modalities.text.codec import TextCodec
from aigc_ops.modalities.text.model import TextData
from aigc_ops.modalities.text.requests import prompt_conditions
from aigc_ops.sampling import sampler

NUM_TEXTS = 8
NUM_CHARACTERS = 2**18  # of held-out texts that are tokenised first


class TextTraining(TrainingHooks):
    """Training hooks: the loss of held-out texts, and previews of samples."""

    def heldout_examples(
        self, model: Generative[Any], data: TrainingData, num: int
    ) -> dict[str, Tensor]:
        """Return the first `num` examples of the held-out texts."""
        assert isinstance(data, TextData), type(data)
        # How many texts fill `num` rows is known only after tokenising and packing them. Four
        # times as many characters are tried until there are enough, instead of all texts at once.
        ends, num_characters = list(accumulate(map(len, data.texts))), NUM_CHARACTERS
        while True:
            num_texts = min(len(data), bisect_left(ends, num_characters) + 1)
            examples = model.examples(data.take(range(num_texts)))
            if num_texts == len(data) or len(next(iter(examples.values()))) >= num:
                # A copy, since a view would keep all rows in memory.
                return {name: rows[:num].clone() for name, rows in examples.items()}
            num_characters *= 4

    def example_data(self) -> Mapping[str, TrainingData]:
        from aigc_ops.modalities.text.example_data import example_data

        return example_data()

    def preview(self, model: Generative[Any], data: TrainingData | None) -> Media:
        prompts = data.prompts if isinstance(data, TextData) else None
        prompts = sampler.filter_valid_prompts(model, prompts or (), NUM_TEXTS)
        requests = sampler.requests(model, NUM_TEXTS, seed=0, conditions=prompt_conditions(prompts))
        return TextCodec().preview(sampler.generate(model, requests), requests)
