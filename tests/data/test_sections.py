"""Settings of data by modality, and the flat names that they had before."""

from typing import Any

import pytest
from pydantic import ValidationError

from aigc_ops.data.config import DataConfig
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.modalities.image.config import ImageDataConfig

FLAT = {
    "image_size": 16,
    "memory_gb": 0.5,
    "num_workers": 7,
    "image_column": "picture",
    "documents": "line",
    "text_column": "answer",
    "messages_column": "turns",
}
NESTED: dict[str, Any] = {
    "image": {"size": 16, "memory_gb": 0.5, "num_workers": 7, "column": "picture"},
    "text": {"documents": "line", "column": "answer", "messages_column": "turns"},
}


def test_former_flat_names_are_the_fields_of_the_sections() -> None:
    nested = DataConfig(path="x", **NESTED)
    assert DataConfig(path="x", **FLAT) == nested
    assert DataConfig.model_validate({"path": "x", **FLAT}) == nested
    assert DataConfig.model_validate(nested.model_dump()) == nested
    assert nested.image == ImageDataConfig(**NESTED["image"])


def test_former_flat_names_of_the_validation_are_accepted_too() -> None:
    flat = {"min_image_side": 8, "max_image_side": 9, "min_characters": 2, "max_characters": 3}
    nested = ValidationConfig(
        image={"min_side": 8, "max_side": 9}, text={"min_characters": 2, "max_characters": 3}
    )
    assert ValidationConfig(**flat) == nested


def test_flat_and_nested_fields_may_stand_beside_one_another() -> None:
    config = DataConfig(path="x", image_size=16, image={"memory_gb": 0.5})
    assert (config.image.size, config.image.memory_gb) == (16, 0.5)
    config = DataConfig(path="x", image_size=16, image=ImageDataConfig(memory_gb=0.5))
    assert (config.image.size, config.image.memory_gb) == (16, 0.5)


@pytest.mark.parametrize("image", [{"size": 8}, ImageDataConfig(size=8), {"size": None}])
def test_one_setting_by_both_of_its_names_is_refused(image: Any) -> None:
    with pytest.raises(ValidationError, match=r"image_size is the former name of image\.size"):
        DataConfig(path="x", image_size=16, image=image)


def test_a_section_that_is_none_is_reported_as_that() -> None:
    with pytest.raises(ValidationError) as refusal:
        DataConfig(path="x", image_size=16, image="small")
    assert ("image",) in [error["loc"] for error in refusal.value.errors()]


def test_a_bad_value_under_a_former_name_is_reported_by_the_present_one() -> None:
    with pytest.raises(ValidationError) as refusal:
        DataConfig(path="x", image_size=2)
    assert [error["loc"] for error in refusal.value.errors()] == [("image", "size")]


def test_the_modality_is_one_of_those_there_are() -> None:
    with pytest.raises(ValidationError, match="should be 'auto', 'image' or 'text'"):
        DataConfig(path="x", modality="txt")
    schema = DataConfig.model_json_schema()["properties"]["modality"]
    assert (schema["enum"], schema["type"]) == (["auto", "image", "text"], "string")


def test_common_settings_come_before_those_of_a_modality() -> None:
    names = list(DataConfig.model_json_schema()["properties"])
    assert names[:3] == ["path", "modality", "heldout_fraction"]
    assert names[-2:] == ["image", "text"]
