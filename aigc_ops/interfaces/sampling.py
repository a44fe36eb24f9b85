"""What a modality does with samples: join, write, read, compare and show them."""

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
"""Name of the metadata inside a file of a sample, such as the keyword of a PNG's tEXt chunk."""
SamplesT = TypeVar("SamplesT")
Metadata = Mapping[str, Any]
"""What a sample carries about its origin: the model's URI and manifest digest, its request."""


class SampleCodec(abc.ABC, Generic[SamplesT]):
    """Operations on a batch of samples; a batch is indexed like a list."""

    suffix: ClassVar[str]
    """Of a file that holds samples, such as ".png"."""
    is_numbered: ClassVar[bool] = True
    """Whether each sample is a file of its own, `00000.png` and so on."""
    media_type: ClassVar[str]
    """Of one encoded sample, as the service sends it."""
    json_name: ClassVar[str]
    """Key of one sample in the service's JSON answers and of MLflow's output column."""
    json_names: ClassVar[str]
    """Key of the list of samples in the service's JSON answers."""
    column_type: ClassVar[str]
    """MLflow's type of that column: "binary" or "string"."""

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
        """Return how much was generated, for comparing the times of two models."""
        return len(samples)  # type: ignore[arg-type]

    @abc.abstractmethod
    def encode(self, sample: Any, metadata: Metadata | None = None) -> bytes:
        """Return one sample as `media_type`, with its metadata where the format has room."""

    @abc.abstractmethod
    def decode(self, content: bytes) -> Any:
        """Return the sample that `encode` made."""

    @abc.abstractmethod
    def stack(self, samples: Sequence[Any]) -> SamplesT:
        """Return a batch of single samples; there may be none."""

    @abc.abstractmethod
    def difference(self, content: bytes, sample: Any) -> int:
        """Return how far an encoded sample is from another one, 0 (equal) to 255.

        In steps of a 255th of full scale; 255 where the two cannot be compared.
        """

    @abc.abstractmethod
    def preview(self, samples: SamplesT, requests: Sequence[SampleRequest]) -> Media:
        """Return all samples at once, to be looked at or listened to."""

    def json_value(self, content: bytes) -> str:
        """Return an encoded sample as it is put into JSON."""
        import base64

        return base64.b64encode(content).decode()

    def column_value(self, sample: Any) -> Any:
        """Return one sample as MLflow's output column holds it."""
        return self.encode(sample)

    def read_metadata(self, path: Path) -> str | None:  # noqa: ARG002
        """Return the JSON metadata that a file of one sample carries; None without any.

        Raises ModelError for a file that cannot be read.
        """
        return None

    def write(
        self,
        samples: SamplesT,
        folder: Path,
        metadata: Callable[[int], Metadata | None],
    ) -> list[str]:
        """Write every sample into a folder; return the file of each, in order.

        A file per sample, numbered, unless the modality keeps several in one.
        """
        names = [f"{index:05d}{self.suffix}" for index in range(len(samples))]  # type: ignore[arg-type]
        for index, name in enumerate(names):
            content = self.encode(samples[index], metadata(index))  # type: ignore[index]
            (folder / name).write_bytes(content)
        return names

    def record(self, sample: Any) -> dict[str, Any]:  # noqa: ARG002
        """Return what the line of a sample in `samples.jsonl` holds of the sample itself."""
        return {}

    def read(self, folder: Path, rows: Sequence[Mapping[str, Any]]) -> SamplesT:
        """Return the samples that the lines of `samples.jsonl` name, in order."""
        content = ((folder / Path(row["file"]).name).read_bytes() for row in rows)
        return self.stack([self.decode(each) for each in content])


class RequestFields(abc.ABC):
    """What a sample can be asked for, beside its seed and controls."""

    fields: ClassVar[type[BaseModel]]
    """Fields of `POST /generate` that this modality adds."""
    columns: ClassVar[Mapping[str, str]]
    """Name and type of MLflow's optional input columns: "long", "string" or "binary"."""
    echoed: ClassVar[tuple[str, ...]] = ()
    """Columns that MLflow's output repeats beside the seed."""
    in_answers: ClassVar[tuple[str, ...]] = ()
    """Fields of a request that the service's JSON answers repeat beside the seed."""

    takes_prompts: ClassVar[bool] = False
    """Whether `default_prompts` finds any, for which held-out data is read."""

    @abc.abstractmethod
    def arguments(self, call: BaseModel) -> dict[str, Any]:
        """Return the arguments of `sampler.requests` for a validated call."""

    @abc.abstractmethod
    def call(self, request: SampleRequest) -> dict[str, Any]:
        """Return the JSON fields of a call that asks for one request."""

    @abc.abstractmethod
    def record(self, request: SampleRequest) -> dict[str, Any]:
        """Return what a line of `samples.jsonl` holds of a request, its seed left out."""

    @abc.abstractmethod
    def from_row(
        self, model: "Generative[Any]", index: int, row: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the arguments of a SampleRequest for a row of an MLflow table.

        Raises ModelError naming the row for a value of another form.
        """

    def default_prompts(self, heldout: Any) -> Sequence[str]:  # noqa: ARG002
        """Return prompts of held-out data that a registered version is asked; empty: none."""
        return ()


class CallFields(BaseModel):
    """Base of the fields that a modality adds to `POST /generate`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
