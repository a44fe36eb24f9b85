"""Interface of a modality's samples: join, write, read, compare and show them."""

import abc
import base64
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, create_model

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.conditions import Condition
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

    def sequence(self, samples: SamplesT, requests: Sequence[SampleRequest]) -> Media:
        """Return samples that follow one another, such as an interpolation, as one medium."""
        return self.preview(samples, requests)

    def json_value(self, content: bytes) -> str:
        """Return an encoded sample as a JSON string, by default in base64."""
        return base64.b64encode(content).decode()

    def from_json_value(self, value: str) -> bytes:
        """Return the bytes that `json_value` encoded; raises ValueError if it did not."""
        return base64.b64decode(value, validate=True)

    def column_value(self, sample: Any) -> Any:
        """Return a sample as a value of MLflow's output column."""
        return self.encode(sample)

    def from_column_value(self, value: Any) -> Any:
        """Return the sample that `column_value` encoded."""
        return self.decode(value)

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


class RequestFields:
    """Fields of a sample request besides seed and controls: the conditions."""

    # The same request arrives in three forms: an HTTP body, a row of an MLflow table, a line of
    # `samples.jsonl`. All become a SampleRequest, so equal requests give equal samples.
    conditions: ClassVar[tuple[Condition[Any], ...]]
    """Conditions that a request may have."""

    # A flag, so that held-out data is decoded only for a modality that needs it.
    takes_prompts: ClassVar[bool] = False
    """True if `default_prompts` may return prompts."""

    @cached_property
    def fields(self) -> type[BaseModel]:
        """Fields that the modality adds to `POST /generate`."""
        fields: dict[str, Any] = {each.name: each.field() for each in self.conditions}
        kind: type[BaseModel] = create_model("Fields", __base__=CallFields, **fields)
        return kind

    def from_call(self, call: BaseModel) -> dict[str, Any]:
        """Return the conditions of a validated call.

        Raises ModelError when the content of a field cannot be decoded.
        """
        return self.from_record({each.name: getattr(call, each.name) for each in self.conditions})

    def to_call(self, request: SampleRequest) -> dict[str, Any]:
        """Return the JSON fields of a call for one request."""
        return self.to_record(request)

    def to_record(self, request: SampleRequest) -> dict[str, Any]:
        """Return the conditions of a request as JSON, for `samples.jsonl`; absent ones are null."""
        values = {each: each.of(request) for each in self.conditions}
        return {
            each.name: None if value is None else each.to_json(value)
            for each, value in values.items()
        }

    def from_record(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Return the conditions that `to_record` encoded; other fields are ignored."""
        return {
            each.name: each.from_json(fields[each.name])
            for each in self.conditions
            if fields.get(each.name) is not None
        }

    def from_row(
        self, model: "Generative[Any]", index: int, row: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the conditions in a row of an MLflow table; absent ones have their defaults.

        Raises ModelError naming the row when a value has the wrong type.
        """
        conditions = {}
        for each in self.conditions:
            content = row.get(each.name)
            try:
                conditions[each.name] = (
                    each.default(model, index) if content is None else each.from_column(content)
                )
            except ModelError as error:
                raise ModelError(f"row {index}: {error}") from error
        return conditions

    def default_prompts(self, heldout: Any) -> Sequence[str]:  # noqa: ARG002
        """Return prompts of held-out data for a version's golden samples; may be empty."""
        return ()


class CallFields(BaseModel):
    """Base class of the fields that a modality adds to `POST /generate`."""

    # Strict, because pydantic would otherwise accept the label "3" or true.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
