"""A modality that another package offers is found, read and validated like those of this one."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from aigc_ops.core.errors import DataError
from aigc_ops.data import dataset
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.data.validation.suite import validate
from aigc_ops.interfaces import discovery
from aigc_ops.interfaces.ingestion import DataSettings
from aigc_ops.interfaces.sections import with_sections
from tests.data.making_data import encode, noise, write_images, write_splits
from tests.data.pulses import Pulse, PulseData


@pytest.fixture(autouse=True)
def config_type(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The type of `data` in a process where the modality is installed."""
    offered = {discovery.MODALITIES: {"pulse": SimpleNamespace(load=Pulse, module="pulse")}}
    monkeypatch.setattr(discovery, "external", lambda group: offered.get(group, {}))
    discovery.find_modality.cache_clear()
    yield with_sections(DataSettings, "data_section")
    discovery.find_modality.cache_clear()


def pulses(num: int, *, start: int = 0, length: int = 8) -> list[bytes]:
    values = np.random.default_rng(start).normal(size=(num, length)).astype(np.float32)
    return [row.tobytes() for row in values]


def test_pulses_are_found_in_parquet(tmp_path: Path, config_type: Any) -> None:
    rows = pd.DataFrame({"pulse": pulses(6), "label": ["up", "down"] * 3, "licence": "MIT"})
    write_splits(tmp_path, rows[:4], rows[4:])
    config = config_type(path=str(tmp_path), pulse={"gain": 2})
    ref = dataset.open_dataset(config)
    assert (ref.modality, ref.num_train, ref.num_heldout) == ("pulse", 4, 2)
    assert ref.shape == {"length": 8, "class_names": ["down", "up"]}
    assert (ref.class_names, ref.licences, ref.image_shape) == (("down", "up"), ("MIT",), None)
    data = dataset.read_split(ref, config, "train")
    assert isinstance(data, PulseData)
    expected = np.stack([np.frombuffer(row, np.float32) for row in rows["pulse"][:4]])
    assert torch.equal(data.pulses, 2 * torch.from_numpy(expected))
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 1, 0]


def write_pulses(folder: Path, contents: list[bytes]) -> Path:
    """Files in two folders for each split, beside a README.md."""
    for index, content in enumerate(contents):
        split = "train" if index % 3 else "heldout"
        path = folder / split / ("up" if index % 2 else "down") / f"{index:02d}.f32"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "README.md").write_text("# Pulses\n\nMany.\n")
    return folder


def test_pulses_are_found_as_files_beside_a_readme(tmp_path: Path, config_type: Any) -> None:
    config = config_type(path=str(write_pulses(tmp_path, pulses(12))))
    ref = dataset.open_dataset(config)
    assert (ref.modality, ref.num_train, ref.num_heldout) == ("pulse", 8, 4)
    assert ref.class_names == ("down", "up")
    data = dataset.read_split(ref, config, "heldout")
    assert isinstance(data, PulseData)
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 1, 1]


def test_unsplit_files_are_split_by_content(tmp_path: Path, config_type: Any) -> None:
    for index, content in enumerate(pulses(40)):
        (tmp_path / f"{index}.f32").write_bytes(content)
    ref = dataset.open_dataset(config_type(path=str(tmp_path), heldout_fraction=0.3))
    assert ref.num_train + ref.num_heldout == 40
    assert ref.num_heldout > 2
    assert ref.class_names == ()


def test_bad_pulses_are_named_by_validation_and_by_reading(
    tmp_path: Path, config_type: Any
) -> None:
    good = pulses(12)
    good[4] = b"abc"
    good[7] = good[5]
    good[8] = good[8][:4]
    config = config_type(path=str(write_pulses(tmp_path / "data", good)))
    ref = dataset.open_dataset(config)
    rules = ValidationConfig(max_duplicate_fraction=0)
    report = validate(ref, config, rules, folder=tmp_path / "report")
    assert report.failures == (
        "every row can be decoded: fails for 1 row: train/down/04.f32 "
        "(error 3 bytes are no float32 values)",
        "at most 0.00% of the rows repeat another one and are left out: fails for 1 row: "
        "train/up/07.f32 (duplicate_of train/up/05.f32); to allow it: "
        "--validation.max-duplicate-fraction 0.09",
        "every pulse has 8 values: fails for 1 row: train/down/08.f32 (length 1)",
    )
    with pytest.raises(DataError, match=r"train/down/04\.f32: 3 bytes are no float32 values"):
        dataset.read_split(ref, config, "train")


def test_a_pulse_without_a_class_beside_others_fails(tmp_path: Path, config_type: Any) -> None:
    labels = pd.array([0, 1, None, 0], dtype="Int64")
    train = pd.DataFrame({"pulse": pulses(4), "label": labels})
    heldout = pd.DataFrame({"pulse": pulses(1, start=9), "label": [0]})
    config = config_type(path=str(write_splits(tmp_path / "data", train, heldout)))
    report = validate(
        dataset.open_dataset(config), config, ValidationConfig(), folder=tmp_path / "report"
    )
    assert report.failures == (
        "every pulse has a label: fails for 1 row: train.parquet row 2; "
        "to allow it: --data.label-column ''",
    )


def test_the_config_can_name_it(tmp_path: Path, config_type: Any) -> None:
    schema = config_type.model_json_schema()["properties"]["modality"]
    assert schema["enum"] == ["auto", "image", "text", "pulse"]
    write_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "1.f32").write_bytes(pulses(1)[0])
    assert dataset.open_dataset(config_type(path=str(tmp_path))).modality == "image"
    named = config_type(path=str(tmp_path), modality="pulse")
    assert dataset.open_dataset(named).modality == "pulse"


def test_of_two_modalities_that_fit_the_one_with_the_higher_priority_is_taken(
    tmp_path: Path, config_type: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pd.DataFrame({"pulse": pulses(1), "image": [encode(noise(0))], "text": "a"})
    path = str(write_splits(tmp_path, frame, frame))
    for priority, expected in ((0, "image"), (60, "pulse")):
        monkeypatch.setattr(Pulse.data, "priority", priority, raising=False)
        assert dataset.open_dataset(config_type(path=path)).modality == expected


def test_what_is_missing_is_listed_with_it(tmp_path: Path, config_type: Any) -> None:
    with pytest.raises(DataError, match="no Parquet, no images, no pulses and no text files"):
        dataset.open_dataset(config_type(path=str(tmp_path)))
    rows = pd.DataFrame({"other": [1]})
    write_splits(tmp_path, rows, rows)
    wanted = r"'image' \(data\.image\.column\) or 'beat' \(data\.pulse\.column\) or 'text'"
    with pytest.raises(DataError, match=f"expected a column {wanted}"):
        dataset.open_dataset(config_type(path=str(tmp_path), pulse={"column": "beat"}))
