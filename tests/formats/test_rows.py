"""How files become rows and rows become splits."""

from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc_ops.data.config import DataConfig
from aigc_ops.formats.layout import find_layout
from aigc_ops.formats.rows import is_heldout, read_rows
from aigc_ops.interfaces.ingestion import all_data_hooks
from aigc_ops.modalities.text.documents import split_documents
from tests.data.making_data import image_rows

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
LINES = st.lists(TEXT, max_size=20)


@given(st.binary(), st.floats(0.01, 0.98), st.floats(0.001, 0.01))
def test_a_larger_fraction_only_adds_to_what_is_held_out(
    key: bytes, fraction: float, more: float
) -> None:
    assert is_heldout(key, fraction) <= is_heldout(key, fraction + more)


def test_the_split_of_a_row_is_fixed_by_its_sha256_for_good() -> None:
    held = [i for i in range(60) if is_heldout(str(i).encode(), 0.2)]
    assert held == [8, 9, 39, 46, 47, 49, 50, 51, 53, 54, 55]


@given(st.integers(2, 9))
def test_about_the_asked_share_is_held_out(tenths: int) -> None:
    held = sum(is_heldout(str(i).encode(), tenths / 10) for i in range(4000))
    assert abs(held / 4000 - tenths / 10) < 0.04  # 4 standard deviations are 0.032


def test_adding_rows_moves_no_other_row(tmp_path: Path) -> None:
    def heldout(rows: pd.DataFrame) -> set[str]:
        path = tmp_path / "rows.parquet"
        rows.to_parquet(path)
        config = DataConfig(path=str(path), heldout_fraction=0.3)
        layout = find_layout(path, config, all_data_hooks())
        held = {row.content for row in read_rows(layout, config, "heldout")}
        trained = {row.content for row in read_rows(layout, config, "train")}
        assert not held & trained
        assert len(held | trained) == len(rows)
        return held

    few, many = image_rows(20), image_rows(40)
    before = heldout(few)
    after = heldout(many.sample(frac=1, random_state=0))
    assert before == after & {image["bytes"] for image in few["image"]}


def test_rows_with_one_prompt_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "dialogue.parquet"
    prompts = [f"prompt {i // 4}" for i in range(80)]
    texts = [f"answer {i}" for i in range(80)]
    pd.DataFrame({"prompt": prompts, "text": texts}).to_parquet(path)
    config = DataConfig(path=str(path), heldout_fraction=0.4)
    layout = find_layout(path, config, all_data_hooks())
    held = {row.prompt for row in read_rows(layout, config, "heldout")}
    trained = {row.prompt for row in read_rows(layout, config, "train")}
    assert held
    assert not held & trained


@given(LINES)
def test_a_document_by_line_is_every_line_that_is_not_blank(lines: list[str]) -> None:
    documents = list(split_documents(BytesIO("\n".join(lines).encode()), "line"))
    expected = [(n, line.encode().strip()) for n, line in enumerate(lines, 1)]
    assert documents == [(n, line) for n, line in expected if line]


@given(st.lists(LINES, max_size=6), st.sampled_from(["\n", "\r\n"]))
def test_a_document_by_paragraph_is_every_run_of_lines(
    paragraphs: list[list[str]], newline: str
) -> None:
    full = [[line for line in lines if line.encode().strip()] for lines in paragraphs]
    text = (newline * 2).join(newline.join(lines) for lines in full)
    documents = [document for _, document in split_documents(BytesIO(text.encode()), "paragraph")]
    assert documents == ["\n".join(lines).encode().strip() for lines in full if lines]


@given(LINES)
def test_a_document_is_found_at_its_line(lines: list[str]) -> None:
    text = "\n".join(lines).encode()
    for unit in ("line", "paragraph", "file"):
        for line, document in split_documents(BytesIO(text), unit):
            assert document.split(b"\n")[0].strip() in text.split(b"\n")[line - 1]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"one\ntwo\n\n", [b"one", b"two"]),
        (b"\n\none\ntwo", [b"one", b"two"]),
        (b"one\ntwo\n \nthree", [b"one\ntwo", b"three"]),
        (b"\xef\xbb\xbfone\r\ntwo\r\n", [b"one", b"two"]),
        (b"", []),
        (b" \n\n \n", []),
    ],
)
def test_blank_lines_between_lines_make_paragraphs(content: bytes, expected: list[bytes]) -> None:
    assert [document for _, document in split_documents(BytesIO(content), "auto")] == expected
