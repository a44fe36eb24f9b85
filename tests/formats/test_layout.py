"""What lies where in other people's data: splits, linked folders, columns and labels."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import DataError
from aigc_ops.data import DataConfig, open_dataset
from aigc_ops.interfaces.labels import class_names
from aigc_ops.modalities.image.image_sets import ImageSet
from tests.data.making_data import image_rows, write_images, write_splits


def opened(path: Path) -> DatasetRef:
    return open_dataset(DataConfig(path=str(path)))


@pytest.mark.parametrize(
    ("train", "heldout"),
    [
        ("training/a", "testing/a"),
        ("train/a", "eval/a"),
        ("Train/a", "TEST/a"),
    ],
)
def test_splits_of_a_folder_are_told_by_their_usual_names(tmp_path, train, heldout) -> None:
    write_images(tmp_path, [*(f"{train}/{i}.png" for i in range(5)), f"{heldout}/9.png"])
    ref = opened(tmp_path)
    assert (ref.num_train, ref.num_heldout) == (5, 1)
    assert ref.image_shape.class_names == ("a",)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["train/a/1.png", "train/b/2.png"], "train look like splits"),
        (["set/train/a/1.png", "set/test/a/2.png"], "the splits are in its folder set"),
    ],
)
def test_splits_that_would_be_taken_for_classes_are_refused(tmp_path, names, told) -> None:
    with pytest.raises(DataError, match=told):
        opened(write_images(tmp_path, names))


def test_a_class_may_be_called_train(tmp_path) -> None:
    write_images(tmp_path, [f"{name}/{i}.png" for name in ("car", "train") for i in range(20)])
    assert opened(tmp_path).image_shape.class_names == ("car", "train")


@pytest.mark.parametrize(
    ("train", "heldout"),
    [
        ("digits_train", "digits_test"),
        ("data/train-00000-of-00001", "data/validation-00000-of-00001"),
        ("train/0000", "test/0000"),
    ],
)
def test_splits_of_parquet_are_told_in_sub_folders_and_after_other_names(
    tmp_path, train, heldout
) -> None:
    (tmp_path / "README.md").write_text("# Digits\n\nMany.\n")
    write_splits(tmp_path / "made", image_rows(5, label=0), image_rows(2, start=50, label=0))
    for made, name in (("train", train), ("heldout", heldout)):
        target = tmp_path / f"{name}.parquet"
        target.parent.mkdir(exist_ok=True)
        (tmp_path / "made" / f"{made}.parquet").rename(target)
    ref = opened(tmp_path)
    assert (ref.modality, ref.num_train, ref.num_heldout) == ("image", 5, 2)


def test_linked_folders_are_read_and_circles_refused(tmp_path) -> None:
    write_images(tmp_path / "mine", [f"cat/{i}.png" for i in range(20)])
    write_images(tmp_path, [f"elsewhere/{i + 50}.png" for i in range(20)])
    (tmp_path / "mine" / "dog").symlink_to(tmp_path / "elsewhere")
    assert opened(tmp_path / "mine").image_shape.class_names == ("cat", "dog")
    (tmp_path / "mine" / "loop").symlink_to(tmp_path / "mine")
    with pytest.raises(DataError, match="leads back to a folder that is read already"):
        opened(tmp_path / "mine")


def test_the_next_integer_on_a_few_rows_of_many_is_no_class() -> None:
    digits = dict.fromkeys(range(10), 450)
    ten = tuple(map(str, range(10)))
    assert class_names({**digits, 10: 4}, {}) == ten
    assert class_names({**digits, 10: 5}, {}) == (*ten, "10")
    assert class_names({0: 1, 1: 99}, {}) == ("0", "1")
    assert class_names({**digits, None: 1, -1: 1}, {}) == ten


def test_the_american_spelling_of_the_licence_column_is_read(tmp_path: Path) -> None:
    held = image_rows(1, start=50, label=0)
    write_splits(tmp_path / "a", image_rows(4, label=0, license="MIT"), held)
    assert opened(tmp_path / "a").licences == ("MIT",)
    both = image_rows(4, label=0, license="MIT", licence="BSD")
    write_splits(tmp_path / "b", both, held)
    assert opened(tmp_path / "b").licences == ("BSD",)


def test_licences_and_sources_of_any_type_are_told(tmp_path: Path) -> None:
    rows = image_rows(4, label=0, source=7, licence=[["MIT", "BSD"]] * 4)
    write_splits(tmp_path, rows, image_rows(1, start=50, label=0))
    ref = opened(tmp_path)
    assert (ref.sources, ref.licences) == (("7",), ("MIT, BSD",))


def test_labels_may_be_views_and_labels_that_are_all_missing_are_none(tmp_path: Path) -> None:
    rows = pa.Table.from_pandas(image_rows(4))
    for labels, names in (
        (pa.array(["a", "b"] * 2, pa.string_view()), ("a", "b")),
        (pa.nulls(4), ()),
    ):
        pq.write_table(rows.append_column("label", labels), tmp_path / "x.parquet")
        assert opened(tmp_path / "x.parquet").image_shape.class_names == names


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    rows = pa.Table.from_pandas(image_rows(4, label=0))
    pq.write_table(rows.append_column("label", pa.array([0] * 4)), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="2 columns are called 'label'"):
        opened(tmp_path / "x.parquet")


@pytest.mark.parametrize("name", ["x.png", "x.txt", "x.jsonl", "x.parquet"])
def test_what_has_no_end_is_refused_unread(tmp_path: Path, name: str) -> None:
    # Of all devices the one that does end, so that without the refusal this test fails and not
    # the machine; a pipe in its place would wait for ever.
    (tmp_path / name).symlink_to(os.devnull)
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(DataError, match=f"{name}: not a regular file"):
            opened(path)


def test_an_image_file_of_hundreds_of_megabytes_is_refused_unread(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "2.png"])
    with (tmp_path / "3.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match=r"3\.png: 1,099,511,627,776 bytes, more than"):
        opened(tmp_path)


def test_pinned_data_with_a_device_in_it_is_refused_unread(tmp_path: Path) -> None:
    write_images(tmp_path / "data", ["1.png"])
    (tmp_path / "data/notes").symlink_to(os.devnull)
    (tmp_path / "data.dvc").write_text("outs:\n- md5: 0.dir\n  path: data\n")
    with pytest.raises(DataError, match="notes: not a regular file"):
        opened(tmp_path / "data")


def test_a_set_to_compare_passes_over_what_has_no_end(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    before = ImageSet(tmp_path).digest()
    (tmp_path / "2.png").symlink_to(os.devnull)
    images = ImageSet(tmp_path, skip_damaged=True)
    assert len(list(images.images())) == 1
    assert "not a regular file" in images.skipped[0]
    assert images.digest() != before
    (tmp_path / "3.npy").symlink_to(os.devnull)
    with pytest.raises(DataError, match="not a regular file"):
        ImageSet(tmp_path / "3.npy")
