"""A stored stage result is read as JSON of its own kind; anything else is computed again."""

import json
import lzma
import os
import pickle
from pathlib import Path

import pytest

from aigc_ops.core.artifacts import ValidationReport
from aigc_ops.pipeline.stage_records import recall_or_compute


class Malice:
    """Makes a folder where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_whatever_else_a_record_holds_is_computed_again_and_never_loaded(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = ValidationReport(
        success=True,
        dataset_digest="0" * 64,
        num_expectations=1,
        num_rows=2,
        json_uri="report.json",
        html_uri="report.html",
    )
    assert recall_or_compute("key", ValidationReport, lambda: result) == result
    (path,) = (home / "stages").iterdir()
    whole, loaded = path.read_bytes(), tmp_path / "loaded"
    pickled = pickle.dumps(Malice(loaded))
    planted = {"type": "json", "object_decoder": "os.mkdir"}
    for content in (
        pickled,
        lzma.compress(pickled),
        json.dumps({"metadata": {"serializer": planted}, "result": str(loaded)}).encode(),
        json.dumps({"__class__": "pathlib.Path", "data": str(loaded)}).encode(),
        whole[:-9],
    ):
        path.write_bytes(content)
        assert recall_or_compute("key", ValidationReport, lambda: result) == result
        assert f"{path.name} is not a valid record" in capfd.readouterr().err
        assert path.read_bytes() == whole
    assert recall_or_compute("key", ValidationReport, pytest.fail) == result
    assert not loaded.exists()
