"""Images read as they are needed: those of the resident split, in any order, in little memory."""

import tracemalloc
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from aigc_ops.core.errors import DataError
from aigc_ops.data import DataConfig, open_dataset, read_split
from aigc_ops.modalities.image.model import ImageData
from aigc_ops.modalities.image.streaming import ImageStream
from tests.data.making_data import encode, noise, write_images, write_splits

LITTLE = 200 / 2**20  # in GiB: 200 KiB, of which half keeps seven groups of four images
NO_MEMORY = 1e-9


def rows(num: int, *, start: int = 0) -> pd.DataFrame:
    """Distinct colour images of 32 x 32 pixels, 3 kB each decoded and 4 kB in a group."""
    images = [{"bytes": encode(noise(start + i, 32, 32, "RGB")), "path": None} for i in range(num)]
    return pd.DataFrame({"image": images, "label": [f"class {i % 3}" for i in range(num)]})


def shards(folder: Path, *, num: int = 300) -> Path:
    """Images in row groups of four over three files, and a few held out."""
    folder.mkdir()
    for shard in range(3):
        name = f"train-{shard:05d}-of-00003.parquet"
        rows(num // 3, start=num // 3 * shard).to_parquet(folder / name, row_group_size=4)
    rows(9, start=num).to_parquet(folder / "heldout.parquet")
    return folder


def both(path: Path, memory_gb: float, **settings: object) -> tuple[ImageData, ImageStream]:
    """The training split resident, and streamed."""
    config = DataConfig(path=str(path), image=settings)
    little = config.with_section("image", memory_gb=memory_gb)
    ref = open_dataset(config)
    resident, stream = read_split(ref, config, "train"), read_split(ref, little, "train")
    assert isinstance(resident, ImageData)
    assert isinstance(stream, ImageStream)
    return resident, stream


def assert_same_images(resident: ImageData, stream: ImageStream) -> None:
    order = torch.randperm(len(resident), generator=torch.Generator().manual_seed(0))
    taken = stream.take(order)
    assert len(stream) == len(resident)
    assert stream.shape == resident.shape
    assert torch.equal(taken.images, resident.images[order])
    assert (taken.labels is None) == (resident.labels is None)
    if taken.labels is not None:
        assert torch.equal(taken.labels, resident.labels[order])


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_a_stream_gives_the_images_of_the_resident_split(tmp_path: Path, workers: int) -> None:
    folder = shards(tmp_path / "shards")
    assert_same_images(*both(folder, LITTLE, num_workers=workers))


def test_unsplit_parquet_streams_its_training_rows(tmp_path: Path) -> None:
    rows(200).to_parquet(tmp_path / "all.parquet", row_group_size=4)
    assert_same_images(*both(tmp_path / "all.parquet", LITTLE))


@pytest.mark.parametrize("split", [True, False])
def test_a_folder_of_images_streams_file_by_file(tmp_path: Path, split: bool) -> None:
    tops = ("train/", "heldout/") if split else ("",)
    names = [f"{top}{kind}/{index}.png" for top in tops for kind in "ab" for index in range(50)]
    assert_same_images(*both(write_images(tmp_path, names), NO_MEMORY))


def test_no_images_of_a_stream_are_none_of_its_shape(tmp_path: Path) -> None:
    _, stream = both(shards(tmp_path / "shards"), LITTLE)
    assert stream.take(torch.tensor([], dtype=torch.int64)).images.shape == (0, 3, 32, 32)


def test_what_fits_is_resident_and_what_does_not_is_streamed(tmp_path: Path) -> None:
    folder = shards(tmp_path / "shards")
    read = partial(read_split, open_dataset(DataConfig(path=str(folder))))
    exactly = 300 * 3 * 32 * 32 / 2**30
    for memory, expected in ((exactly, ImageData), (exactly * 0.999, ImageStream)):
        config = DataConfig(path=str(folder), image={"memory_gb": memory})
        assert isinstance(read(config, "train"), expected)


def test_an_epoch_in_order_reads_each_group_at_most_twice_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aigc_ops.training.order import DataOrder

    folder = shards(tmp_path / "shards", num=1200)
    resident, stream = both(folder, 3 * LITTLE)
    assert stream.groups is not None
    assert 1 < stream.groups.at_once < len(stream.groups.sizes) // 10
    read: list[object] = []
    original = stream._read
    monkeypatch.setattr(stream, "_read", lambda group: read.append(group) or original(group))
    order = DataOrder(num_examples=len(stream), batch_size=50, seed=1, groups=stream.groups)
    tracemalloc.start()
    for step in range(len(stream) // 50):
        indices = order.batch(step)
        assert torch.equal(stream.take(indices).images, resident.images[indices])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    num_groups = len(stream.groups.sizes)
    assert num_groups <= len(read) <= num_groups + 2 * stream.groups.at_once
    assert peak < stream._settings.memory_bytes + 2**20  # 1 MiB for the order and a batch


def test_parquet_of_one_large_row_group_is_copied_once_and_streamed(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_splits(tmp_path, rows(100).assign(caption="a"), rows(5, start=100))
    resident, stream = both(folder, LITTLE)
    assert_same_images(resident, stream)
    assert_same_images(*both(folder, LITTLE))
    assert capsys.readouterr().err.count("copying it once, in groups of") == 1
    [copy] = home.glob("cache/row-groups/*/train.parquet")
    assert pq.read_schema(copy).names == ["image", "label"]
    assert stream.groups is not None
    assert 1 < stream.groups.at_once < len(stream.groups.sizes)


def test_unsplit_parquet_of_one_large_row_group_keeps_its_split(tmp_path: Path) -> None:
    rows(200).to_parquet(tmp_path / "all.parquet")
    assert_same_images(*both(tmp_path / "all.parquet", LITTLE))


def test_images_too_large_for_the_memory_are_refused(tmp_path: Path) -> None:
    folder = write_splits(tmp_path, rows(100), rows(5, start=100))
    config = DataConfig(path=str(folder), image={"memory_gb": LITTLE / 10})
    with pytest.raises(DataError, match=r"train\.parquet: 1 of its images take .*more memory"):
        read_split(open_dataset(config), config, "train")


def test_an_unsound_image_is_named_when_it_is_taken(tmp_path: Path) -> None:
    train = rows(100)
    train.at[42, "image"] = {"bytes": encode(noise(0, 32, 32, "RGB"))[:900], "path": None}
    write_splits(tmp_path, train, rows(5, start=100))
    train.to_parquet(tmp_path / "train.parquet", row_group_size=4)
    config = DataConfig(path=str(tmp_path), image={"memory_gb": LITTLE})
    stream = read_split(open_dataset(config), config, "train")
    assert isinstance(stream, ImageStream)
    stream.take(torch.arange(42))
    with pytest.raises(DataError, match=r"train\.parquet row 42: undecodable"):
        stream.take(torch.arange(40, 50))
