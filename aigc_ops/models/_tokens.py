"""Texts as token ids: a vocabulary with its marks, packed rows, windows over long texts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from pydantic import JsonValue
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor

from aigc_ops.errors import ModelError
from aigc_ops.generative import TextData

MARKS = ("<|start|>", "<|answer|>", "<|end|>")
NUM_FIXED = 256 + len(MARKS)
IGNORED = -100  # a target that no loss counts
OPEN_ROWS = 64  # rows that a later text may still fill


@dataclass(frozen=True)
class Document:
    """The ids of one text in its frame; those from `first` on are the text and its end."""

    ids: list[int]
    first: int


class Vocabulary:
    """A tokenizer, and the frame it puts around texts: start, prompt, turn, text, end.

    `turn` is empty when the model learns from plain documents: a prompt is then a text's
    beginning, and without a prompt nothing stands between start and text.
    """

    def __init__(self, tokenizer: Tokenizer, *, start: int, turn: Sequence[int], end: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.start, self.turn, self.end = tokenizer, start, list(turn), end
        self.size: int = tokenizer.get_vocab_size()
        self._new_line: list[int] = tokenizer.encode("\n", add_special_tokens=False).ids
        self._longest = max(map(len, tokenizer.get_vocab()))

    @classmethod
    def learn(cls, data: TextData, max_size: int) -> Self:
        """A byte-level BPE of the texts and prompts; equal data gives an equal one."""
        tokenizer = _byte_level(BPE(), words=True)
        new_trainer: Any = trainers.BpeTrainer
        trainer = new_trainer(
            vocab_size=max_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(MARKS),
            show_progress=False,
        )
        tokenizer.train_from_iterator([*data.texts, *(data.prompts or ())], trainer)
        return cls._marked(tokenizer, data)

    @classmethod
    def of_bytes(cls, data: TextData) -> Self:
        """One token a byte, and the marks."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocab = {character: index for index, character in enumerate(alphabet)}
        tokenizer = _byte_level(BPE(vocab=vocab, merges=[]), words=False)
        tokenizer.add_special_tokens(list(MARKS))
        return cls._marked(tokenizer, data)

    @classmethod
    def _marked(cls, tokenizer: Tokenizer, data: TextData) -> Self:
        ids = tokenizer.get_vocab()
        start, turn, end = (ids[mark] for mark in MARKS)
        return cls(tokenizer, start=start, turn=[turn] if data.prompts is not None else [], end=end)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The vocabulary that `record()` describes."""
        tokenizer = Tokenizer.from_str(record["tokenizer"])
        return cls(tokenizer, start=record["start"], turn=record["turn"], end=record["end"])

    def record(self) -> dict[str, JsonValue]:
        """All of it, as JSON."""
        return {
            "tokenizer": self.tokenizer.to_str(),
            "start": self.start,
            "turn": list(self.turn),
            "end": self.end,
        }

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without marks."""
        for text in texts:
            check_unicode(text)
        # Text that spells a mark is text: a prompt cannot end or answer itself. Set here,
        # for a copied tokenizer forgets it.
        self.tokenizer.encode_special_tokens = True
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def opening(self, prompt: str | None) -> list[int]:
        """What stands before a text that answers or continues the prompt."""
        return self._open(self.encode([prompt])[0] if prompt else [])

    def _open(self, prompt: list[int]) -> list[int]:
        return [self.start, *prompt, *self.turn] if prompt else [self.start]

    def documents(self, data: TextData) -> list[Document]:
        """Each text in its frame, in order."""
        prompts = self.encode(data.prompts) if data.prompts is not None else [[]] * len(data)
        pairs = zip(prompts, self.encode(data.texts), strict=True)
        openings = ((self._open(prompt), text) for prompt, text in pairs)
        return [Document([*before, *text, self.end], len(before)) for before, text in openings]

    def decode(self, opening: Sequence[int], drawn: Sequence[int]) -> str:
        """The text of drawn ids up to the end mark, without the bytes of a broken last character.

        A turn within it reads as a new line.
        """
        ended = drawn[: drawn.index(self.end)] if self.end in drawn else drawn
        ids = [i for each in ended for i in (self._new_line if [each] == self.turn else [each])]
        # Some tokenizers drop a leading space unless they see what stands before it.
        before = self.tokenizer.decode(list(opening))
        whole = self.tokenizer.decode([*opening, *ids])
        return whole[len(before) :].rstrip("\ufffd")

    def fits(self, prompt: str, num_tokens: int) -> bool:
        """False when the prompt is longer than so many tokens, known without encoding it."""
        return len(prompt) <= num_tokens * self._longest


