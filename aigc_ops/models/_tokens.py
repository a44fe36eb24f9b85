"""Texts as token ids: a vocabulary with its marks, packed rows, windows over long texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor

from aigc_ops.errors import ModelError
from aigc_ops.generative import TextData
from aigc_ops.models._templates import ChatTemplate
from aigc_ops.sample_request import Message

MARKS = ("<|start|>", "<|answer|>", "<|end|>")
NUM_FIXED = 256 + len(MARKS)
IGNORED = -100  # a target that no loss counts
OPEN_ROWS = 64  # rows that a later text may still fill
ROWS_AT_ONCE = 1024  # added when all are full
ENCODED_AT_ONCE = 2048  # texts


@dataclass(frozen=True)
class Document:
    """The ids of one text in its frame; those from `first` on are the text and its end."""

    ids: list[int]
    first: int
    new: int = 1
    """Where what another document does not hold too begins: after an earlier conversation."""


class Vocabulary:
    """A tokenizer, and the frame it puts around texts: start, prompt, turn, text, end.

    `turn` is empty when the model learns from plain documents: a prompt is then a text's
    beginning, and without a prompt nothing stands between start and text. A chat template
    (Jinja, as transformers has them) frames prompts and earlier turns in its own way.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        start: int,
        turn: Sequence[int],
        end: int,
        template: ChatTemplate | None = None,
    ) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.start, self.turn, self.end = tokenizer, start, list(turn), end
        self.template = template
        self.size: int = tokenizer.get_vocab_size()
        self._new_line: list[int] = tokenizer.encode("\n", add_special_tokens=False).ids
        self.longest_token = max(map(len, tokenizer.get_vocab()))

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
    def of_characters(cls, data: TextData) -> Self:
        """One token a character that occurs in the data, and the marks; others take their bytes."""
        texts = [*data.texts, *(data.prompts or ())]
        alphabet = sorted(set().union(*texts))
        if not alphabet:
            raise ModelError("the training texts are empty; there are no characters to learn")
        pieces = [*alphabet, *(f"<0x{byte:02X}>" for byte in range(256))]
        vocab = {piece: index for index, piece in enumerate(pieces)}
        tokenizer = Tokenizer(BPE(vocab=vocab, merges=[], byte_fallback=True))
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        tokenizer.add_special_tokens(list(MARKS))
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
        template = record.get("template")
        return cls(
            tokenizer,
            start=record["start"],
            turn=record["turn"],
            end=record["end"],
            template=ChatTemplate(**template) if template else None,
        )

    def record(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {
            "tokenizer": self.tokenizer.to_str(),
            "start": self.start,
            "turn": list(self.turn),
            "end": self.end,
            "template": self.template and asdict(self.template),
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

    def opening(self, prompt: str | None, history: Sequence[Message] = ()) -> list[int]:
        """What stands before a text that answers or continues the prompt."""
        if self.template and (prompt or history):
            messages = [*history, Message("user", prompt or "")]
            return self._framed(self.template.render(messages, answered=False))
        return self._open(self.encode([prompt])[0] if prompt else [], history)

    def _open(self, prompt: list[int], history: Sequence[Message] = ()) -> list[int]:
        ids = [self.start]
        after = {"system": self._new_line, "user": self.turn, "assistant": [self.end]}
        texts = self.encode([message.text for message in history])
        for message, text in zip(history, texts, strict=True):
            ids += [*text, *after[message.role]]
        return [*ids, *prompt, *self.turn] if prompt else ids

    def _framed(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of a template's own text, where marks are marks, and of people's, where not."""
        ids: list[int] = []
        for text, is_templates in pieces:
            self.tokenizer.encode_special_tokens = not is_templates
            ids += self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def documents(self, data: TextData) -> Iterator[Document]:
        """Each text in its frame, in order; a part of the data is encoded at a time."""
        for start in range(0, len(data), ENCODED_AT_ONCE):
            part = data.take(range(start, min(start + ENCODED_AT_ONCE, len(data))))
            texts = self.encode(part.texts)
            if self.template or part.histories:
                yield from (self._answer(part, row, ids) for row, ids in enumerate(texts))
                continue
            prompts = self.encode(part.prompts) if part.prompts is not None else [[]] * len(part)
            for prompt, text in zip(prompts, texts, strict=True):
                before = self._open(prompt)
                yield Document([*before, *text, self.end], len(before))

    def _answer(self, data: TextData, row: int, text: list[int]) -> Document:
        prompt = data.prompts[row] if data.prompts else None
        history = data.histories[row] if data.histories else ()
        opening = self.opening(prompt, history)
        new = 1
        if history and not self.template:
            new = len(self._open([], history))
        elif history and self.template:
            new = len(self._framed(self.template.render(history, answered=True)))
        return Document([*opening, *text, self.end], len(opening), new)

    def spoken(self, token: int) -> list[int]:
        """The ids by which a drawn id is told: a turn within a text reads as a new line."""
        return self._new_line if [token] == self.turn else [token]

    def fits(self, prompt: str, num_tokens: int) -> bool:
        """False when the prompt is longer than so many tokens, known without encoding it."""
        return len(prompt) <= num_tokens * self.longest_token


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


def shorter_histories(history: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The history, then without its oldest turns, two at a time; system messages stay."""
    opening = [message for message in history if message.role == "system"]
    turns = history[len(opening) :]
    for start in range(0, len(turns) + 1, 2):
        if kept := [*opening, *turns[start:]]:
            yield kept


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
    documents: Iterable[Document], *, context_length: int, on_prompts: bool
) -> dict[str, Tensor]:
    """Rows of several documents: `inputs`, `targets`, `positions`, each (N, context) int32.

    A position counts from 0 in each document, so a 0 marks where attention must not look
    back; there are none where each row holds one document alone. Padding has target -100 and
    position 0, and stands last. First fit among the newest open rows.
    """
    rows = _Rows(context_length)
    for document in documents:
        ids = np.array(document.ids, np.int32)
        first = document.new if on_prompts else document.first
        cuts = windows(document, context_length=context_length, overlap=1, first=first)
        for begin, end, scored in cuts:
            inputs, targets, positions = rows.place(end - begin)
            inputs[:] = ids[begin:end]
            targets[scored - 1 - begin :] = ids[scored : end + 1]
            positions[:] = np.arange(end - begin)
    return rows.tensors()


class _Rows:
    """Growing rows of inputs, targets and positions."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._blocks: list[np.ndarray[Any, np.dtype[np.int32]]] = []
        self._open: list[tuple[int, int]] = []
        """(row, places taken) of the newest rows, oldest first."""
        self._num = 0
        self._is_shared = False
        self._open_until = length - max(1, length // 32)
        """Places taken beyond which a row is full: few texts would fit, and all look at it."""

    def place(self, length: int) -> "np.ndarray[Any, np.dtype[np.int32]]":
        """Room for a piece, (3, length), in the first open row that has as much."""
        for index, (row, taken) in enumerate(self._open):
            if taken + length <= self._length:
                self._open[index] = (row, taken + length)
                if taken + length > self._open_until:
                    del self._open[index]
                self._is_shared = True
                return self._block(row)[:, row % ROWS_AT_ONCE, taken : taken + length]
        row, self._num = self._num, self._num + 1
        if length <= self._open_until:
            self._open = [*self._open[-(OPEN_ROWS - 1) :], (row, length)]
        return self._block(row)[:, row % ROWS_AT_ONCE, :length]

    def _block(self, row: int) -> "np.ndarray[Any, np.dtype[np.int32]]":
        if row // ROWS_AT_ONCE == len(self._blocks):
            block = np.zeros((3, ROWS_AT_ONCE, self._length), np.int32)
            block[1] = IGNORED
            self._blocks.append(block)
        return self._blocks[row // ROWS_AT_ONCE]

    def tensors(self) -> dict[str, Tensor]:
        """All rows by kind, (N, length) int32 each; nothing is kept here."""
        names = ("inputs", "targets", "positions")[: 3 if self._is_shared else 2]
        blocks, self._blocks = self._blocks, []
        rows = np.empty((len(names), self._num, self._length), np.int32)
        for first in reversed(range(0, self._num, ROWS_AT_ONCE)):  # each is let go once copied
            block, num = blocks.pop(), min(ROWS_AT_ONCE, self._num - first)
            rows[:, first : first + num] = block[: len(names), :num]
        return {name: torch.from_numpy(rows[kind]) for kind, name in enumerate(names)}


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
