"""Text modality: documents, or answers with their prompts and conversations."""

from functools import cached_property
from typing import TYPE_CHECKING

from aigc_ops.interfaces.modality import Modality
from aigc_ops.modalities.text.config import (
    GUARDS,
    MEANINGS,
    TextDataConfig,
    TextEvaluationConfig,
    TextValidationConfig,
)

if TYPE_CHECKING:
    from aigc_ops.interfaces.canaries import CanaryHooks
    from aigc_ops.interfaces.evaluation import EvaluationHooks
    from aigc_ops.interfaces.ingestion import DataHooks
    from aigc_ops.interfaces.sampling import RequestFields, SampleCodec
    from aigc_ops.interfaces.training import TrainingHooks


class Text(Modality[list[str]]):
    """The text modality; a batch is a list of strings."""

    name = "text"
    unit = "texts"
    rate_unit = "tokens"
    extra = "text"
    served_packages = ("huggingface-hub", "peft", "tokenizers", "transformers")
    data_section = TextDataConfig
    validation_section = TextValidationConfig
    evaluation_section = TextEvaluationConfig
    guards = GUARDS
    meanings = MEANINGS

    @cached_property
    # Each hook is imported on first use: most commands need only one, and some import torch.
    def data(self) -> "DataHooks":
        from aigc_ops.modalities.text.ingestion import TextFiles

        return TextFiles()

    @cached_property
    def samples(self) -> "SampleCodec[list[str]]":
        from aigc_ops.modalities.text.codec import TextCodec

        return TextCodec()

    @cached_property
    def requests(self) -> "RequestFields":
        from aigc_ops.modalities.text.requests import TextRequests

        return TextRequests()

    @cached_property
    def training(self) -> "TrainingHooks":
        from aigc_ops.modalities.text.training import TextTraining

        return TextTraining()

    @cached_property
    def evaluation(self) -> "EvaluationHooks":
        from aigc_ops.modalities.text.evaluation import TextEvaluation

        return TextEvaluation()

    @cached_property
    def canaries(self) -> "CanaryHooks":
        from aigc_ops.modalities.text.canaries import TextCanaries

        return TextCanaries()


MODALITY = Text()
