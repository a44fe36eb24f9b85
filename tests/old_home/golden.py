"""The samples that a registered version keeps, compared with those that are drawn of it now."""

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from tests.old_home.place import HOME


def folder_of(manifest_digest: str) -> Path:
    """The folder in which MLflow keeps a version."""
    for file in HOME.glob("mlflow/artifacts/**/MLmodel"):
        if yaml.safe_load(file.read_text())["metadata"]["manifest_digest"] == manifest_digest:
            return file.parent
    raise AssertionError(manifest_digest)


def check_golden(folder: Path, draw: Callable[[list[dict[str, int]]], Iterable[bytes]]) -> None:
    """Each kept image is drawn again, to a level of 255: `draw` gives PNGs of seeds and labels."""
    golden = folder / "checkpoint" / "golden"
    rows = [json.loads(line) for line in (golden / "samples.jsonl").read_text().splitlines()]
    drawn = draw([{"seed": row["seed"], "label": row["label"]} for row in rows])
    for png, row in zip(drawn, rows, strict=True):
        before = pixels((golden / row["file"]).read_bytes())
        assert before.max() - before.min() > 50, "a picture of nothing would tell nothing"
        assert np.abs(pixels(png) - before).max() <= 1


def pixels(png: bytes) -> Any:
    """Levels of a picture, with room for differences."""
    with Image.open(io.BytesIO(png)) as opened:
        return np.array(opened, dtype=np.int16)
