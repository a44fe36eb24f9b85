"""Parquet whose row groups are too large to stream, copied into smaller ones."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from tqdm import tqdm

from aigc_ops.core import caches
from aigc_ops.core.artifacts import json_digest
from aigc_ops.core.atomic_dirs import verify_folder, write_folder
from aigc_ops.core.errors import CheckpointError
from aigc_ops.core.file_contents import digest_content
from aigc_ops.core.state_dir import home
from aigc_ops.formats.parquet import open_parquet
from aigc_ops.interfaces.ingestion import DataSettings
from aigc_ops.modalities.image.ingestion import image_settings


def regrouped(path: Path, config: DataSettings, *, num_rows: int) -> Path:
    """A copy with row groups of so many rows and the columns that images are read from.

    It is made once and kept in the cache, named by a digest of the file and of these; of
    several processes here, one makes it.
    """
    terms = {
        "file": digest_content(path, "sha256"),
        "columns": _columns(path, config),
        "num_rows": num_rows,
    }
    folder = home() / "cache" / "row-groups" / json_digest(terms)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        try:
            verify_folder(folder)
        except CheckpointError:  # none yet, or a damaged one
            tqdm.write(
                f"{path}: its row groups are too large to stream; copying it once, in groups of "
                f"{num_rows}, into {folder} (written with row_group_size={num_rows} it is read "
                "as it stands)",
                file=sys.stderr,
            )
            write_folder(folder, lambda partial: _copy(path, partial / path.name, config, num_rows))
        caches.mark_used(folder)
    return folder / path.name


def _columns(path: Path, config: DataSettings) -> list[str]:
    wanted = (
        image_settings(config).column,
        config.label_column,
        config.source_column,
        config.licence_column,
    )
    with open_parquet(path) as file:
        return [name for name in file.schema_arrow.names if name in wanted]


def _copy(path: Path, target: Path, config: DataSettings, num_rows: int) -> None:
    columns = _columns(path, config)
    with open_parquet(path, buffer_size=2**20) as file:  # else a whole row group is read at once
        schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        # Encoded images are as small as they get, and no two are alike.
        labels = [name for name in columns if name != image_settings(config).column]
        with pq.ParquetWriter(target, schema, use_dictionary=labels, compression="none") as writer:
            for batch in file.iter_batches(num_rows, columns=columns):
                writer.write_batch(batch, num_rows)
