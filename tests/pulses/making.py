"""Data for the toy modality: two classes of noisy waves."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LENGTH = 16


def write_pulses(folder: Path, *, num: int = 200) -> Path:
    """Write a folder of train.parquet and heldout.parquet with columns pulse and label."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, rows in (("train", num), ("heldout", num // 4)):
        labels = [index % 2 for index in range(rows)]
        phase = np.linspace(0, 2 * np.pi, LENGTH)
        waves = [np.sin((1 + label) * phase) + 0.1 * rng.normal(size=LENGTH) for label in labels]
        content = [wave.astype("<f4").tobytes() for wave in waves]
        table = pa.table({"pulse": pa.array(content, pa.binary()), "label": labels})
        pq.write_table(table, folder / f"{split}.parquet")
    return folder


CONFIG = """\
data: {{path: {data}}}
model: {{family: gauss}}
training: {{steps: {steps}, batch_size: 16}}
promotion: {{approval: automatic, unexamined: allow}}
"""
