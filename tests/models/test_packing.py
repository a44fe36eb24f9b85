"""Rows of several documents: the quick way equals the plain definition, in memory and on disk."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE

from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.language import packing, tokenizer
from aigc_ops.models.language.packing import IGNORED, KINDS, OPEN_ROWS, pack, windows
from aigc_ops.models.language.tokenizer import Document, Documents, Vocabulary
from tests.models.dialogue import DIALOGUE

CONTEXT = 64
CLOSED = 62  # tokens, a thirty-second of a context from full

Row = list[tuple[int, int, int]]


@st.composite
def documents(draw: st.DrawFn) -> Document:
    length = draw(st.integers(2, 3 * CONTEXT))
    first = draw(st.integers(1, length - 1))
    start = draw(st.integers(1, 700))
    return Document(list(range(start, start + length)), first, draw(st.integers(1, first)))


def packed_plainly(documents: list[Document], *, on_prompts: bool) -> dict[str, list[list[int]]]:
    """First fit: one document, one window and one token after another."""
    rows, still_open, is_shared = list[Row](), list[Row](), False
    for document in documents:
        ids = document.ids
        first = document.new if on_prompts else document.first
        for begin, end, scored in windows(len(ids), context_length=CONTEXT, overlap=1, first=first):
            piece = [
                (ids[at], ids[at + 1] if at + 1 >= scored else IGNORED, at - begin)
                for at in range(begin, end)
            ]
            row = next((row for row in still_open if len(row) + len(piece) <= CONTEXT), None)
            is_shared |= row is not None
            if row is None:
                row = []
                rows.append(row)
                still_open.append(row)
            row += piece
            still_open = [row for row in still_open if len(row) <= CLOSED][-OPEN_ROWS:]
    whole = [[*row, *[(0, IGNORED, 0)] * (CONTEXT - len(row))] for row in rows]
    kinds = KINDS if is_shared else KINDS[:2]
    return {kind: [[token[n] for token in row] for row in whole] for n, kind in enumerate(kinds)}


def packed(documents: list[Document], at_once: int = 50, **options: object) -> dict[str, object]:
    firsts = range(0, len(documents), at_once)
    batches = [Documents.of(documents[first : first + at_once]) for first in firsts]
    settings = {"context_length": CONTEXT, "num_tokens": 1000, "on_prompts": True, **options}
    return {kind: rows.tolist() for kind, rows in pack(batches, **settings).items()}


@settings(deadline=None)
@given(st.lists(documents(), min_size=1, max_size=150), st.booleans(), st.integers(1, 60))
def test_packing_equals_its_plain_definition(
    documents: list[Document], on_prompts: bool, at_once: int
) -> None:
    found = packed(documents, at_once, on_prompts=on_prompts)
    assert found == packed_plainly(documents, on_prompts=on_prompts)


def test_rows_that_no_more_fit_in_memory_lose_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 100, (900,), generator=generator).tolist()
    texts = [Document(list(range(n, n + length)), 1) for n, length in enumerate(lengths)]
    at_once = packed(texts, num_tokens=2000)
    monkeypatch.setattr(packing, "TOKENS_AT_ONCE", 100 * CONTEXT)
    in_parts = packed(texts, num_tokens=2000)
    assert in_parts == packed(texts, num_tokens=2000, folder=tmp_path)
    assert in_parts["inputs"] != at_once["inputs"]
    pairs = [
        Counter(
            pair
            for inputs, targets in zip(rows["inputs"], rows["targets"], strict=True)
            for pair in zip(inputs, targets, strict=True)
            if pair[1] != IGNORED
        )
        for rows in (at_once, in_parts)
    ]
    assert pairs[0] == pairs[1]
    assert sum(pairs[0].values()) == sum(lengths) - len(lengths)


def test_documents_alone_in_their_rows_have_no_positions_on_disk_either(tmp_path: Path) -> None:
    found = packed([Document(list(range(CONTEXT + 1)), 1)] * 3, folder=tmp_path)
    assert found.keys() == {"inputs", "targets"}
    assert {file.name for file in tmp_path.iterdir()} == {"inputs.npy", "targets.npy"}


@pytest.mark.parametrize(("num_tokens", "dtype"), [(2**15, torch.int16), (2**15 + 1, torch.int32)])
def test_rows_are_as_wide_as_the_vocabulary_needs(num_tokens: int, dtype: torch.dtype) -> None:
    document = Document([num_tokens - 1] * 3, 1)
    rows = pack(
        [Documents.of([document])], context_length=4, num_tokens=num_tokens, on_prompts=True
    )
    assert rows["inputs"].dtype == dtype
    assert rows["inputs"].tolist() == [[num_tokens - 1] * 2 + [0] * 2]


@pytest.mark.parametrize("prompts", [None, ["Who?", "", "你好", "x" * 9] * 9])
def test_texts_are_framed_together_as_each_alone(
    prompts: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TextData(["A machine.", "", "好", "two\nlines"] * 9, prompts)
    vocabulary = Vocabulary.learn(data if prompts else DIALOGUE, 300)
    vocabulary.turn = vocabulary.turn if prompts else []
    monkeypatch.setattr(tokenizer, "MOST_TEXTS", 5)
    found = list(vocabulary.documents(data))
    for row, document in enumerate(found):
        opening = vocabulary.prompt_tokens(prompts[row] if prompts else None)
        (text,) = vocabulary.encode([data.texts[row]])
        assert document == Document([*opening, *text, vocabulary.end], len(opening))
    assert len(found) == len(data)


@pytest.mark.parametrize("most", [1, 30])
def test_no_more_text_is_encoded_at_once_than_allowed(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "MOST_CHARACTERS", most)
    longest = max(len(p) + len(t) for p, t in zip(DIALOGUE.prompts, DIALOGUE.texts, strict=True))
    parts = list(tokenizer._blocks(DIALOGUE))
    assert [text for part in parts for text in part.texts] == DIALOGUE.texts
    assert all(part.num_characters < most + longest + len("prompts") for part in parts)


LF = "\n"
LONG = "".join(
    f"{'# ' * (i % 3)}Line {i}, {'你好 ' * (i % 5)}don't{' ' * (i % 3)}{LF * (1 + i % 4)}"
    for i in range(90)
)


def metaspace() -> Vocabulary:
    """A tokenizer that begins each text it is given with a space, as SentencePiece's do."""
    pieces = ["▁", *sorted(set(LONG) - {" "}), "<s>", "</s>"]
    tokenizer = Tokenizer(BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    start, end = (tokenizer.token_to_id(mark) for mark in ("<s>", "</s>"))
    return Vocabulary(tokenizer, start=start, turn=[], end=end)


@pytest.mark.parametrize("kind", ["learn", "of_bytes", "of_characters", "metaspace"])
def test_a_long_text_has_the_tokens_of_the_whole_however_it_is_cut(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = TextData(["short", LONG, LONG.replace(LF, " ")])

    def made() -> Vocabulary:
        if kind == "metaspace":
            return metaspace()
        if kind == "learn":
            return Vocabulary.learn(data, 330)
        return getattr(Vocabulary, kind)(data)

    whole = made()
    expected = [document.ids for document in whole.documents(data)]
    longest = list[int]()
    encode = Vocabulary._encodings
    monkeypatch.setattr(tokenizer, "MOST_CHARACTERS", 100)
    monkeypatch.setattr(
        Vocabulary,
        "_encodings",
        lambda self, texts: longest.append(max(map(len, texts))) or encode(self, texts),
    )
    vocabulary = made()
    assert vocabulary.record() == whole.record()
    assert [each.ids for each in vocabulary.documents(TextData(data.texts[:2]))] == expected[:2]
    assert (max(longest) < 1000) is (kind != "metaspace")
    assert [each.ids for each in vocabulary.documents(data)] == expected
