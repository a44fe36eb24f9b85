"""JSON lines and conversations: an answer a row, and what is no conversation is named."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aigc_ops.core.errors import DataError, ValidationFailed
from aigc_ops.data.config import DataConfig
from aigc_ops.data.dataset import open_dataset, read_split
from aigc_ops.data.validation.config import ValidationConfig
from aigc_ops.data.validation.suite import require, validate
from aigc_ops.interfaces.request import Message
from aigc_ops.modalities.text.model import TextData


def chat(number: int) -> list[dict[str, str]]:
    said = [("user", f"Hi {number}"), ("assistant", "Hello"), ("user", "Bye?"), ("assistant", "你")]
    return [{"role": role, "content": content} for role, content in said]


def write_lines(path: Path, records: list[Any]) -> Path:
    lines = (r if isinstance(r, str) else json.dumps(r, ensure_ascii=False) for r in records)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read(path: Path, split: str = "train", **settings: Any) -> TextData:
    config = DataConfig(path=str(path), **settings)
    data = read_split(open_dataset(config), config, split)
    assert isinstance(data, TextData)
    return data


@pytest.mark.parametrize("answer", ["response", "text", "answer", "completion"])
def test_json_lines_hold_prompts_and_answers(tmp_path: Path, answer: str) -> None:
    records = [{"prompt": f"p{i}", answer: f"a{i}"} for i in range(40)]
    path = write_lines(tmp_path / "pairs.jsonl", records)
    both = [read(path, split) for split in ("train", "heldout")]
    assert {*both[0].texts, *both[1].texts} == {f"a{i}" for i in range(40)}
    assert both[0].prompts == [f"p{text[1:]}" for text in both[0].texts]
    assert both[0].histories is None


def test_each_answer_of_a_conversation_is_a_row_after_all_that_was_said(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "chat.jsonl", [{"messages": chat(i)} for i in range(40)])
    train, heldout = read(path), read(path, "heldout")
    assert len(train) + len(heldout) == 80
    assert train.histories is not None
    first, second = train.histories[:2]
    assert first == ()
    assert second == (Message("user", train.prompts[0]), Message("assistant", "Hello"))
    assert train.texts[:2] == ["Hello", "你"]
    # A conversation is trained on or judged, never both.
    assert len(train) % 2 == len(heldout) % 2 == 0
    assert not {*train.prompts[::2]} & {*heldout.prompts[::2]}


def test_parquet_of_messages_is_the_same_data(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "chat.jsonl", [{"messages": chat(i)} for i in range(40)])
    table = tmp_path / "chat.parquet"
    pd.DataFrame({"messages": [chat(i) for i in range(40)]}).to_parquet(table)
    assert read(lines) == read(table)


def test_files_of_lines_may_come_split(tmp_path: Path) -> None:
    write_lines(tmp_path / "train.jsonl", [{"messages": chat(1)}])
    write_lines(tmp_path / "heldout.jsonl", [{"messages": chat(2)}])
    assert read(tmp_path).prompts == ["Hi 1", "Bye?"]
    assert read(tmp_path, "heldout").prompts == ["Hi 2", "Bye?"]


BAD = {
    "no JSON": ("{oops", r"line 2: .*not JSON"),
    "brackets in brackets": ("[" * 100_000, r"line 2: .*not JSON \(maximum recursion depth"),
    "no object": ("[1]", "not a JSON object"),
    "no text": ({"prompt": "p"}, r"has no 'text' \(data.text.column\) and no 'messages'"),
    "no turns": ({"messages": [{"role": "user"}]}, "the user's content is None"),
    "a strange role": (
        {"messages": [{"role": "tool", "content": "x"}]},
        "role 'tool' is not one of system, user, assistant",
    ),
    "no answer": ({"messages": chat(0)[:1]}, "no message is the assistant's"),
    "an open end": ({"messages": chat(0)[:3]}, "the last message is not the assistant's"),
    "out of order": (
        {"messages": [*chat(0)[:1], *chat(0)]},
        "message 2 has the role user, expected assistant",
    ),
    "half a surrogate": (
        '{"prompt": "p", "text": "a\\ud800"}',
        "not UTF-8 .* at byte 1\\); save it as UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_conversation_is_named_by_its_line(tmp_path: Path, case: str) -> None:
    bad, message = BAD[case]
    good = [{"prompt": f"p{i}", "text": f"a{i}"} for i in range(20)]
    path = write_lines(tmp_path / "rows.jsonl", [good[0], bad, *good[1:]])
    config = DataConfig(path=str(path), heldout_fraction=0.3)
    ref = open_dataset(config)
    report = validate(ref, config, ValidationConfig(), folder=tmp_path / "report")
    with pytest.raises(ValidationFailed, match=r"rows\.jsonl line 2"):
        require(report)
    with pytest.raises(DataError, match=message):
        _ = [read_split(ref, config, split) for split in ("train", "heldout")]
