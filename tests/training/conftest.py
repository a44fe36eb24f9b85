"""Data that the tests of training share."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image


@pytest.fixture(scope="package")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 images of noise in two classes, 74 kB decoded, in row groups of two."""
    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(0)
    for name, num in (("train-0", 48), ("train-1", 48), ("heldout", 8)):
        rows = [{"image": {"bytes": encoded(generator)}, "label": i % 2} for i in range(num)]
        pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet", row_group_size=2)
    return folder


def encoded(generator: np.random.Generator) -> bytes:
    file = BytesIO()
    pixels = generator.integers(0, 256, (28, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
