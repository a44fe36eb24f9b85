"""Pulses: short signals of one dimension, as little-endian float32 of one length."""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from aigc_ops.interfaces.guard import Guard
from aigc_ops.interfaces.modality import Modality
from aigc_ops.interfaces.sections import SectionConfig


class PulseDataConfig(SectionConfig):
    """Parquet column of pulses."""

    column: str = Field(default="pulse", min_length=1, description="Parquet column of pulses.")


class PulseValidationConfig(SectionConfig):
    """Requirements on pulses."""

    max_level: float = Field(default=10.0, gt=0, description="Largest absolute value.")


class PulseEvaluationConfig(SectionConfig):
    """Number of pulses to compare."""

    num_pulses: int = Field(default=64, ge=2, description="Number of pulses to generate.")


class Pulses(Modality):
    """The modality; a batch is a (N, T) float32 tensor."""

    name = "pulses"
    unit = rate_unit = "pulses"
    data_section = PulseDataConfig
    validation_section = PulseValidationConfig
    evaluation_section = PulseEvaluationConfig
    guards: ClassVar[Mapping[str, Guard]] = {
        "loudness": Guard(
            higher_is_better=True, limit=0.5, description="How much quieter pulses may be."
        )
    }
    meanings: ClassVar[Mapping[str, str]] = {
        "mean_distance": "squared distance of the mean pulses; lower is better",
        "loudness": "mean absolute level of the samples",
        "copies_in_levels": "share of samples that are training pulses",
    }

    @property
    def data(self):
        from pulses.data import PulseFiles

        return PulseFiles()

    @property
    def samples(self):
        from pulses.samples import PulseCodec

        return PulseCodec()

    @property
    def requests(self):
        from pulses.samples import PulseRequests

        return PulseRequests()

    @property
    def training(self):
        from pulses.training import PulseTraining

        return PulseTraining()

    @property
    def evaluation(self):
        from pulses.evaluation import PulseEvaluation

        return PulseEvaluation()


MODALITY = Pulses()