def _byte_level(model: BPE, *, words: bool) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def check_unicode(text: str) -> None:
    """Raise ModelError when the text cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"character {error.start} of the text is half a surrogate pair "
            f"(U+{ord(text[error.start]):04X}); give valid Unicode text"
        ) from None


def windows(
    document: Document, *, context_length: int, overlap: int, first: int
) -> Iterator[tuple[int, int, int]]:
    """Yield (begin, end, scored): the ids begin..end-1 predict those from scored to end.

    Each id from `first` on is predicted once, with at least `overlap` before it where the
    document has so many.
    """
    scored = first
    while scored < len(document.ids):
        begin = 0 if scored <= context_length else scored - overlap
        end = min(begin + context_length, len(document.ids) - 1)
        yield begin, end, scored
        scored = end + 1


def pack(
    documents: Sequence[Document], *, context_length: int, on_prompts: bool
) -> dict[str, Tensor]:
    """Rows of several documents: `inputs`, `targets`, `positions`, each (N, context) int32.

    A position counts from 0 in each document, so a 0 marks where attention must not look
    back. Padding has target -100 and position 0. First fit among the newest open rows.
    """
    pieces = [
        (document.ids, *window)
        for document in documents
        for window in windows(
            document,
            context_length=context_length,
            overlap=1,
            first=1 if on_prompts else document.first,
        )
    ]
    places, num_rows = _place([end - begin for _, begin, end, _ in pieces], context_length)
    shape = (num_rows, context_length)
    inputs, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    targets = np.full(shape, IGNORED, np.int32)
    for (ids, begin, end, scored), (row, column) in zip(pieces, places, strict=True):
        last = column + end - begin
        inputs[row, column:last] = ids[begin:end]
        positions[row, column:last] = range(end - begin)
        targets[row, last - (end + 1 - scored) : last] = ids[scored : end + 1]
    named = {"inputs": inputs, "targets": targets, "positions": positions}
    return {name: torch.from_numpy(rows) for name, rows in named.items()}


def _place(lengths: Sequence[int], size: int) -> tuple[list[tuple[int, int]], int]:
    """(row, column) of each piece, and the number of rows."""
    places: list[tuple[int, int]] = []
    filled: list[int] = []
    for length in lengths:
        recent = range(max(0, len(filled) - OPEN_ROWS), len(filled))
        row = next((row for row in recent if filled[row] + length <= size), len(filled))
        if row == len(filled):
            filled.append(0)
        places.append((row, filled[row]))
        filled[row] += length
    return places, len(filled)


def scoring_batches(
    documents: Sequence[Document], *, context_length: int, max_tokens: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (document indices (B,), inputs (B, T), targets (B, T)), all int64.

    Every id of each text is a target once, with at least half a context before it where
    the document has so many. Padding stands last, where causal attention does not see it.
    A batch is as large as `max_tokens` allows, or one row.
    """
    overlap = max(1, context_length // 2)
    pieces = [
        (index, *window)
        for index, document in enumerate(documents)
        for window in windows(
            document, context_length=context_length, overlap=overlap, first=document.first
        )
    ]
    pieces.sort(key=lambda piece: piece[2] - piece[1])
    while pieces:
        length = pieces[-1][2] - pieces[-1][1]
        num = max(1, max_tokens // length)
        pieces, batch = pieces[:-num], pieces[-num:]
        inputs = torch.zeros(len(batch), length, dtype=torch.int64)
        targets = torch.full_like(inputs, IGNORED)
        for row, (index, begin, end, scored) in enumerate(batch):
            ids = torch.tensor(documents[index].ids[begin : end + 1])
            inputs[row, : end - begin] = ids[:-1]
            targets[row, scored - begin - 1 : end - begin] = ids[scored - begin :]
        yield torch.tensor([index for index, *_ in batch]), inputs, targets


def attention_within(positions: Tensor) -> Tensor:
    """(B, 1, T, T) bool: true where a token of packed rows may look."""
    documents = (positions == 0).cumsum(1)
    same = documents[:, None, :, None] == documents[:, None, None, :]
    return same.tril()


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids (N, T) int64 ending together, and (N, T) bool where they are no padding."""
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    valid = torch.zeros(len(rows), longest, dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, longest - len(row) :] = torch.tensor(row)
        valid[index, longest - len(row) :] = True
    return ids, valid
