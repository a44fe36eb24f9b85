"""Image modality: (C, H, W) uint8 with one or three channels, one size per dataset."""

from functools import cached_property
from typing import TYPE_CHECKING

from aigc_ops.interfaces.modality import Modality
from aigc_ops.modalities.image.config import (
    GUARDS,
    MEANINGS,
    ImageDataConfig,
    ImageEvaluationConfig,
    ImageValidationConfig,
    agreement_lines,
)

if TYPE_CHECKING:
    from torch import Tensor

    from aigc_ops.core.artifacts import Scores
    from aigc_ops.interfaces.canaries import CanaryHooks
    from aigc_ops.interfaces.evaluation import EvaluationHooks
    from aigc_ops.interfaces.ingestion import DataHooks
    from aigc_ops.interfaces.latents import ReconstructionHooks
    from aigc_ops.interfaces.sampling import RequestFields, SampleCodec
    from aigc_ops.interfaces.training import TrainingHooks


class Image(Modality["Tensor"]):
    """The image modality; a batch is a (N, C, H, W) uint8 tensor on the CPU."""

    name = "image"
    unit = rate_unit = "images"
    extra = "image"
    served_packages = ("pillow",)
    data_section = ImageDataConfig
    validation_section = ImageValidationConfig
    evaluation_section = ImageEvaluationConfig
    guards = GUARDS
    meanings = MEANINGS

    def summary(self, scores: "Scores") -> list[str]:
        """Return the line on label agreement, for models with classes."""
        return agreement_lines(scores.values)

    @cached_property
    # Each hook is imported on first use: most commands need only one, and some import torch.
    def data(self) -> "DataHooks":
        from aigc_ops.modalities.image.ingestion import ImageFiles

        return ImageFiles()

    @cached_property
    def samples(self) -> "SampleCodec[Tensor]":
        from aigc_ops.modalities.image.codec import ImageCodec

        return ImageCodec()

    @cached_property
    def requests(self) -> "RequestFields":
        from aigc_ops.modalities.image.requests import ImageRequests

        return ImageRequests()

    @cached_property
    def training(self) -> "TrainingHooks":
        from aigc_ops.modalities.image.training import ImageTraining

        return ImageTraining()

    @cached_property
    def evaluation(self) -> "EvaluationHooks":
        from aigc_ops.modalities.image.evaluation import ImageEvaluation

        return ImageEvaluation()

    @cached_property
    def canaries(self) -> "CanaryHooks":
        from aigc_ops.modalities.image.canaries import ImageCanaries

        return ImageCanaries()

    @cached_property
    def reconstruction(self) -> "ReconstructionHooks[Tensor]":
        from aigc_ops.modalities.image.reconstruction import ImageReconstruction

        return ImageReconstruction()


MODALITY = Image()
