"""Interface of a modality's samples: join, write, read, compare and show them."""

import abc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from aigc_ops.interfaces.media import Media
from aigc_ops.interfaces.request import SampleRequest

if TYPE_CHECKING:
    from aigc_ops.interfaces.model import Generative

METADATA_KEY = "aigc_ops"
"""Key of the metadata inside a sample file, such as the keyword of a PNG's tEXt chunk."""
SamplesT = TypeVar("SamplesT")
Metadata = Mapping[str, Any]
"""Metadata embedded in a sample: the model's URI and manifest digest, and the request."""


class SampleCodec(abc.ABC, Generic[SamplesT]):
    """Operations on a batch of samples; a batch can be indexed like a list."""

    # Files
    suffix: ClassVar[str]
    """File suffix of samples, such as ".png"."""
    is_numbered: ClassVar[bool] = True
    """True if each sample is a file of its own: `00000.png`, `00001.png` and so on."""
    # Service and mlflow.pyfunc. Clients depend on these names: never change them later.
    media_type: ClassVar[str]
    """Media type of an encoded sample in an HTTP response."""
    json_name: ClassVar[str]
    """Key of a sample in JSON responses, and name of MLflow's output column."""
    json_names: ClassVar[str]
    """Key of the list of samples in JSON responses."""
    column_type: ClassVar[str]
    """MLflow type of the output column: "binary" or "string"."""

    @abc.abstractmethod
    def join(self, batches: Sequence[SamplesT]) -> SamplesT:
        """Return all samples of several batches, in order."""

    def count(
        self,
        model: "Generative[SamplesT]",  # noqa: ARG002
        requests: Sequence[SampleRequest],
        samples: SamplesT,  # noqa: ARG002
    ) -> int:
        """Return how many of the modality's `rate_unit` were generated."""
        return len(requests)

    def amount(self, samples: SamplesT) -> int:
        """Return how much was generated, to compare the sampling times of two models."""
        # Overridden where samples differ in size: a model that writes short texts is not fast.
        return len(samples)  # type: ignore[arg-type]

    @abc.abstractmethod
    def encode(self, sample: Any, metadata: Metadata | None = None) -> bytes:
        """Return a sample encoded as `media_type`, with metadata if the format supports it."""

    @abc.abstractmethod
    def decode(self, content: bytes) -> Any:
        """Return the sample that `encode` made."""

    @abc.abstractmethod
    def stack(self, samples: Sequence[Any]) -> SamplesT:
        """Return a batch of single samples; the list may be empty."""

    @abc.abstractmethod
    def difference(self, content: bytes, sample: Any) -> int:
        """Return the largest difference of an encoded sample from another, 0 (equal) to 255.

        The unit is 1/255 of full scale. The result is 255 for samples of different shape.
        """
        # A tolerance above 0 is needed: another CPU or library rounds floats differently.

    @abc.abstractmethod
    def preview(self, samples: SamplesT, requests: Sequence[SampleRequest]) -> Media:
        """Return all samples as one medium."""

    def json_value(self, content: bytes) -> str:
        """Return an encoded sample as a JSON string, by default in base64."""
        import base64

        return base64.b64encode(content).decode()

    def column_value(self, sample: Any) -> Any:
        """Return a sample as a value of MLflow's output column."""
        return self.encode(sample)

    def read_metadata(self, path: Path) -> str | None:  # noqa: ARG002
        """Return the JSON metadata embedded in a sample file; None if there is none.

        Raises ModelError when the file cannot be read.
        """
        return None

    def write(
        self,
        samples: SamplesT,
        folder: Path,
        metadata: Callable[[int], Metadata | None],
    ) -> list[str]:
        """Write every sample into a folder; return each sample's file name, in order.

        By default each sample is a numbered file; a modality may write several into one file.
        """
        names = [f"{index:05d}{self.suffix}" for index in range(len(samples))]  # type: ignore[arg-type]
        for index, name in enumerate(names):
            content = self.encode(samples[index], metadata(index))  # type: ignore[index]
            (folder / name).write_bytes(content)
        return names

    def record(self, sample: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return the fields of a sample's line in `samples.jsonl` that describe the sample."""
        return {}

    def read(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> SamplesT:
        """Return the samples of the given lines of `samples.jsonl`, in order."""
        # The file's name alone: a line with a path must not read a file outside the folder.
        content = ((folder / Path(row["file"]).name).read_bytes() for row in rows)
        return self.stack([self.decode(each) for each in content])


class RequestFields(abc.ABC):
    """Fields of a sample request besides seed and controls."""

    # The same request arrives in three forms: an HTTP body, a row of an MLflow table, a line of
    # `samples.jsonl`. All become a SampleRequest, so equal requests give equal samples.
    fields: ClassVar[type[BaseModel]]
    """Fields that the modality adds to `POST /generate`."""
    columns: ClassVar[Mapping[str, str]]
    """MLflow's optional input columns: name to type ("long", "string" or "binary")."""
    echoed: ClassVar[tuple[str, ...]] = ()
    """Input columns that MLflow's output repeats besides the seed."""
    in_answers: ClassVar[tuple[str, ...]] = ()
    """Request fields that JSON responses repeat besides the seed."""

    # A flag, so that held-out data is decoded only for a modality that needs it.
    takes_prompts: ClassVar[bool] = False
    """True if `default_prompts` may return prompts."""

    @abc.abstractmethod
    def arguments(self, call: BaseModel) -> dict[str, Any]:
        """Return the keyword arguments of `sampler.requests` for a validated call."""

    @abc.abstractmethod
    def call(self, request: SampleRequest) -> dict[str, Any]:
        """Return the JSON fields of a call for one request."""

    @abc.abstractmethod
    def record(self, request: SampleRequest) -> dict[str, Any]:
        """Return the fields of a request in `samples.jsonl`, without the seed."""

    @abc.abstractmethod
    def from_row(
        self, model: "Generative[Any]", index: int, row: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the keyword arguments of a SampleRequest for a row of an MLflow table.

        Raises ModelError naming the row when a value has the wrong type.
        """

    def default_prompts(self, heldout: Any) -> Sequence[str]:  # noqa: ARG002
        """Return prompts of held-out data for a version's golden samples; may be empty."""
        return ()


class CallFields(BaseModel):
    """Base class of the fields that a modality adds to `POST /generate`."""

    # Strict, because pydantic would otherwise accept the label "3" or true.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
