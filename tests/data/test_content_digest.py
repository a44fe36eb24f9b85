"""Unchanged data is read once to name it; no change is missed."""

import os
from pathlib import Path

import pytest

from aigc_ops.core import file_contents, kept_results
from aigc_ops.core.errors import DataError
from aigc_ops.data import DataConfig, Dataset, content_digest, open_dataset, read_split
from tests.data.making_data import encode, noise, write_images

NAMES = ["a/1.png", "a/2.png", "b/3.png", "b/4.png"]


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return DataConfig(path=str(write_images(tmp_path / "images", NAMES)), heldout_fraction=0.5)


@pytest.fixture
def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read for their digest, in a process that knows none."""
    names = []

    def record(path: Path) -> str:
        names.append(path.name)
        return original(path)

    original = content_digest._digest
    monkeypatch.setattr(content_digest, "_digest", record)
    monkeypatch.setattr(kept_results, "_known", {})
    return names


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this moment count as unchanged for long."""
    monkeypatch.setattr(file_contents, "SETTLED_SECONDS", -60.0)


@pytest.mark.usefixtures("settled")
def test_unchanged_data_is_read_once_and_by_a_later_process_not_at_all(
    config: DataConfig, read_files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = open_dataset(config)
    for split in ("train", "heldout"):
        read_split(ref, config, split)
    assert open_dataset(config) == ref
    assert sorted(read_files) == ["1.png", "2.png", "3.png", "4.png"]
    monkeypatch.setattr(kept_results, "_known", {})
    assert open_dataset(config) == ref
    assert len(read_files) == 4
    other = config.model_copy(update={"heldout_fraction": 0.4})
    assert open_dataset(other).content_digest != ref.content_digest


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", ["in place", "replaced", "renamed", "added", "removed"])
def test_a_change_that_keeps_size_and_time_is_noticed(
    config: DataConfig, read_files: list[str], change: str
) -> None:
    ref = open_dataset(config)
    file = Path(config.path) / "a/1.png"
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    match change:
        case "in place":
            with file.open("r+b") as opened:
                opened.write(content)
        case "replaced":
            other = file.with_name("other")
            other.write_bytes(content)
            other.replace(file)
        case "renamed":
            file = file.rename(Path(config.path) / "b/1.png")
        case "added":
            (Path(config.path) / "a/5.png").write_bytes(encode(noise(5)))
        case "removed":
            (Path(config.path) / "b/4.png").unlink()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match="changed since it was opened"):
        read_split(ref, config, "train")


def test_data_of_this_moment_is_read_every_time(config: DataConfig, read_files: list[str]) -> None:
    read_split(open_dataset(config), config, "train")
    assert len(read_files) == 8


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"0" * 64])
def test_a_damaged_entry_of_the_cache_is_not_believed(
    config: DataConfig,
    read_files: list[str],
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: bytes,
) -> None:
    ref = open_dataset(config)
    entries = [*home.glob("cache/content/*/result"), *home.glob("cache/dataset/*/result")]
    assert len(entries) == 2
    for entry in entries:
        entry.write_bytes(damage)
    monkeypatch.setattr(kept_results, "_known", {})
    assert open_dataset(config) == ref
    assert len(read_files) == 8
    monkeypatch.setattr(kept_results, "_known", {})
    assert open_dataset(config) == ref
    assert len(read_files) == 8


@pytest.mark.usefixtures("settled")
def test_without_a_place_for_the_cache_the_data_is_read_all_the_same(
    config: DataConfig, read_files: list[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.write_text("a file where the folder should be")
    ref = open_dataset(config)
    monkeypatch.setattr(kept_results, "_known", {})
    assert open_dataset(config) == ref
    assert len(read_files) == 8


@pytest.mark.usefixtures("settled")
def test_the_record_is_another_where_rows_are_read_otherwise(config: DataConfig) -> None:
    ref = open_dataset(config)
    assert ref.class_names == ("a", "b")
    assert open_dataset(config.model_copy(update={"label_column": None})).class_names == ()
    assert open_dataset(config) == ref


def test_a_dataset_decodes_each_split_once(config: DataConfig) -> None:
    dataset = Dataset(open_dataset(config), config)
    assert dataset.read("train") is dataset.read("train")
    assert dataset.read("train") is not Dataset(dataset.ref, config).read("train")
    assert len(list(dataset.rows("heldout"))) == dataset.ref.num_heldout
