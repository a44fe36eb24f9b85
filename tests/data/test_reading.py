"""What is read of a dataset and what is not is listed; too much that is not read stops a run."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aigc_ops.core.errors import DataError
from aigc_ops.data import DataConfig, open_dataset
from aigc_ops.data.reading import describe
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.data.validation.suite import validate
from aigc_ops.interfaces.reading import Reading
from aigc_ops.modalities.image.image_sets import ImageSet
from tests.data.making_data import encode, images_of, noise, texts_of


def draw(folder: Path, *names: str, start: int = 0) -> Path:
    """Noise images, each unlike the others, in the format that a name's suffix asks for."""
    for index, name in enumerate(names, start):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = "PNG" if path.suffix == ".png" else "JPEG"
        noise(index, mode="RGB").save(path, kind)
    return folder


def read(path: Path, **settings: Any) -> Reading:
    config = DataConfig(path=str(path), **settings)
    return describe(open_dataset(config), config)


def groups(reading: Reading) -> dict[str, int]:
    return {f"{group.reason} {group.suffix}".strip(): group.count for group in reading.unread}


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_stylegans_labels_come_from_its_file_and_not_from_the_shards(tmp_path: Path) -> None:
    names = [f"{index % 4:05d}/img{index:08d}.png" for index in range(20)]
    draw(tmp_path, *names)
    pairs = [[name, index % 2] for index, name in enumerate(names)]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": pairs}))
    ref = open_dataset(DataConfig(path=str(tmp_path)))
    assert ref.class_names == ("0", "1")
    assert read(tmp_path).labels_from == "dataset.json"
    data = images_of(tmp_path, "train")
    assert data.labels is not None
    assert {*data.labels.tolist()} == {0, 1}
    # A changed label is another dataset.
    pairs[0][1] = 1
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": pairs}))
    assert open_dataset(DataConfig(path=str(tmp_path))).content_digest != ref.content_digest
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": None}))
    assert read(tmp_path).labels_from is None
    assert open_dataset(DataConfig(path=str(tmp_path))).class_names == ()


@pytest.mark.parametrize(
    "content", ["{", '{"labels": [["a.png"]]}', '{"labels": [["a.png", 1.5]]}']
)
def test_labels_that_cannot_be_read_are_an_error_that_names_the_file(
    tmp_path: Path, content: str
) -> None:
    draw(tmp_path, "a.png", "b.png")
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataError, match=r"dataset\.json: labels cannot be read"):
        open_dataset(DataConfig(path=str(tmp_path)))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_of_the_datasets_library_gives_the_labels(tmp_path: Path, name: str) -> None:
    for split in ("train", "test"):
        names = [f"{index}.png" for index in range(6)]
        draw(tmp_path / split, *names, start=10 * (split == "test"))
        rows = [{"file_name": n, "label": "cat" if i % 2 else "dog"} for i, n in enumerate(names)]
        if name.endswith("csv"):
            pd.DataFrame(rows).to_csv(tmp_path / split / name, index=False)
        else:
            lines(tmp_path / split / name, *rows)
    ref = open_dataset(DataConfig(path=str(tmp_path)))
    assert ref.class_names == ("cat", "dog")
    assert read(tmp_path).labels_from == f"test/{name}, train/{name}"
    data = images_of(tmp_path, "heldout")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0] * 3
    # Without labels they are one more kind of file.
    assert groups(read(tmp_path, label_column=None))[f"not an image .{name.split('.')[1]}"] == 2


