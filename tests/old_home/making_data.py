"""The old home's own data: a few rows of images and of texts, the same on every machine."""

import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

WRITTEN = 1_767_225_600
"""Seconds since 1970 at which the files were written: a whole number, which an archive keeps."""
TERMS = {"source": "made for a test", "licence": "CC0-1.0"}


def write_images(folder: Path) -> None:
    """Grey images of 8x8 pixels in two classes, each noise about a stripe of its own."""
    rng = np.random.default_rng(0)
    for split, num in (("train", 48), ("heldout", 16)):
        pixels = rng.integers(0, 60, (num, 8, 8), dtype=np.uint8)
        labels = [index % 2 for index in range(num)]
        for index, label in enumerate(labels):
            pixels[index, :, label * 4 : label * 4 + 2] += 190
        rows = [{"image": _png(each), "label": k} for each, k in zip(pixels, labels, strict=True)]
        _write(folder / f"{split}.parquet", rows)


def write_dialogue(folder: Path) -> None:
    """Questions after sums, and their answers."""
    rows = [
        {"prompt": f"what is {a} and {b}?", "text": f"{a} and {b} make {a + b}."}
        for a in range(8)
        for b in range(8)
    ]
    _write(folder / "train.parquet", rows[::2])
    _write(folder / "heldout.parquet", rows[1::4])


def _png(pixels: "np.ndarray[tuple[int, int], np.dtype[np.uint8]]") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([{**row, **TERMS} for row in rows]), path)
    os.utime(path, (WRITTEN, WRITTEN))
