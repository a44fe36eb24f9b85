"""Pinned data is compared with its pin once, until the data or the pin changes."""

import hashlib
from pathlib import Path

import pytest

from aigc_ops.core import file_contents, kept_results
from aigc_ops.core.errors import DataError
from aigc_ops.data import dvc


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read to compare them, which count as unchanged for long."""
    names = []

    def record(path: Path) -> str:
        names.append(path.name)
        return original(path)

    original = dvc._file_md5
    monkeypatch.setattr(dvc, "_file_md5", record)
    monkeypatch.setattr(dvc, "_unchanged_for_dvc", lambda _: False)  # a second, each time
    monkeypatch.setattr(kept_results, "_known", {})
    monkeypatch.setattr(file_contents, "SETTLED_SECONDS", -60.0)
    return names


def pin(file: Path, content: bytes) -> str:
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    file.with_name(f"{file.name}.dvc").write_text(f"outs:\n- md5: {digest}\n  path: {file.name}\n")
    return digest


def test_only_a_pin_that_matches_is_kept(tmp_path: Path, compared: list[str]) -> None:
    file = tmp_path / "data.txt"
    file.write_bytes(b"first")
    digest = pin(file, b"first")
    assert dvc.check_pin(file) == dvc.check_pin(file) == digest
    kept_results._known.clear()
    assert dvc.check_pin(file) == digest
    assert len(compared) == 1
    file.write_bytes(b"other")
    for _ in range(2):
        with pytest.raises(DataError, match="changed since dvc add"):
            dvc.check_pin(file)
    assert len(compared) == 3
    digest = pin(file, b"other")
    assert dvc.check_pin(file) == digest


def test_another_pin_is_compared_again(tmp_path: Path, compared: list[str]) -> None:
    file = tmp_path / "data.txt"
    file.write_bytes(b"first")
    pin(file, b"first")
    dvc.check_pin(file)
    pin(file, b"other")
    with pytest.raises(DataError, match="changed since dvc add"):
        dvc.check_pin(file)
    assert len(compared) == 2