def test_labels_of_absent_files_are_listed_and_images_without_a_label_fail(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{index}.png" for index in range(12)))
    pairs = [[f"{index}.png", index % 2] for index in range(11)] + [["gone.png", 0]]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": pairs}))
    assert groups(read(tmp_path)) == {"labelled in dataset.json, but not there .png": 1}
    config = DataConfig(path=str(tmp_path))
    rules = ValidationConfig()
    report = validate(open_dataset(config), config, rules, folder=tmp_path.parent / "report")
    assert any("every image has a label: fails for 1 row: 11.png" in f for f in report.failures)


def test_a_flat_folder_is_unsplit_whatever_its_pictures_are_called(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{index}.png" for index in range(20)), "train.png", "test.png")
    assert read(tmp_path).num_rows == 22
    assert read(tmp_path).unread == ()


def test_pictures_beside_the_splits_stop_a_run_unless_that_is_allowed(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{s}/{i}.png" for s in ("train", "test") for i in range(5)))
    draw(tmp_path, *(f"{index}.png" for index in range(3)), start=20)
    with pytest.raises(DataError, match="3 of 13 files that could be samples") as error:
        open_dataset(DataConfig(path=str(tmp_path)))
    assert "3 (0.png, 1.png, 2.png): outside the splits" in str(error.value)
    assert str(error.value).endswith("--data.allow-unread true")
    allowed = read(tmp_path, allow_unread=True)
    assert allowed.num_rows == 10
    assert groups(allowed) == {"outside the splits .png": 3}
    # The setting changes nothing that is read, and no digest of a config that leaves it out.
    assert "allow_unread" not in DataConfig(path="x").stable_dump()
    assert DataConfig(path="x").decisive_values() == (
        DataConfig(path="x", allow_unread=True).decisive_values()
    )


def test_one_file_of_a_hundred_stops_nothing_and_is_listed(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{s}/{i}.png" for s in ("train", "test") for i in range(50)))
    draw(tmp_path, "stray.png", start=200)
    assert groups(read(tmp_path)) == {"outside the splits .png": 1}


def test_a_test_split_beside_a_validation_split_is_listed_and_stops_nothing(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{s}/{i}.png" for s in ("train", "validation", "test") for i in range(4)))
    assert groups(read(tmp_path)) == {"in the split test, beside the two that are read .png": 4}


def test_jpegs_are_read_whatever_their_suffix_and_other_formats_are_refused_by_name(
    tmp_path: Path,
) -> None:
    draw(tmp_path, *(f"{index}.png" for index in range(8)), "a.jfif", "b.jpe", "c.JIF")
    assert read(tmp_path).num_rows == 11
    for suffix in ("heif", "jxl", "apng", "ppm"):
        (tmp_path / f"other.{suffix}").write_bytes(b"what it holds")
    config = DataConfig(path=str(tmp_path))
    rules = ValidationConfig()
    report = validate(open_dataset(config), config, rules, folder=tmp_path.parent / "report")
    for suffix in ("heif", "jxl", "apng", "ppm"):
        assert f"other.{suffix}" in report.failures[0]


def test_companions_are_listed_and_never_samples(tmp_path: Path) -> None:
    records = [{"text": f"text {index}"} for index in range(30)]
    lines(tmp_path / "data.jsonl", *records)
    for name in ("README.md", "LICENSE.txt", ".gitattributes", "Thumbs.db", "dataset_infos.json"):
        (tmp_path / name).write_text("not a sample\n")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "data.jsonl").write_text("{}\n")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "more.jsonl").write_text("{}\n")
    found = read(tmp_path)
    assert (found.num_rows, found.columns) == (30, {"text": "text"})
    assert {group.reason for group in found.unread} == {"companion file"}
    assert sum(group.count for group in found.unread) == 7
    assert any("README.md" in line for line in found.lines())


def test_a_folder_of_nothing_but_readme_files_is_read(tmp_path: Path) -> None:
    for index in range(20):
        (tmp_path / str(index)).mkdir()
        (tmp_path / str(index) / "README.md").write_text(f"# Project {index}\n")
    assert read(tmp_path).num_rows == 20


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("record", "columns", "prompt"),
    [
        ({"question": "Q?", "answer": "A."}, {"prompt": "question", "text": "answer"}, "Q?"),
        (
            {"instruction": "Do.", "context": "", "response": "A.", "category": "x"},
            {"prompt": "instruction", "context": "context", "text": "response"},
            "Do.",
        ),
        (
            {"instruction": "Do.", "input": "this", "output": "A."},
            {"prompt": "instruction", "context": "input", "text": "output"},
            "Do.\n\nthis",
        ),
    ],
)
def test_questions_and_instructions_are_the_prompts_of_answers(
    tmp_path: Path, kind: str, record: dict[str, str], columns: dict[str, str], prompt: str
) -> None:
    path = tmp_path / f"rows.{kind}"
    rows = [
        {key: value and f"{value}{index}" for key, value in record.items()} for index in range(40)
    ]
    if kind == "jsonl":
        lines(path, *rows)
    else:
        pd.DataFrame(rows).to_parquet(path)
    found = read(path)
    assert found.columns == columns
    unread = {"column that no setting names": 1} if "category" in record else {}
    assert groups(found) == unread
    data = texts_of(path, "train")
    assert data.prompts is not None
    index = data.texts[0].removeprefix("A.")
    words = [word + index for word in prompt.split("\n\n")]
    assert data.prompts[0] == "\n\n".join(words)


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_mistyped_prompt_column_is_refused(tmp_path: Path, kind: str) -> None:
    rows = [{"instruction": f"Do {index}.", "output": f"A{index}."} for index in range(20)]
    path = tmp_path / f"rows.{kind}"
    lines(path, *rows) if kind == "jsonl" else pd.DataFrame(rows).to_parquet(path)
    settings = {"prompt_column": "instuction", "text": {"column": "output"}}
    config = DataConfig(path=str(path), **settings)
    with pytest.raises(DataError, match=r"'instuction' \(data\.prompt_column\)"):
        texts_of(path, "train", **settings)
    if kind == "jsonl":
        rules = ValidationConfig()
        report = validate(open_dataset(config), config, rules, folder=tmp_path / "report")
        assert any("has no 'instuction' (data.prompt_column)" in f for f in report.failures)


def test_labels_of_parquet_name_their_column(tmp_path: Path) -> None:
    rows = [{"image": encode(noise(i)), "label": i % 2, "caption": "a cat"} for i in range(20)]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    found = read(tmp_path)
    assert found.columns == {"image": "image", "label": "label"}
    assert found.labels_from == "column label"
    assert groups(found) == {"column that no setting names": 1}
    assert "caption" in "".join(found.lines())


def test_numbered_sub_folders_are_said_to_look_like_shards(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{i // 5:05d}/{i}.png" for i in range(20)))
    assert "--data.label-column ''" in str(read(tmp_path).labels_from)
    assert read(tmp_path, label_column=None).labels_from is None


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_set_to_compare_lists_what_it_does_not_read(tmp_path: Path, kind: str) -> None:
    path = draw(tmp_path / "set", *(f"{index}.png" for index in range(4)))
    (path / "__MACOSX").mkdir()
    (path / "__MACOSX" / "._0.png").write_bytes(b"no image")
    (path / "README.md").write_text("# Pictures\n")
    (path / "notes.txt").write_text("notes\n")
    (path / "5.tif").write_bytes(b"an image of another format")
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for file in filter(Path.is_file, path.rglob("*")):
                archive.write(file, file.relative_to(path))
        path = tmp_path / "set.zip"
    images = ImageSet(path)
    assert len(list(images.images())) == 4
    assert groups(images.reading()) == {
        "companion file .png": 1,
        "companion file .md": 1,
        "not an image .txt": 1,
        "a format that is not accepted .tif": 1,
    }
    with pytest.raises(DataError, match="1 of 5 files that could be samples"):
        images.require_read()
