"""What the expectations say of sound and of broken data."""

import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from aigc_ops.core.artifacts import ValidationReport
from aigc_ops.core.errors import ValidationFailed
from aigc_ops.data import DataConfig, open_dataset
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.data.validation.manifest import read_manifest
from aigc_ops.data.validation.suite import require, validate
from tests.data.making_data import encode, image_rows, noise, write_images, write_splits

Check = Callable[..., ValidationReport]
IGNORE_LABELS = "; to allow it: --data.label-column ''"


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Validates what lies at a path under the given settings."""

    def call(path: Path, data: dict | None = None, **settings: object) -> ValidationReport:
        config = DataConfig(path=str(path), **(data or {}))
        rules = ValidationConfig(**settings)
        return validate(open_dataset(config), config, rules, folder=tmp_path / "report")

    return call


def texts(*values: str, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"text": values} | columns)


# Sound data


@pytest.mark.parametrize(("name", "rows"), [("mnist", 5000), ("dialogue", 1755)])
def test_the_sample_data_holds_every_expectation(
    sample_data: Path, check: Check, name: str, rows: int, capfd: pytest.CaptureFixture[str]
) -> None:
    report = check(sample_data / name)
    require(report)
    assert report.success
    assert report.num_rows == rows
    assert report.num_expectations >= 8
    assert capfd.readouterr().out == ""


def test_the_report_is_kept_as_json_and_as_data_docs(tmp_path: Path, check: Check) -> None:
    report = check(with_images(tmp_path / "data", [b"broken"]))
    kept = json.loads(Path(report.json_uri).read_text())
    assert kept["failures"] == list(report.failures)
    assert len(kept["expectations"]) == report.num_expectations
    failed = [result for result in kept["expectations"] if not result["success"]]
    assert failed[0]["rows"][0]["row"] == "train.parquet row 4"
    index = Path(report.html_uri)
    pages = [path.read_text() for path in index.parent.rglob("validations/**/*.html")]
    assert "Data Docs" in index.read_text()
    assert len(pages) == 1
    assert "every row can be decoded" in pages[0]
    assert "train.parquet row 4" in pages[0]


def test_a_second_report_replaces_the_first(tmp_path: Path, check: Check) -> None:
    data = write_splits(tmp_path / "data", texts("a"), texts("b"))
    check(data)
    report = check(data)
    pages = list(Path(report.html_uri).parent.rglob("validations/**/*.html"))
    assert len(pages) == 1


def test_own_images_pass_without_licences_or_labels(tmp_path: Path, check: Check) -> None:
    assert check(write_images(tmp_path / "mine", [f"{i}.png" for i in range(30)])).success


def test_own_text_passes(tmp_path: Path, check: Check) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(f"Line {i}" for i in range(60)))
    assert check(path).success


# Broken images: each failure names the rows


def jpeg(mode: str) -> bytes:
    return encode(Image.new(mode, (8, 8)), "JPEG")


def with_images(folder: Path, contents: list[bytes | None]) -> Path:
    """Four sound training images followed by others, and two held-out images."""
    train = pd.concat([image_rows(4), pd.DataFrame({"image": [{"bytes": c} for c in contents]})])
    return write_splits(folder, train.reset_index(drop=True), image_rows(2, start=50))


def test_every_bad_image_fails_and_is_named(tmp_path: Path, check: Check) -> None:
    contents = [
        b"broken",  # row 4
        encode(noise(60))[:90],
        None,
        jpeg("CMYK"),
        encode(noise(61), "GIF", save_all=True, append_images=[noise(62)]),
        encode(noise(63, 9, 8)),
        encode(noise(64, 2, 8)),
        encode(noise(0)),  # row 11, as row 0
        encode(noise(1), "BMP"),  # as row 1
        encode(noise(50)),  # row 13, as the first held-out row
    ]
    data = with_images(tmp_path / "data", contents)
    failures = check(data, max_duplicate_fraction=0).failures
    row = "train.parquet row "
    assert [failure.split(": fails for ") for failure in failures] == [
        [
            "every row can be decoded",
            f"3 rows: {row}4 (error not a PNG, JPEG, WebP, BMP or GIF image), "
            f"{row}5 (error undecodable (image file is truncated)), "
            f"{row}6 (error null)",
        ],
        [
            "at most 0.00% of the rows repeat another one and are left out",
            f"3 rows: {row}11 (duplicate_of {row}0), {row}12 (duplicate_of {row}1), "
            f"{row}13 (duplicate_of heldout.parquet row 0); "
            "to allow it: --validation.max-duplicate-fraction 0.19",
        ],
        ["every image is 8-bit: 1, L, LA, RGB, RGBA, P", f"1 row: {row}7 (mode CMYK)"],
        ["no image is animated", f"1 row: {row}8 (num_frames 2)"],
        [
            "every width is from 4 to 4096 pixels",
            f"1 row: {row}10 (width 2); to allow it: --validation.image.min-side 2",
        ],
        [
            "every image is 8x8 as the first (data.image.size resizes them)",
            f"2 rows: {row}9 (size 9x8), {row}10 (size 2x8); to allow it: --data.image.size 8",
        ],
    ]


def test_every_bad_label_fails_and_is_named(tmp_path: Path, check: Check) -> None:
    train = image_rows(6, label=pd.array([0, 1, None, -1, 7, 1], dtype="Int64"))
    train.at[5, "image"] = {"bytes": b"broken", "path": None}  # its label is sound all the same
    data = write_splits(tmp_path / "data", train, image_rows(2, start=50, label=[0, 9]))
    assert check(data).failures == (
        "every row can be decoded: fails for 1 row: train.parquet row 5 "
        "(error not a PNG, JPEG, WebP, BMP or GIF image)",
        f"every image has a label: fails for 1 row: train.parquet row 2{IGNORE_LABELS}",
        "every label is from 0 to 2: fails for 3 rows: train.parquet row 3 (label -1), "
        f"train.parquet row 4 (label 7), heldout.parquet row 1 (label 9){IGNORE_LABELS}",
        "every class has rows to train on: none for 2",
    )


def test_a_class_that_is_only_held_out_fails(tmp_path: Path, check: Check) -> None:
    names = [*(f"train/a/{i}.png" for i in range(3)), "test/a/8.png", "test/b/9.png"]
    failures = check(write_images(tmp_path / "mine", names)).failures
    assert failures == ("every class has rows to train on: none for 1",)


def test_a_label_that_no_integer_column_holds_is_named(tmp_path: Path, check: Check) -> None:
    labels = np.array([0, 1, 0, 1, 0, 2**64 - 1], dtype="uint64")  # a -1 that wrapped
    train = image_rows(6, label=labels)
    data = write_splits(tmp_path / "data", train, image_rows(2, start=50, label=[0, 1]))
    assert any("train.parquet row 5 (label 9007199254740992)" in f for f in check(data).failures)


def test_images_beside_classes_lack_a_label(tmp_path: Path, check: Check) -> None:
    write_images(tmp_path / "mine", [*(f"a/{i}.png" for i in range(20)), "stray.png"])
    failures = check(tmp_path / "mine").failures
    assert failures == (f"every image has a label: fails for 1 row: stray.png{IGNORE_LABELS}",)


def test_a_folder_without_one_sound_image_fails(tmp_path: Path, check: Check) -> None:
    for i in range(20):
        (tmp_path / f"{i:02d}.png").write_bytes(b"broken %d" % i)
    report = check(tmp_path)
    failure = report.failures[0]
    assert "fails for 20 rows: " in failure
    assert failure.endswith("and 10 more")
    expectations = json.loads(Path(report.json_uri).read_text())["expectations"]
    failed = next(each for each in expectations if not each["success"])
    assert len({entry["row"] for entry in failed["rows"]}) == failed["num_rows_failing"] == 20


def test_sizes_are_free_when_images_are_resized(tmp_path: Path, check: Check) -> None:
    data = with_images(tmp_path / "data", [encode(noise(9, 20, 12))])
    assert check(data, {"image": {"size": 8}}).success


# Broken splits and texts


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_an_empty_split_fails(tmp_path: Path, check: Check, split: str) -> None:
    rows = {"train": texts("a", "b"), "heldout": texts("c")}
    rows[split] = rows[split][:0]
    failures = check(write_splits(tmp_path / "data", **rows)).failures
    assert len(failures) == 1
    assert re.fullmatch(rf"the {split} split has at least 1 row( \(.*\))?: found 0", failures[0])


def test_a_dataset_without_any_row_fails(tmp_path: Path, check: Check) -> None:
    empty = texts("a")[:0]
    assert len(check(write_splits(tmp_path / "data", empty, empty)).failures) == 2


def test_too_few_rows_fail(tmp_path: Path, check: Check) -> None:
    data = write_splits(tmp_path / "data", texts("a", "b"), texts("c"))
    failures = check(data, min_train_rows=3).failures
    (failure,) = failures
    assert failure.startswith(
        "the train split has at least 3 rows (data.text.documents paragraph or "
    )
    assert failure.endswith(": found 2")


def test_every_bad_text_fails_and_is_named(tmp_path: Path, check: Check) -> None:
    train = pd.DataFrame(
        [
            ("p", "sound", "MIT"),
            ("p", " \n", "MIT"),
            ("p", None, "MIT"),
            ("p", "sound", "MIT"),
            ("q", "held", "MIT"),
            ("p", "long" * 300, "MIT"),
            ("p", "unlicensed", None),
            ("p", "licensed by nothing", ""),
            (None, "answers nothing", "MIT"),
            (" ", "answers blanks", "MIT"),
        ],
        columns=["prompt", "text", "licence"],
    )
    heldout = texts("held", prompt=["q"], licence=["MIT"])
    row = "train.parquet row "
    assert check(
        write_splits(tmp_path / "data", train, heldout),
        text={"max_characters": 1000},
        max_duplicate_fraction=0.1,
    ).failures == (
        f"every row can be decoded: fails for 1 row: {row}2 (error text is null)",
        "at most 10.00% of the rows repeat another one and are left out: fails for 2 rows: "
        f"{row}3 (duplicate_of {row}0), {row}4 (duplicate_of heldout.parquet row 0); "
        "to allow it: --validation.max-duplicate-fraction 0.19",
        f"every text is from 1 to 1,000 characters: fails for 2 rows: {row}1 (num_characters 0), "
        f"{row}5 (num_characters 1200); to allow it: --validation.text.max-characters 1200",
        f"every text has a prompt: fails for 1 row: {row}8",
        f"every prompt is from 1 to 1,000 characters: fails for 1 row: {row}9 "
        "(num_prompt_characters 0)",
        f"every row states its licence: fails for 2 rows: {row}6, {row}7; "
        "to allow it: --validation.require-licence never",
    )


def test_texts_that_answer_other_prompts_are_no_duplicates(tmp_path: Path, check: Check) -> None:
    rows = texts("yes", "yes", prompt=["Is it?", "Was it?"])
    assert check(write_splits(tmp_path / "data", rows, texts("no", prompt=["Is it?"]))).success


def test_text_that_is_not_utf_8_fails_and_is_named(tmp_path: Path, check: Check) -> None:
    # As another program may write it: declared as strings, holding Latin-1.
    values = [b"good", b"Z\xfcrich", b"fine"]
    bad = pa.Array.from_buffers(
        pa.string(), 3, pa.array(values, pa.binary()).buffers(), null_count=0
    )
    write_splits(tmp_path / "data", texts("a"), texts("held"))
    pq.write_table(pa.table({"text": bad}), tmp_path / "data" / "train.parquet")
    failures = check(tmp_path / "data").failures
    assert len(failures) == 1
    assert (
        "train.parquet row 1 (error text is not UTF-8 (invalid start byte at byte 1))"
        in failures[0]
    )


def test_text_with_null_characters_fails_as_utf_16_without_a_mark(
    tmp_path: Path, check: Check
) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\n".join(f"line {i}" for i in range(60)).encode("utf-16-le"))
    [failure] = check(path).failures
    assert "text holds a null character; expected UTF-8, this may be UTF-16" in failure


def test_a_text_file_that_is_not_utf_8_names_its_lines(tmp_path: Path, check: Check) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes("\n".join(f"Zeile {i}" for i in range(60)).encode() + b"\nZ\xfcrich")
    failures = check(path).failures
    assert len(failures) == 1
    assert "mine.txt line 61 (error text is not UTF-8" in failures[0]


# Settings


def test_duplicates_may_be_allowed(tmp_path: Path, check: Check) -> None:
    data = write_splits(tmp_path / "data", texts("a", "b", "c", "a"), texts("d"))
    assert not check(data, max_duplicate_fraction=0.1).success
    assert check(data, max_duplicate_fraction=0.2).success


def test_a_licence_can_be_demanded_of_data_without_one(tmp_path: Path, check: Check) -> None:
    data = write_splits(tmp_path / "data", texts("a"), texts("b"))
    assert not check(data, require_licence="always").success


def test_licences_can_be_waived(tmp_path: Path, check: Check) -> None:
    data = write_splits(
        tmp_path / "data", texts("a", "b", licence=["MIT", None]), texts("c", licence=["MIT"])
    )
    assert check(data, require_licence="never").success


def test_requiring_a_failed_report_tells_every_failure_and_where_it_is_kept(
    tmp_path: Path, check: Check
) -> None:
    rows = texts("a", "a", " "), texts("b")
    report = check(write_splits(tmp_path / "data", *rows), max_duplicate_fraction=0)
    with pytest.raises(ValidationFailed) as refusal:
        require(report)
    assert all(failure in str(refusal.value) for failure in report.failures)
    assert report.html_uri in str(refusal.value)
    assert len(report.failures) == 2


# The manifest


def test_the_manifest_measures_and_does_not_judge(tmp_path: Path) -> None:
    content = jpeg("CMYK")
    config = DataConfig(path=str(with_images(tmp_path / "data", [content])))
    line = read_manifest(open_dataset(config), config).iloc[4]
    assert pd.isna(line["error"])
    assert (line["mode"], line["format"], line["width"], line["num_bytes"]) == (
        "CMYK",
        "JPEG",
        8,
        len(content),
    )


def test_pixels_alone_make_the_digest(tmp_path: Path) -> None:
    image = noise(0, 8, 8, "RGB")
    (tmp_path / "1.png").write_bytes(encode(image))
    (tmp_path / "2.bmp").write_bytes(encode(image, "BMP"))
    (tmp_path / "3.png").write_bytes(encode(Image.open(BytesIO(encode(noise(1, mode="RGB"))))))
    config = DataConfig(path=str(tmp_path), heldout_fraction=0.01)
    digests = read_manifest(open_dataset(config), config).set_index("row")["digest"]
    assert digests["1.png"] == digests["2.bmp"] != digests["3.png"]
