"""Small datasets made for one test."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.modalities.image.model import ImageData
from aigc_ops.modalities.text.model import TextData

PROJECT = Path(__file__).parents[2]


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(seed: int, width: int = 8, height: int = 8, mode: str = "L") -> Image.Image:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def image_rows(count: int, *, start: int = 0, **columns: Any) -> pd.DataFrame:
    """Rows of distinct 8x8 images; `columns` are lists or one value for all."""
    images = [{"bytes": encode(noise(start + i)), "path": None} for i in range(count)]
    return pd.DataFrame({"image": images} | columns)


def write_splits(folder: Path, train: pd.DataFrame, heldout: pd.DataFrame) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    train.to_parquet(folder / "train.parquet")
    heldout.to_parquet(folder / "heldout.parquet")
    return folder


def write_images(folder: Path, names: list[str]) -> Path:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(seed)))
    return folder


def images_of(path: Path, split: str = "train", **fields: object) -> ImageData:
    config = DataConfig(path=str(path), **fields)
    data = read_split(open_dataset(config), config, split)
    assert isinstance(data, ImageData)
    return data


def texts_of(path: Path, split: str = "train", **fields: object) -> TextData:
    config = DataConfig(path=str(path), **fields)
    data = read_split(open_dataset(config), config, split)
    assert isinstance(data, TextData)
    return data
