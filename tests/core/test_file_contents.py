"""Small files are read once; memory stays bounded, and no change is missed."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import pytest

from aigc_ops.core import file_contents, kept_results
from aigc_ops.core.file_contents import digest_content, keep_content, kept_content, read_content
from aigc_ops.core.kept_results import recall_or_compute


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is in memory, and files of this moment count as unchanged for long."""
    monkeypatch.setattr(file_contents, "_kept", type(file_contents._kept)())
    monkeypatch.setattr(kept_results, "_known", {})
    monkeypatch.setattr(file_contents, "SETTLED_SECONDS", -60.0)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_an_unchanged_file_is_served_from_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"first")
    assert kept_content(path) is None
    first = keep_content(path)
    assert first == b"first"
    assert kept_content(path) is first
    assert read_content(path) is first


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_digest_is_the_same_from_memory_and_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: Literal["sha256", "md5"]
) -> None:
    path = write(tmp_path / "a", b"first")
    expected = hashlib.new(algorithm, b"first").hexdigest()
    assert digest_content(path, algorithm) == expected
    file_contents._kept.clear()
    monkeypatch.setattr(file_contents, "SETTLED_SECONDS", 60.0)
    assert digest_content(path, algorithm) == expected
    assert not file_contents._kept


def test_a_replaced_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"first")
    status = path.stat()
    keep_content(path)
    write(tmp_path / "b", b"other").replace(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert kept_content(path) is None
    assert read_content(path) == b"other"


def test_memory_is_bounded_and_the_longest_unused_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_contents, "MOST_FILE_BYTES", 4)
    monkeypatch.setattr(file_contents, "MOST_BYTES", 8)
    a, b, c = (write(tmp_path / name, b"four") for name in "abc")
    for path in (a, b, a, c):
        assert keep_content(path) == b"four"
    assert [path.name for path in (a, b, c) if kept_content(path)] == ["a", "c"]
    assert keep_content(write(tmp_path / "large", b"large")) is None


def test_files_of_this_moment_pipes_and_missing_files_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert keep_content(tmp_path / "pipe") is None
    assert keep_content(tmp_path / "missing") is None
    monkeypatch.setattr(file_contents, "SETTLED_SECONDS", 2.0)
    assert keep_content(write(tmp_path / "new", b"new")) is None


def test_a_result_is_computed_again_only_for_other_files_or_terms(tmp_path: Path) -> None:
    path = write(tmp_path / "a", b"first")
    results = iter(["", "one", "two", "three"])

    def recall(terms: object) -> str:
        return recall_or_compute("kind", terms, {"a": path}, lambda: next(results))

    assert [recall(1), recall(1), recall(1), recall(2)] == ["", "one", "one", "two"]
    kept_results._known.clear()
    assert recall(1) == "one"
    write(path, b"other one")
    assert recall(1) == "three"
