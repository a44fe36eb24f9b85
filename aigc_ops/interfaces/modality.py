"""All that differs between kinds of samples; docs/add-a-modality.md explains how to add one.

A modality is one object, in one folder. Stages ask it and never compare its name: a modality that
lies in another package goes through data, training, evaluation, promotion, registry and service
like those of this package. Importing a modality must be quick: its parts are imported when they
are first used.
"""

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from aigc_ops.interfaces.evaluation import EvaluationHooks
    from aigc_ops.interfaces.guard import Guard
    from aigc_ops.interfaces.ingestion import DataHooks
    from aigc_ops.interfaces.sampling import RequestFields, SampleCodec
    from aigc_ops.interfaces.sections import SectionConfig
    from aigc_ops.interfaces.training import TrainingHooks

SamplesT = TypeVar("SamplesT")


class Modality(abc.ABC, Generic[SamplesT]):
    """One kind of samples, such as images; `SamplesT` holds a batch of them."""

    name: ClassVar[str]
    """Its name in configs and records, such as "image"."""
    unit: ClassVar[str]
    """What is counted, in the plural, such as "images"."""
    rate_unit: ClassVar[str]
    """What training counts, such as "tokens": rates are reported as `tokens_per_second`."""
    data_section: ClassVar["type[SectionConfig] | None"] = None
    """Settings under `data.NAME`."""
    validation_section: ClassVar["type[SectionConfig] | None"] = None
    """Settings under `validation.NAME`."""
    evaluation_section: ClassVar["type[SectionConfig] | None"] = None
    """Settings under `evaluation.NAME`."""
    guards: ClassVar["Mapping[str, Guard]"] = {}
    """Scores that must not get worse than the champion's, by name; limits: `promotion.guards`."""
    meanings: ClassVar[Mapping[str, str]] = {}
    """What each metric means, by its name, for reports and packets."""

    @property
    def rate_name(self) -> str:
        """Key of a rate in records and JSON answers."""
        return f"{self.rate_unit}_per_second"

    @property
    @abc.abstractmethod
    def data(self) -> "DataHooks":
        """How files become rows, and rows become training data."""

    @property
    @abc.abstractmethod
    def samples(self) -> "SampleCodec[SamplesT]":
        """How samples are joined, written, read, compared and shown."""

    @property
    @abc.abstractmethod
    def requests(self) -> "RequestFields":
        """What a sample can be asked for, beside its seed and controls."""

    @property
    @abc.abstractmethod
    def training(self) -> "TrainingHooks":
        """What is measured and shown while a model trains."""

    @property
    @abc.abstractmethod
    def evaluation(self) -> "EvaluationHooks":
        """How a trained model is scored, and compared with another."""
