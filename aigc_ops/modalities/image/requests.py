"""Request fields of images: the class label."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.interfaces.sampling import CallFields, RequestFields


class LabelField(CallFields):
    """The class of an image."""

    label: int | None = Field(
        default=None,
        ge=0,
        description="Class to generate; by default a conditional model cycles through its classes.",
    )


class ImageRequests(RequestFields):
    """The class label, which a model with classes needs."""

    fields = LabelField
    columns = {"label": "long"}  # noqa: RUF012 - typed by the base class
    echoed = in_answers = ("label",)

    def arguments(self, call: BaseModel) -> dict[str, Any]:
        return {"label": call.label}  # type: ignore[attr-defined]

    def call(self, request: SampleRequest) -> dict[str, Any]:
        return {"label": request.label}

    def record(self, request: SampleRequest) -> dict[str, Any]:
        return {"label": request.label}

    def from_row(
        self, model: Generative[Any], index: int, row: Mapping[str, Any]
    ) -> dict[str, Any]:
        label = row.get("label")
        # Rows without a label cycle through the classes, as requests of a call do.
        if label is None and model.num_classes:
            label = index % model.num_classes
        return {"label": None if label is None else int(label)}
