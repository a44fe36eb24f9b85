"""Unfinished runs of earlier code are found: the name of a run outlives later settings."""

from typing import Any, ClassVar

import pytest
from pydantic import Field

from aigc_ops.core.artifacts import DatasetRef, ImageShape
from aigc_ops.core.stable_values import stable_values
from aigc_ops.data.config import DataConfig
from aigc_ops.models.gan import GanConfig
from aigc_ops.models.gpt import GptConfig
from aigc_ops.training import TrainingConfig, run_key
from aigc_ops.training.config import WatchConfig

IMAGES = DatasetRef(
    uri="memory",
    modality="image",
    content_digest="1" * 64,
    num_train=9,
    num_heldout=1,
    image_shape=ImageShape(channels=1, height=32, width=32, class_names=("0", "1")),
)
TEXTS = DatasetRef(
    uri="memory", modality="text", content_digest="2" * 64, num_train=9, num_heldout=1
)
RESIZED = {"size": 32, "num_workers": 7, "memory_gb": 2.0}
PARAGRAPHS = {"documents": "paragraph", "column": "answer", "messages_column": "turns"}


def image_key(**data: Any) -> str:
    config = DataConfig(path="data/mnist", heldout_fraction=0.2, **data)
    training = TrainingConfig(steps=500, ema_decay=0.99)
    return run_key(GanConfig(), training, IMAGES, config, seed=3)


def text_key(**data: Any) -> str:
    config = DataConfig(path="data/dialogue", prompt_column=None, **data)
    training = TrainingConfig(watch=WatchConfig(early_stopping=3))
    return run_key(GptConfig(width=64, num_heads=2), training, TEXTS, config, seed=0)


# The keys and digests below were computed by version 0.1 (commit e686a90).


def test_the_keys_of_version_0_1_are_what_they_were() -> None:
    assert image_key(image=RESIZED) == "9bb86d7345ea9d26"
    assert text_key(text=PARAGRAPHS) == "d3d1b57f9286bee8"


def test_former_flat_names_give_the_same_keys() -> None:
    assert image_key(image_size=32, num_workers=1, memory_gb=2.0) == "9bb86d7345ea9d26"
    flat = {"documents": "paragraph", "text_column": "answer", "messages_column": "turns"}
    assert text_key(**flat) == "d3d1b57f9286bee8"


def test_records_of_datasets_have_the_digests_that_they_had() -> None:
    images = "aaab96e5f00d00b46f84a53fbea01c9fe9bbf83425fe5f9296b82238d85ff278"
    texts = "315c324201964352da4a3dce610e7ce251e5ce5a5f336dae7a7d92a8ba4bc6fd"
    assert (IMAGES.digest, TEXTS.digest) == (images, texts)
    assert "shape" not in TEXTS.model_dump(mode="json")


def test_another_modalitys_shape_is_part_of_its_record_and_of_the_key() -> None:
    pulses = TEXTS.model_copy(update={"modality": "pulse", "shape": {"length": 64}})
    longer = TEXTS.model_copy(update={"modality": "pulse", "shape": {"length": 65}})
    assert DatasetRef.model_validate_json(pulses.model_dump_json()) == pulses
    keys = {
        run_key(GanConfig(), TrainingConfig(), ref, DataConfig(path="x"), seed=0)
        for ref in (TEXTS, pulses, longer)
    }
    assert len(keys) == 3


class LaterWatch(WatchConfig):
    added_fields: ClassVar[frozenset[str]] = frozenset({"sound"})
    sound: bool = False


class LaterTraining(TrainingConfig):
    added_fields: ClassVar[frozenset[str]] = frozenset({"momentum"})
    momentum: float = Field(default=0.5)
    watch: LaterWatch = LaterWatch()


class LaterGan(GanConfig):
    added_fields: ClassVar[frozenset[str]] = frozenset({"extra"})
    extra: int = 0


@pytest.mark.parametrize(
    ("model", "training", "is_same"),
    [
        (LaterGan(), LaterTraining(), True),
        (LaterGan(extra=1), LaterTraining(), False),
        (LaterGan(), LaterTraining(momentum=0.9), False),
        (LaterGan(), LaterTraining(watch=LaterWatch(sound=True)), False),
    ],
)
def test_a_later_field_changes_the_key_only_when_it_is_used(
    model: LaterGan, training: LaterTraining, is_same: bool
) -> None:
    data = DataConfig(path="x")
    before = run_key(GanConfig(), TrainingConfig(), IMAGES, data, seed=0)
    assert (run_key(model, training, IMAGES, data, seed=0) == before) == is_same


def test_a_field_that_is_not_declared_as_later_is_always_part_of_the_values() -> None:
    class Careless(GanConfig):
        extra: int = 0

    assert stable_values(Careless())["extra"] == 0
