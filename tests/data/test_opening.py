"""Which dataset lies at a path, and what its splits hold."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import DataError
from aigc_ops.data import DataConfig, open_dataset, pin_hint, read_split
from aigc_ops.interfaces.ingestion import Split
from tests.data.making_data import (
    PROJECT,
    encode,
    image_rows,
    images_of,
    noise,
    texts_of,
    write_images,
    write_splits,
)


def opened(path: Path, **fields: object) -> DatasetRef:
    return open_dataset(DataConfig(path=str(path), **fields))


# The sample data


def test_the_digits_open_with_their_classes_licence_and_pin(sample_data: Path) -> None:
    ref = opened(sample_data / "mnist")
    assert (ref.modality, ref.num_train, ref.num_heldout) == ("image", 4500, 500)
    assert ref.image_shape is not None
    assert ref.image_shape.model_dump() == {
        "channels": 1,
        "height": 28,
        "width": 28,
        "class_names": tuple("0123456789"),
    }
    assert ref.licences == ("CC-BY-SA-3.0",)
    assert ref.dvc_digest is not None
    assert ref.dvc_digest.endswith(".dir")
    assert pin_hint(ref) is None


def test_the_digits_are_read_as_their_very_pixels(sample_data: Path) -> None:
    data = images_of(sample_data / "mnist", "heldout")
    rows = pd.read_parquet(sample_data / "mnist" / "heldout.parquet")
    assert data.images.shape == (500, 1, 28, 28)
    assert data.labels is not None
    assert data.labels.tolist() == rows["label"].tolist()
    (tmp := sample_data.parent.parent / "digit.png").write_bytes(rows["image"][123]["bytes"])
    assert np.array_equal(data.images[123, 0].numpy(), np.asarray(Image.open(tmp)))


def test_the_dialogue_is_read_as_answers_to_prompts(sample_data: Path) -> None:
    data = texts_of(sample_data / "dialogue")
    rows = pd.read_parquet(sample_data / "dialogue" / "train.parquet")
    assert list(data.texts) == rows["text"].tolist()
    assert data.prompts is not None
    assert list(data.prompts) == rows["prompt"].tolist()


def test_opening_needs_no_torch_and_configuring_no_pyarrow() -> None:
    code = (
        "import sys; import aigc_ops.data.config, aigc_ops.data.validation.suite;"
        "assert not {'pyarrow', 'pandas', 'PIL', 'great_expectations'} & set(sys.modules);"
        "import aigc_ops.data.dataset; "
        "assert not {'torch', 'dvc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)


# Layouts


def test_shards_of_a_split_are_read_in_order(tmp_path: Path) -> None:
    rows = image_rows(9, label=list(range(9)))
    rows[:3].to_parquet(tmp_path / "train-00000-of-00002.parquet")
    rows[3:7].to_parquet(tmp_path / "train-00001-of-00002.parquet")
    rows[7:].to_parquet(tmp_path / "test-00000-of-00001.parquet")
    ref = opened(tmp_path)
    assert (ref.num_train, ref.num_heldout) == (7, 2)
    labels = images_of(tmp_path).labels
    assert labels is not None
    assert labels.tolist() == list(range(7))


def test_a_test_split_beside_a_validation_split_stays_untouched(tmp_path: Path) -> None:
    write_images(tmp_path, ["train/a/1.png", "train/b/2.png", "val/a/3.png", "test/b/4.png"])
    assert (opened(tmp_path).num_train, opened(tmp_path).num_heldout) == (2, 1)


def test_a_single_parquet_file_is_split_by_content(tmp_path: Path) -> None:
    image_rows(60).to_parquet(tmp_path / "mine.parquet")
    ref = opened(tmp_path / "mine.parquet", heldout_fraction=0.25)
    assert ref.num_train + ref.num_heldout == 60
    assert 5 <= ref.num_heldout <= 26  # 15 expected, 4 standard deviations are 13
    assert len(images_of(tmp_path / "mine.parquet", "heldout", heldout_fraction=0.25)) == (
        ref.num_heldout
    )


def test_sub_folders_are_classes_in_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"{name}/{i}/x.png" for name in ("0", "2", "10") for i in range(8)]
    write_images(tmp_path, [*names, ".hidden/1.png"])
    (tmp_path / "LICENSE.txt").write_text("mine")
    data = images_of(tmp_path)
    assert data.shape.class_names == ("0", "2", "10")
    assert data.labels is not None
    assert set(data.labels.tolist()) == {0, 1, 2}
    assert opened(tmp_path).num_train + opened(tmp_path).num_heldout == 24


def test_images_without_sub_folders_have_no_classes(tmp_path: Path) -> None:
    data = images_of(write_images(tmp_path, [f"{i}.png" for i in range(12)]))
    assert data.labels is None
    assert data.shape.class_names == ()


def test_a_text_file_with_blank_lines_holds_paragraphs(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(f"First {i},\nsecond." for i in range(30)))
    texts = {*texts_of(path).texts, *texts_of(path, "heldout").texts}
    assert texts == {f"First {i},\nsecond." for i in range(30)}
    assert texts_of(path).prompts is None


def test_a_text_file_without_blank_lines_holds_lines(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("\n".join(f"Zeile {i} über Bäume" for i in range(30)), encoding="utf-8")
    assert opened(path).num_train + opened(path).num_heldout == 30
    assert (
        opened(path, text={"documents": "file"}).num_train
        + opened(path, text={"documents": "file"}).num_heldout
        == 1
    )


def test_a_folder_of_text_files_holds_a_document_a_file(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.txt").write_text(f"Text {i}\n\nin two paragraphs")
    assert opened(tmp_path).num_train + opened(tmp_path).num_heldout == 20
    assert set(texts_of(tmp_path).texts) < {f"Text {i}\n\nin two paragraphs" for i in range(20)}


def test_train_and_heldout_text_files_are_splits(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("one\ntwo\nthree")
    (tmp_path / "heldout.txt").write_text("four")
    assert list(texts_of(tmp_path).texts) == ["one", "two", "three"]
    assert list(texts_of(tmp_path, "heldout").texts) == ["four"]


# Columns


@pytest.mark.parametrize(
    ("labels", "indices", "names"),
    [
        ([2, 0, 1, 2], [2, 0, 1, 2], ("0", "1", "2")),
        ([2.0, 0.0, 1.0, 2.0], [2, 0, 1, 2], ("0", "1", "2")),
        ([True, False, True, True], [1, 0, 1, 1], ("0", "1")),
        (["cat", "ant", "bee", "cat"], [2, 0, 1, 2], ("ant", "bee", "cat")),
        (pd.Categorical(["b", "a", "b", "b"]), [1, 0, 1, 1], ("a", "b")),
    ],
    ids=["integers", "floats", "booleans", "names", "categories"],
)
def test_labels_may_be(
    tmp_path: Path, labels: object, indices: list[int], names: tuple[str, ...]
) -> None:
    write_splits(tmp_path, image_rows(4, label=labels), image_rows(1, start=9, label=[labels[0]]))
    data = images_of(tmp_path)
    assert data.shape.class_names == names
    assert data.labels is not None
    assert data.labels.tolist() == indices


def test_without_a_label_column_the_images_have_no_classes(tmp_path: Path) -> None:
    write_splits(tmp_path, image_rows(3), image_rows(1, start=9))
    assert images_of(tmp_path).labels is None


def test_labels_can_be_ignored(tmp_path: Path) -> None:
    write_splits(tmp_path, image_rows(3, label=[0, 1, 2]), image_rows(1, start=9, label=0))
    assert images_of(tmp_path, label_column=None).labels is None


def test_images_may_be_plain_bytes_under_another_name(tmp_path: Path) -> None:
    rows = pd.DataFrame({"picture": [encode(noise(i)) for i in range(4)]})
    write_splits(tmp_path, rows[:3], rows[3:])
    assert len(images_of(tmp_path, image={"column": "picture"})) == 3


def test_a_column_that_was_named_must_be_there(tmp_path: Path) -> None:
    write_splits(tmp_path, image_rows(3, kind=0), image_rows(1, start=9, kind=0))
    with pytest.raises(DataError, match=r"expected a column 'klass' .*found image, kind"):
        opened(tmp_path, label_column="klass")


def test_without_images_or_texts_the_columns_found_are_named(tmp_path: Path) -> None:
    rows = pd.DataFrame({"pixels": [1], "y": [2]})
    write_splits(tmp_path, rows, rows)
    with pytest.raises(
        DataError, match=r"expected a column 'image' .* or 'text' .*found pixels, y"
    ):
        opened(tmp_path)


def test_one_file_of_many_that_lacks_a_column_is_named(tmp_path: Path) -> None:
    write_splits(tmp_path, image_rows(3), pd.DataFrame({"other": [1]}))
    with pytest.raises(DataError, match=r"heldout.parquet: expected a column 'image'"):
        opened(tmp_path)


@pytest.mark.parametrize("values", [[0.5, 1.0], [[1], [2]]], ids=["fractions", "lists"])
def test_labels_of_another_kind_are_refused(tmp_path: Path, values: list[object]) -> None:
    write_splits(tmp_path, image_rows(2, label=values), image_rows(2, start=9, label=values))
    with pytest.raises(DataError, match="column 'label': expected"):
        opened(tmp_path)


# Shapes


def test_grey_and_colour_images_together_are_colour(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{i}.png" for i in range(12)])
    (tmp_path / "z.png").write_bytes(encode(noise(99, mode="RGB")))
    data = images_of(tmp_path)
    assert data.images.shape[1:] == (3, 8, 8)
    assert (data.images[0, 0] == data.images[0, 1]).all()


def test_images_of_several_sizes_need_one_to_be_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{i}.png" for i in range(12)])
    for i in range(6):
        (tmp_path / f"wide{i}.png").write_bytes(encode(noise(50 + i, 16, 8)))
    with pytest.raises(DataError, match=r"16x8 pixels, expected 8x8; set data.image.size"):
        images_of(tmp_path)
    assert images_of(tmp_path, image={"size": 6}).images.shape[1:] == (1, 6, 6)


def test_an_image_that_cannot_be_decoded_is_named_when_read_not_when_opened(tmp_path: Path) -> None:
    rows = image_rows(5)
    rows.at[0, "image"] = {"bytes": b"broken", "path": None}
    rows.at[3, "image"] = {"bytes": None, "path": "elsewhere.png"}
    write_splits(tmp_path, rows, image_rows(2, start=9))
    assert opened(tmp_path).image_shape is not None
    with pytest.raises(DataError, match=r"train.parquet row 0: not a PNG"):
        images_of(tmp_path)


# Identity


def test_equal_content_has_an_equal_digest_wherever_it_lies(tmp_path: Path) -> None:
    first = write_images(tmp_path / "one", ["a/1.png", "b/2.png"])
    second = Path(shutil.copytree(first, tmp_path / "two", copy_function=shutil.copyfile))
    assert opened(first).content_digest == opened(second).content_digest


@pytest.mark.parametrize("change", ["pixels", "class", "fraction"])
def test_other_content_or_another_split_has_another_digest(tmp_path: Path, change: str) -> None:
    folder = write_images(tmp_path, ["a/1.png", "b/2.png"])
    before = opened(folder).content_digest
    fields = {}
    if change == "pixels":
        (folder / "a/1.png").write_bytes(encode(noise(7)))
    if change == "class":
        (folder / "a/1.png").rename(folder / "b/1.png")
    if change == "fraction":
        fields = {"heldout_fraction": 0.2}
    assert opened(folder, **fields).content_digest != before


def test_data_that_changes_after_it_was_opened_is_not_read(tmp_path: Path) -> None:
    config = DataConfig(path=str(write_images(tmp_path, ["1.png", "2.png"])))
    ref = open_dataset(config)
    (tmp_path / "2.png").write_bytes(encode(noise(7)))
    with pytest.raises(DataError, match="changed since it was opened"):
        read_split(ref, config, "train")


# Faults


def test_a_missing_dataset_is_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data.path: nowhere does not exist; looked in "):
        opened(Path("nowhere"))


def test_a_folder_of_datasets_lists_what_it_holds(sample_data: Path, tmp_path: Path) -> None:
    shutil.copytree(sample_data, tmp_path / "copy")
    with pytest.raises(DataError, match="found dialogue/, mnist/"):
        opened(tmp_path / "copy")


def test_an_empty_folder_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found an empty folder"):
        opened(tmp_path)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("a,b")
    with pytest.raises(DataError, match="expected a folder, or a file ending in"):
        opened(tmp_path / "data.csv")


def test_a_modality_that_the_files_are_not_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    with pytest.raises(DataError, match=r"data.modality is text, but this is image data"):
        opened(tmp_path, modality="text")


@pytest.mark.parametrize("length", [0, 3, 100, -1, -8])
def test_a_parquet_file_cut_short_is_refused(tmp_path: Path, length: int) -> None:
    path = write_splits(tmp_path, image_rows(5), image_rows(2, start=9)) / "train.parquet"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=r"train.parquet: not a whole Parquet file"):
        opened(tmp_path)


def test_a_folder_of_one_text_is_refused_with_what_makes_more_of_it(tmp_path: Path) -> None:
    (tmp_path / "only.txt").write_text("One.\n\nTwo.\n")
    config = DataConfig(path=str(tmp_path))
    ref = open_dataset(config)
    empty: Split = "heldout" if ref.num_train else "train"
    with pytest.raises(
        DataError, match=r"split is empty; .*data\.text\.documents paragraph or line"
    ):
        read_split(ref, config, empty)


def test_a_split_without_rows_opens_and_is_refused_when_read(tmp_path: Path) -> None:
    write_splits(tmp_path, image_rows(5), image_rows(5)[:0])
    assert opened(tmp_path).num_heldout == 0
    with pytest.raises(DataError, match="the heldout split is empty"):
        images_of(tmp_path, "heldout")


def test_a_dataset_without_one_sound_image_opens_without_a_shape(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(b"broken %d" % i)
    assert opened(tmp_path).image_shape is None
    with pytest.raises(DataError, match="no image can be read"):
        images_of(tmp_path)


@pytest.mark.parametrize("label", [None, -1, 3])
def test_a_label_that_is_no_class_is_named(tmp_path: Path, label: int | None) -> None:
    labels = pd.array([0, 1, 2, label, 2, 1, 0], dtype="Int64")
    train = image_rows(7, label=labels)
    schema = pa.Schema.from_pandas(train)
    features = {"label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}
    metadata = {"huggingface": str({"info": {"features": features}}).replace("'", '"')}
    write_splits(tmp_path, train, image_rows(1, start=9, label=0))
    pq.write_table(
        pa.Table.from_pandas(train, schema).replace_schema_metadata(metadata),
        tmp_path / "train.parquet",
    )
    assert opened(tmp_path).image_shape.class_names == ("a", "b", "c")
    with pytest.raises(DataError, match=rf"train.parquet row 3: label {label} is outside 0\.\.2"):
        images_of(tmp_path)


def test_a_stray_integer_label_does_not_stretch_the_classes(tmp_path: Path) -> None:
    labels = [*range(5)] * 3 + [1_000_000]
    write_splits(tmp_path, image_rows(16, label=labels), image_rows(1, start=50, label=0))
    assert opened(tmp_path).image_shape.num_classes == 6
    with pytest.raises(DataError, match=r"row 15: label 1000000 is outside 0\.\.5"):
        images_of(tmp_path)


def test_text_that_is_not_utf_8_is_named_when_read(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"\n".join(b"Z\xfcrich %d" % i for i in range(20)))
    assert opened(path).num_train > 0
    with pytest.raises(DataError, match=r"latin.txt line \d+: not UTF-8"):
        texts_of(path)
