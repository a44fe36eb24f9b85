"""Copy Parquet files whose row groups are too large to stream into smaller row groups."""

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
from aigc_ops.interfaces.ingestion import DataSettings, licence_column
from aigc_ops.modalities.image.ingestion import image_settings


def regrouped(path: Path, config: DataSettings, *, num_rows: int) -> Path:
    """Return a cached copy with `num_rows` per row group and only the columns that are read."""
    # The entry is named by all that it depends on, so a changed file or column gets its own.
    terms = {
        "file": digest_content(path, "sha256"),
        "columns": _columns(path, config),
        "num_rows": num_rows,
    }
    folder = home() / "cache" / "row-groups" / json_digest(terms)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Several training processes on one machine need the same copy: one makes it, others wait.
    with FileLock(folder.with_suffix(".lock")):
        try:
            verify_folder(folder)
        except CheckpointError:  # there is no copy yet, or a damaged one
            tqdm.write(
                f"{path}: its row groups are too large to stream; copying it once, in groups of "
                f"{num_rows}, into {folder} (a file written with row_group_size={num_rows} "
                "needs no copy)",
                file=sys.stderr,
            )
            write_folder(folder, lambda partial: _copy(path, partial / path.name, config, num_rows))
        caches.mark_used(folder)
    return folder / path.name


def _columns(path: Path, config: DataSettings) -> list[str]:
    with open_parquet(path) as file:
        found = file.schema_arrow.names
    wanted = (
        image_settings(config).column,
        config.label_column,
        config.source_column,
        licence_column(found, config),
    )
    return [name for name in found if name in wanted]


def _copy(path: Path, target: Path, config: DataSettings, num_rows: int) -> None:
    columns = _columns(path, config)
    with open_parquet(path, buffer_size=2**20) as file:  # otherwise a whole row group is read
        schema = pa.schema([file.schema_arrow.field(name) for name in columns])
        # Encoded images neither compress further nor repeat, so only labels get a dictionary.
        labels = [name for name in columns if name != image_settings(config).column]
        with pq.ParquetWriter(target, schema, use_dictionary=labels, compression="none") as writer:
            for batch in file.iter_batches(num_rows, columns=columns):
                writer.write_batch(batch, num_rows)
