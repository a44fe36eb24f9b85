"""Conditions of requests: each form returns the value, and wrong content is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.conditions import LabelCondition, SampleCondition, check_conditions
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.request import Message, SampleRequest
from aigc_ops.interfaces.sampling import RequestFields
from aigc_ops.modalities.text.requests import HISTORY, PROMPT, STOP
from aigc_ops.sampling.files import read_samples, write_samples
from tests.sampling.test_sampler import small_gan

IMAGE = find_modality("image")
LABEL = LabelCondition("Class.")
SOURCE: SampleCondition[torch.Tensor] = SampleCondition(
    "source", IMAGE.samples, "Image to change.", max_characters=10_000
)


class Edits(RequestFields):
    """Requests with a label and an image."""

    conditions = (LABEL, SOURCE)


@pytest.fixture
def source() -> torch.Tensor:
    return torch.arange(3 * 4 * 5, dtype=torch.uint8).reshape(3, 4, 5)


def test_an_image_condition_returns_from_a_call_a_record_and_a_column(source: torch.Tensor) -> None:
    fields, request = Edits(), SampleRequest(1, {"label": 2, "source": source})
    call = fields.fields.model_validate(fields.to_call(request))
    from_row = fields.from_row(
        small_gan(num_classes=3), 0, {"label": 2.0, "source": IMAGE.samples.column_value(source)}
    )
    for conditions in (
        fields.from_call(call),
        fields.from_record(fields.to_record(request)),
        from_row,
    ):
        assert conditions["label"] == 2
        assert torch.equal(conditions["source"], source)


def test_absent_conditions_have_their_defaults_in_a_row() -> None:
    model = small_gan(num_classes=3)
    assert [Edits().from_row(model, index, {}) for index in (1, 3)] == [
        {"label": 1, "source": None},
        {"label": 0, "source": None},
    ]
    assert SampleRequest(0, Edits().from_row(model, 1, {})).conditions == {"label": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "no base64!"}, r"source cannot be decoded \(Only base64 data"),
        ({"source": "QUJ"}, r"source cannot be decoded \(Incorrect padding\); give image/png"),
        ({"source": "QUJD"}, r"source cannot be decoded \(cannot identify image file"),
        ({"source": 3}, "source cannot be decoded"),
    ],
)
def test_content_that_is_no_image_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Edits().from_record(fields)


def test_a_label_with_a_fraction_is_refused_and_not_rounded() -> None:
    with pytest.raises(ModelError, match=r"row 4: label is 1\.5; give a whole number"):
        Edits().from_row(small_gan(num_classes=3), 4, {"label": 1.5})


def test_an_unknown_condition_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="takes no source; it takes label"):
        check_conditions(SampleRequest(0, {"source": "x", "label": 1}), ("label",))


def test_a_conversation_returns_from_samples_jsonl(tmp_path: Path) -> None:
    text = find_modality("text")
    turns = (Message("user", "Hi"), Message("assistant", "Hello"))
    request = SampleRequest(3, {"prompt": "Who?", "history": turns, "stop": ("\n",)})
    write_samples(text, ["Ann"], [request], tmp_path)
    [restored], samples = read_samples(text, tmp_path)
    assert (restored, samples) == (request, ["Ann"])
    assert (PROMPT.of(restored), HISTORY.of(restored), STOP.of(restored)) == (
        "Who?",
        turns,
        ("\n",),
    )
