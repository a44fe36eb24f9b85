"""Optional interfaces: interpolating between samples, and reconstructing given ones.

A model family implements `Interpolates` or `Reconstructs`, or both, by having their methods. A
modality implements `ReconstructionHooks` where samples can be read from files and compared.
"""

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar, runtime_checkable

from aigc_ops.interfaces.media import Media
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.interfaces.row import Row

if TYPE_CHECKING:
    from aigc_ops.interfaces.model import Generative

SamplesT = TypeVar("SamplesT")
ReadT_co = TypeVar("ReadT_co", covariant=True)


@runtime_checkable
class Interpolates(Protocol[ReadT_co]):
    """A family whose latent codes can be interpolated."""

    def interpolate(self, start: SampleRequest, end: SampleRequest, num: int) -> ReadT_co:
        """Return `num` samples, 2 or more, from the first request's sample to the second's.

        The ends are what `sample` returns for the two requests. These differ only in their seeds.
        """


@runtime_checkable
class Reconstructs(Protocol[SamplesT]):
    """A family that encodes given samples, and decodes their codes again."""

    def reconstruct(self, samples: SamplesT, requests: Sequence[SampleRequest]) -> SamplesT:
        """Return the reconstructions of samples, one per request; equal inputs give equal ones.

        The requests hold the conditions of the samples, such as their labels.
        """


class ReconstructionHooks(abc.ABC, Generic[SamplesT]):
    """Interface of a modality for reading samples, and comparing them with reconstructions."""

    metric: ClassVar[str]
    """Name of the error, such as "psnr"."""
    definition: ClassVar[str]
    """Definition of the error, with its unit."""

    @abc.abstractmethod
    def read(self, model: "Generative[SamplesT]", rows: Sequence[Row]) -> SamplesT:
        """Return rows as samples of the model's own shape.

        They are read like training data. Raises DataError naming the first unreadable row.
        """

    @abc.abstractmethod
    def errors(self, samples: SamplesT, reconstructions: SamplesT) -> list[float]:
        """Return the error of each reconstruction, in a unit of which the mean makes sense."""

    @abc.abstractmethod
    def score(self, errors: Sequence[float]) -> float | None:
        """Return the metric of one or more errors; None if it is infinite."""

    @abc.abstractmethod
    def pairs(self, samples: SamplesT, reconstructions: SamplesT) -> Media:
        """Return samples beside their reconstructions as one medium."""
