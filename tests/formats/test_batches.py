"""Parquet in batches: all rows, in little memory."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aigc_ops.data import DataConfig
from aigc_ops.formats.layout import find_layout
from aigc_ops.formats.parquet import MOST_BYTES, read_batches
from aigc_ops.formats.rows import read_rows
from aigc_ops.interfaces.ingestion import all_data_hooks

VALUE = b"x" * 2**20
NUM_ROWS = 300


def shared(values: list[bytes], *, binary: bool) -> pa.Array:
    strings = pa.array(values, pa.binary() if binary else pa.string())
    places = [row % len(values) for row in range(NUM_ROWS)]
    return pa.DictionaryArray.from_arrays(pa.array(places, pa.int32()), strings)


def columns() -> dict[str, pa.Array]:
    image = pa.StructArray.from_arrays([shared([VALUE], binary=True)], ["bytes"])
    turns = pa.StructArray.from_arrays(
        [shared([b"user", b"assistant"], binary=False), shared([VALUE], binary=False)],
        ["role", "content"],
    )
    ends = pa.array(range(0, NUM_ROWS + 1, 2), pa.int32())
    return {
        "text": shared([VALUE], binary=False),
        "image": image,
        "messages": pa.ListArray.from_arrays(ends, turns),
    }


@pytest.mark.parametrize("column", ["text", "image", "messages"])
@pytest.mark.parametrize("keep_types", [False, True], ids=["plain types", "dictionary types"])
def test_a_long_value_that_all_rows_share_is_not_unfolded_at_once(
    tmp_path: Path, column: str, keep_types: bool
) -> None:
    path, table = tmp_path / "bomb.parquet", pa.table({column: columns()[column]})
    pq.write_table(table, path, compression="zstd", store_schema=keep_types)
    assert path.stat().st_size < 5000
    batches = list(map(len, read_batches(path, [column])))
    assert sum(batches) == len(table)
    assert max(batches) * len(VALUE) <= MOST_BYTES
    config = DataConfig(path=str(path), text={"max_characters": len(VALUE)})
    rows = read_rows(find_layout(path, config, all_data_hooks()), config, "train")
    assert {row.content for row in rows} == {VALUE}


def test_rows_of_usual_length_come_by_the_thousand(tmp_path: Path) -> None:
    path = tmp_path / "usual.parquet"
    pq.write_table(pa.table({"text": [f"row {row}" for row in range(3000)]}), path)
    assert list(map(len, read_batches(path, ["text"]))) == [1024, 1024, 952]
