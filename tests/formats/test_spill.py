"""Texts that are too many for memory are kept on disk, and read as if they were not."""

import json
import tracemalloc
from pathlib import Path

import pytest

from aigc_ops.core import file_contents
from aigc_ops.core.errors import DataError
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import open_dataset, read_split
from aigc_ops.formats import spill
from aigc_ops.formats.spill import Column, Stored
from aigc_ops.modalities.text.model import TextData


def read(path: Path) -> TextData:
    config = DataConfig(path=str(path))
    data = read_split(open_dataset(config), config, "train")
    assert isinstance(data, TextData)
    return data


def conversation(number: int) -> list[dict[str, str]]:
    said = [("system", "好"), ("user", f"Hi {number}"), ("assistant", "Hello 😀")]
    said += [("user", "Bye?"), ("assistant", f"Bye {number}")]
    return [{"role": role, "content": content} for role, content in said]


def test_what_lies_on_disk_is_the_same_data(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text("".join(f"{json.dumps({'messages': conversation(i)})}\n" for i in range(60)))
    held = read(path)
    monkeypatch.setattr(spill, "MOST_IN_MEMORY", 100)
    stored = read(path)
    for ours, theirs in (
        (stored.texts, held.texts),
        (stored.prompts, held.prompts),
        (stored.histories, held.histories),
    ):
        assert isinstance(ours, Stored)
        assert isinstance(theirs, list)
        assert list(ours) == theirs
        assert ours[:3] == theirs[:3]
        assert ours[-1] == theirs[-1]
        with pytest.raises(IndexError):
            ours[len(theirs)]
    assert stored.take([5, 2]) == held.take([5, 2])
    assert list(stored.parts()) == list(held.parts())
    assert {path.name for path in home.iterdir()} <= {"cache"}  # the file has no name


def test_a_large_text_is_never_in_memory_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.txt"
    with path.open("w") as file:
        file.writelines(f"{number} {'word ' * 200}\n" for number in range(10_000))  # 10 MB
    monkeypatch.setattr(spill, "MOST_IN_MEMORY", 2**17)
    monkeypatch.setattr(file_contents, "MOST_FILE_BYTES", 0)  # small files are kept once settled
    tracemalloc.start()
    data = read(path)
    num_characters = data.num_characters
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert num_characters > 8e6
    assert peak < 3e6


def test_a_full_disk_is_told_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spill, "MOST_IN_MEMORY", 0)
    column = Column(str.encode, bytes.decode)
    column.append("a")
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(column._stored, "_file", full)
        with pytest.raises(DataError, match=r"No space left on device\); free space"):
            column.append("b")
