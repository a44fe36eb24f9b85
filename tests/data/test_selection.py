"""Repeats are left out and counted, long documents are cut, the same by every reader of rows."""

import json
import random
from pathlib import Path

import pandas as pd
import pytest
import torch

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import DataError, ValidationFailed
from aigc_ops.data import DataConfig, Dataset, open_dataset
from aigc_ops.data.content_digest import content_digest
from aigc_ops.data.reading import describe
from aigc_ops.data.selection import RELABELLED, REPEATED, SHARED
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.data.validation.manifest import read_manifest
from aigc_ops.data.validation.suite import require, validate
from aigc_ops.formats.layout import find_layout
from aigc_ops.interfaces.ingestion import SPLITS, all_data_hooks
from aigc_ops.modalities.image.streaming import ImageStream
from aigc_ops.modalities.text.documents import cut_document
from tests.data.making_data import (
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


def counts(path: Path, **fields: object) -> dict[str, int]:
    return {group.reason: group.count for group in opened(path, **fields).dropped}


def paragraphs(num: int) -> list[str]:
    return [f"Paragraph {index} of a book,\nin two lines." for index in range(num)]


def agree(path: Path, num: int, tmp_path: Path, **fields: object) -> None:
    """Assert that every reader of the dataset has this number of rows."""
    config = DataConfig(path=str(path), **fields)
    ref = open_dataset(config)
    dataset = Dataset(ref, config)
    assert ref.num_train + ref.num_heldout == num
    for split in SPLITS:
        rows = list(dataset.rows(split))
        assert len(dataset.read(split)) == len(rows) == ref.num_rows(split)
    assert describe(ref, config).num_rows == num
    assert read_manifest(ref, config)["split"].notna().sum() == num
    report = validate(ref, config, ValidationConfig(), folder=tmp_path / "report")
    require(report)
    assert report.num_rows == num


# Repeats


def test_one_percent_of_repeated_paragraphs_is_left_out_and_counted(tmp_path: Path) -> None:
    book = paragraphs(297)
    (tmp_path / "book.txt").write_text("\n\n".join([*book, *book[:3]]))
    [group] = opened(tmp_path / "book.txt").dropped
    assert (group.reason, group.count) == (REPEATED, 3)
    assert group.examples[0] == "book.txt line 892"
    agree(tmp_path / "book.txt", 297, tmp_path)


def test_icons_of_which_a_fifth_repeat_are_read(tmp_path: Path) -> None:
    write_images(tmp_path / "icons", [f"a/{index}.png" for index in range(81)])
    for index in range(19):  # the same pixels in another format
        (tmp_path / "icons" / "a" / f"again{index}.bmp").write_bytes(encode(noise(index), "BMP"))
    assert sum(counts(tmp_path / "icons").values()) == 19
    agree(tmp_path / "icons", 81, tmp_path)


def test_above_the_share_the_message_ends_with_the_flag(tmp_path: Path) -> None:
    book = paragraphs(60)
    (tmp_path / "book.txt").write_text("\n\n".join(book * 2))
    config = DataConfig(path=str(tmp_path / "book.txt"))
    ref = open_dataset(config)
    report = validate(ref, config, ValidationConfig(), folder=tmp_path / "report")
    [failure] = report.failures
    assert failure.endswith("; to allow it: --validation.max-duplicate-fraction 0.5")
    rules = ValidationConfig(max_duplicate_fraction=0.5)
    assert validate(ref, config, rules, folder=tmp_path / "report").success
    with pytest.raises(ValidationFailed):
        require(report)


def test_a_training_row_that_is_held_out_too_is_not_trained_on(tmp_path: Path) -> None:
    rows = pd.concat([image_rows(20), image_rows(2, start=90)], ignore_index=True)
    data = write_splits(tmp_path / "data", rows, image_rows(6, start=90))
    assert counts(data) == {SHARED: 2}
    assert len(images_of(data, "heldout")) == 6
    train, heldout = (images_of(data, split).images for split in SPLITS)
    assert not any((image == other).all() for image in train for other in heldout)
    agree(data, 26, tmp_path)


def test_equal_pixels_in_other_bytes_are_on_one_side_of_unsplit_data(tmp_path: Path) -> None:
    for index in range(60):
        for kind in ("png", "bmp"):
            content = encode(noise(index), kind.upper())
            (tmp_path / f"{index}.{kind}").write_bytes(content)
    train, heldout = (images_of(tmp_path, split, heldout_fraction=0.4) for split in SPLITS)
    assert len(train) + len(heldout) == 60
    pixels = {image.numpy().tobytes() for image in train.images}
    assert pixels.isdisjoint(image.numpy().tobytes() for image in heldout.images)
    assert set(counts(tmp_path, heldout_fraction=0.4)) == {REPEATED, SHARED}


def test_answers_repeat_only_under_the_same_prompt(tmp_path: Path) -> None:
    asked = [{"prompt": f"Is it {index}?", "text": "yes"} for index in range(40)]
    rows = [*asked, asked[0]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert counts(tmp_path / "a.jsonl") == {REPEATED: 1}


def test_an_image_under_two_labels_is_kept_and_noted(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{name}/{index}.png" for name in "ab" for index in range(20)])
    (tmp_path / "b" / "again.png").write_bytes((tmp_path / "a" / "3.png").read_bytes())
    (tmp_path / "a" / "again.png").write_bytes((tmp_path / "a" / "3.png").read_bytes())
    ref = opened(tmp_path, heldout_fraction=0.01)
    assert [(group.reason, group.count) for group in ref.dropped] == [(REPEATED, 1)]
    [group] = ref.noted
    assert (group.reason, group.examples) == (RELABELLED, ("b/again.png",))
    # Without the labels they are the same image.
    assert counts(tmp_path, heldout_fraction=0.01, label_column=None) == {REPEATED: 2}


def test_an_image_that_is_refused_is_not_left_out_as_a_repeat(tmp_path: Path) -> None:
    write_images(tmp_path, [f"{index}.png" for index in range(12)])
    content = encode(noise(3), "GIF", save_all=True, append_images=[noise(4)])
    (tmp_path / "x.gif").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.gif: animated"):
        images_of(tmp_path, heldout_fraction=0.001)


@pytest.mark.parametrize("group", [1, 7, 48])
def test_streamed_images_are_those_in_memory(tmp_path: Path, group: int) -> None:
    seeds = [*range(40), *range(5), *range(90, 93)]
    images = [encode(noise(seed, 32, 32)) for seed in seeds]
    train = pd.DataFrame({"image": images}).sample(frac=1, random_state=0)
    heldout = pd.DataFrame({"image": images[-3:]})
    data = write_splits(tmp_path / "data", train, heldout)
    train.to_parquet(data / "train.parquet", row_group_size=group)
    expected = images_of(data)
    config = DataConfig(path=str(data), image={"memory_gb": 3.5e-5})
    stream = Dataset(open_dataset(config), config).read("train")
    assert isinstance(stream, ImageStream)
    assert len(stream) == len(expected) == 40
    assert torch.equal(stream.take(torch.arange(40)).images, expected.images)


def test_clean_data_keeps_its_digest_and_other_data_gets_another(tmp_path: Path) -> None:
    def of_files(path: Path) -> str:
        config = DataConfig(path=str(path))
        return content_digest(find_layout(path, config, all_data_hooks()), 0.1)

    clean, repeated = tmp_path / "clean.txt", tmp_path / "repeated.txt"
    clean.write_text("\n".join(f"line {index}" for index in range(90)))
    repeated.write_text(clean.read_text() + "\nline 3")
    assert opened(clean).content_digest == of_files(clean)
    assert not {"dropped", "noted"} & opened(clean).model_dump().keys()
    assert opened(repeated).content_digest != of_files(repeated)


# Long documents


def prose(num: int, seed: int = 0) -> str:
    """Return a text of words, without a line break."""
    words = random.Random(seed)
    return " ".join("".join(words.choices("abcdefgh", k=5)) for _ in range(num // 6))[:num]


def test_a_document_of_more_than_a_million_characters_is_cut_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    data, book = tmp_path / "data", prose(1_003_854)
    data.mkdir()
    for index in range(30):
        (data / f"{index}.txt").write_text(f"Text {index}.")
    (data / "x.txt").write_text(book)
    [group] = opened(data).noted
    assert group.count == 1
    assert "1,000,000" in group.reason
    assert "--data.text.max-characters" in group.reason
    texts = [*texts_of(data).texts, *texts_of(data, "heldout").texts]
    pieces = [text for text in texts if not text.startswith("Text")]
    assert "".join(pieces) == book
    assert len(pieces) == 2
    assert pieces[0].endswith(" ")
    agree(data, 32, tmp_path)
    assert opened(data, text={"max_characters": 2_000_000}).noted == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a" * 60 + "\n\n" + "b" * 30 + "\n" + "c" * 60, "a" * 60 + "\n\n"),
        ("a" * 60 + ".\n" + "b c " * 30, "a" * 60 + ".\n"),
        ("a" * 60 + ". " + "b c " * 30, "a" * 60 + ". "),
        ("a" * 60 + " " + "b" * 90, "a" * 60 + " "),
        ("a" * 160, "a" * 100),
        ("字" * 60 + "。" + "字" * 90, "字" * 60 + "。"),
        ("e" * 99 + "ee\u0301" + "e" * 60, "e" * 100),
    ],
)
def test_a_document_is_cut_at_the_best_break(text: str, expected: str) -> None:
    pieces = list(cut_document(text, 100))
    assert pieces[0] == expected
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 100


def test_the_pieces_of_a_document_are_in_its_split(tmp_path: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index}.txt").write_text(f"{index} " + prose(900, index))
    settings = {"text": {"max_characters": 100}, "heldout_fraction": 0.3}
    config = DataConfig(path=str(tmp_path), **settings)
    dataset = Dataset(open_dataset(config), config)
    names = [{row.name.split()[0] for row in dataset.rows(split)} for split in SPLITS]
    assert names[0].isdisjoint(names[1])
    assert len(names[0] | names[1]) == 40


def test_an_answer_is_not_cut(tmp_path: Path) -> None:
    rows = [{"prompt": f"{index}?", "text": prose(300, index)} for index in range(30)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert opened(tmp_path / "a.jsonl", text={"max_characters": 100}).noted == ()


@pytest.mark.parametrize("documents", ["auto", "file"])
def test_one_long_document_a_split_gives_rows_to_score(tmp_path: Path, documents: str) -> None:
    for split, num in {"train": 90_000, "val": 10_000}.items():
        (tmp_path / split).mkdir()
        (tmp_path / split / "input.txt").write_text(prose(num, num))
    ref = opened(tmp_path, text={"documents": documents})
    assert ref.num_train == 1
    assert 32 <= ref.num_heldout <= 70
    [group] = ref.noted
    assert "too few held-out texts" in group.reason
    assert "".join(texts_of(tmp_path, "heldout").texts) == prose(10_000, 10_000)
    agree(tmp_path, 1 + ref.num_heldout, tmp_path)


def test_one_long_document_gives_both_splits(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text(prose(200_000))
    ref = opened(tmp_path / "input.txt")
    assert 10 <= ref.num_heldout <= 90
    assert ref.num_train > 5 * ref.num_heldout
    agree(tmp_path / "input.txt", ref.num_train + ref.num_heldout, tmp_path)
