"""Conditions: the named inputs of a sample request, such as a class label or a prompt."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import Field, JsonValue

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import SampleRequest

if TYPE_CHECKING:
    from aigc_ops.interfaces.model import Generative
    from aigc_ops.interfaces.sampling import SampleCodec

ValueT = TypeVar("ValueT")


class Condition(Generic[ValueT]):
    """A named input of a request, and its form in JSON and in a column of an MLflow table."""

    # Clients and records store the name: never change it later.
    name: str
    """Key in `SampleRequest.conditions`, in JSON and in `samples.jsonl`; name of the column."""
    column_type: str
    """MLflow type of the column: "long", "string" or "binary"."""
    is_echoed: bool = False
    """True if MLflow's output repeats the column."""
    is_in_answers: bool = False
    """True if JSON responses with several samples repeat the value."""

    def of(self, request: SampleRequest) -> ValueT | None:
        """Return the condition's value in a request; None if it has none."""
        return request.conditions.get(self.name)

    def field(self) -> tuple[Any, Any]:
        """Return type and settings of the field of `POST /generate`; its default is None."""
        return Any, Field(default=None)

    def to_json(self, value: ValueT) -> JsonValue:
        """Return the value as JSON."""
        return value  # type: ignore[return-value]

    def from_json(self, content: Any) -> ValueT | None:
        """Return the value that `to_json` encoded; None if the content requests nothing.

        Raises ModelError when the content is invalid.
        """
        return content  # type: ignore[no-any-return]

    def from_column(self, content: Any) -> ValueT | None:
        """Return the value in a cell of an MLflow table; raises ModelError if it is invalid."""
        return self.from_json(content)

    def default(self, model: "Generative[Any]", index: int) -> ValueT | None:  # noqa: ARG002
        """Return the value of the index-th sample of a call without this condition."""
        return None

    def header(self, value: ValueT) -> str | None:  # noqa: ARG002
        """Return the value for the response header `X-AIGC-NAME`; None: no such header."""
        return None


class LabelCondition(Condition[int]):
    """Class label: the index of one of the model's classes."""

    name = "label"
    column_type = "long"
    is_echoed = is_in_answers = True

    def __init__(self, description: str) -> None:
        self.description = description

    def field(self) -> tuple[Any, Any]:
        return int | None, Field(default=None, ge=0, description=self.description)

    def from_column(self, content: Any) -> int:
        # pandas turns integers with a gap into floats: 7.0 is a label, 7.5 is not.
        if content != int(content):
            raise ModelError(f"label is {content}; give a whole number")
        return int(content)

    def default(self, model: "Generative[Any]", index: int) -> int | None:
        """Return a label that cycles through the model's classes; None without classes."""
        return index % model.num_classes if model.num_classes else None

    def header(self, value: int) -> str:
        return str(value)


class SampleCondition(Condition[ValueT]):
    """A sample of a modality as an input, such as a prompt, encoded by that modality's codec."""

    def __init__(
        self,
        name: str,
        codec: "SampleCodec[Any]",
        description: str,
        *,
        max_characters: int,
        is_echoed: bool = False,
    ) -> None:
        self.name = name
        self.codec = codec
        self.description = description
        self.max_characters = max_characters
        self.is_echoed = is_echoed
        self.column_type = codec.column_type

    def field(self) -> tuple[Any, Any]:
        limits = Field(default=None, max_length=self.max_characters, description=self.description)
        return str | None, limits

    def to_json(self, value: ValueT) -> JsonValue:
        return self.codec.json_value(self.codec.encode(value))

    def from_json(self, content: Any) -> ValueT:
        codec = self.codec
        return self._decoded(lambda: codec.decode(codec.from_json_value(content)))

    def from_column(self, content: Any) -> ValueT:
        return self._decoded(lambda: self.codec.from_column_value(content))

    def _decoded(self, decode: Callable[[], ValueT]) -> ValueT:
        try:
            return decode()
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self.name} cannot be decoded ({error}); give {self.codec.media_type}"
            ) from error


def check_conditions(request: SampleRequest, accepted: tuple[str, ...]) -> None:
    """Raise ModelError when the request has a condition that is not among the accepted names."""
    for name in request.conditions:
        if name not in accepted:
            raise ModelError(f"this model takes no {name}; it takes {', '.join(accepted)}")


def check_label(request: SampleRequest, num_classes: int) -> None:
    """Raise ModelError unless the label suits a model of `num_classes` classes (0: no label).

    Conditions other than a label are refused too.
    """
    check_conditions(request, ("label",))
    label = request.conditions.get("label")
    if label is None and num_classes:
        raise ModelError(f"this model needs a label; give one from 0 to {num_classes - 1}")
    if label is not None and not num_classes:
        raise ModelError("this model has no classes; leave the label out")
    if label is not None and not 0 <= label < num_classes:
        raise ModelError(f"label {label} is outside 0..{num_classes - 1}")
