"""Interface of a modality, a kind of samples; docs/add-a-modality.md explains how to add one.

A modality is one object in one folder. Stages call it and never compare its name, so a modality of
another package works in data, training, evaluation, promotion, registry and service like those of
this package. Importing a modality must be quick: its parts are imported at their first use.
"""

import abc
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

if TYPE_CHECKING:
    from aigc_ops.core.artifacts import Scores
    from aigc_ops.interfaces.canaries import CanaryHooks
    from aigc_ops.interfaces.evaluation import EvaluationHooks
    from aigc_ops.interfaces.guard import Guard
    from aigc_ops.interfaces.ingestion import DataHooks
    from aigc_ops.interfaces.latents import ReconstructionHooks
    from aigc_ops.interfaces.sampling import RequestFields, SampleCodec
    from aigc_ops.interfaces.sections import SectionConfig
    from aigc_ops.interfaces.training import TrainingHooks

SamplesT = TypeVar("SamplesT")


class Modality(abc.ABC, Generic[SamplesT]):
    """A kind of samples, such as images; `SamplesT` is the type of a batch."""

    # Records, metrics and configs store `name` and `rate_unit`: never change them later.
    name: ClassVar[str]
    """Name in configs and records, such as "image"."""
    unit: ClassVar[str]
    """Noun for samples in the plural, such as "images"."""
    rate_unit: ClassVar[str]
    """Unit of throughput, such as "tokens": rates are reported as `tokens_per_second`."""

    extra: ClassVar[str | None] = None
    """Extra of aigc-ops that evaluation of its models needs, such as "text"; None: none."""
    served_packages: ClassVar[tuple[str, ...]] = ()
    """Packages that a service of its models imports, besides those of every service."""

    # Settings. A section is a field under the modality's name in that stage's config.
    data_section: ClassVar["type[SectionConfig] | None"] = None
    """Settings under `data.NAME`."""
    validation_section: ClassVar["type[SectionConfig] | None"] = None
    """Settings under `validation.NAME`."""
    evaluation_section: ClassVar["type[SectionConfig] | None"] = None
    """Settings under `evaluation.NAME`."""
    guards: ClassVar["Mapping[str, Guard]"] = {}
    """Guards by score name; `promotion.guards` holds their limits."""
    meanings: ClassVar[Mapping[str, str]] = {}
    """Explanation of each metric by its name, for reports and packets."""

    def summary(self, scores: "Scores") -> list[str]:  # noqa: ARG002 - an optional hook
        """Return lines for people that explain scores by one another."""
        return []

    @property
    def rate_name(self) -> str:
        """Key of a rate in records and JSON answers."""
        return f"{self.rate_unit}_per_second"

    # The parts are properties, so that each can import its module, and torch, when it is used:
    # the command line imports every modality for its settings alone.
    @property
    @abc.abstractmethod
    def data(self) -> "DataHooks":
        """Hooks that turn files into rows and rows into training data."""

    @property
    @abc.abstractmethod
    def samples(self) -> "SampleCodec[SamplesT]":
        """Codec that joins, writes, reads, compares and shows samples."""

    @property
    @abc.abstractmethod
    def requests(self) -> "RequestFields":
        """Fields of a sample request besides seed and controls."""

    @property
    @abc.abstractmethod
    def training(self) -> "TrainingHooks":
        """Hooks that measure and show samples during training."""

    @property
    @abc.abstractmethod
    def evaluation(self) -> "EvaluationHooks":
        """Hooks that score a trained model and compare two models."""

    @property
    def canaries(self) -> "CanaryHooks | None":
        """Hooks for canaries in the training data (`evaluation.canaries`); None: not possible."""
        return None

    @property
    def reconstruction(self) -> "ReconstructionHooks[SamplesT] | None":
        """Hooks that read samples and compare them with reconstructions; None without them."""
        return None
