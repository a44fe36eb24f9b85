"""Tokenisation: texts and conversations to token ids with special tokens."""

import hashlib
import json
import re
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import chain, islice
from typing import Any, Self

import numpy as np
from pydantic import JsonValue
from tokenizers import Encoding, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import Message
from aigc_ops.modalities.text.model import TextData
from aigc_ops.models.language.chat_templates import ChatTemplate

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]
SPECIAL_TOKENS = START, TURN, END = "<|start|>", "<|answer|>", "<|end|>"
NUM_FIXED = 256 + len(SPECIAL_TOKENS)
MOST_TEXTS, MOST_CHARACTERS = 2048, 2**20  # encoded at a time; a token takes 100 bytes meanwhile
MOST_TRIES, CONTEXT_CHARACTERS = 16, 256  # line ends tried for a split; characters compared there
_LINE_END = re.compile(r"\n(?=\S)")
# `encode_special_tokens` is a setting of the tokenizer, not of a call: held from setting it until
# the texts are encoded. The service encodes in several threads.
_ENCODING = threading.Lock()
THREADS = 2  # a thread builds arrays while the other waits for the tokenizer's own threads


@dataclass(frozen=True)
class Document:
    """Ids of one text with its prompt; those from `first` on are the text and its end token."""

    ids: list[int]
    first: int
    new: int = 1
    """Index of the first id that no earlier document of the same conversation contains."""


@dataclass(frozen=True)
class Documents:
    """Several documents as arrays; all but `ids` have one entry per document."""

    ids: Integers
    """(tokens,) ids of all documents, concatenated."""
    starts: Integers
    """Index in `ids` at which each document begins."""
    lengths: Integers
    first: Integers
    """Index within each document, as in `Document`."""
    new: Integers

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Self:
        """Return the arrays of several documents."""
        lengths = np.array([len(document.ids) for document in documents])
        return cls(
            np.fromiter(chain.from_iterable(document.ids for document in documents), np.int32),
            lengths.cumsum() - lengths,
            lengths,
            np.array([document.first for document in documents]),
            np.array([document.new for document in documents]),
        )

    def __iter__(self) -> Iterator[Document]:
        columns = (self.starts, self.lengths, self.first, self.new)
        for start, length, first, new in zip(*(c.tolist() for c in columns), strict=True):
            yield Document(self.ids[start : start + length].tolist(), first, new)


class Vocabulary:
    """A tokenizer with its special tokens; a document is start, prompt, turn, text, end.

    `turn` is empty when the model learns from plain documents: a prompt is then the beginning
    of the text. A chat template (Jinja, as in transformers) replaces this format.
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
        """Train a byte-level BPE on texts and prompts; equal data gives an equal vocabulary."""
        tokenizer = _byte_level(BPE(), words=True)
        new_trainer: Any = trainers.BpeTrainer
        trainer = new_trainer(
            vocab_size=max_size,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=list(SPECIAL_TOKENS),
            show_progress=False,
        )
        # Any split will do: this tokenizer's words end before the last of some line ends anyway.
        texts = chain(data.texts, data.prompts or ())
        pieces = (piece for text in texts for piece in _split_text(text, lambda *_: True))
        tokenizer.train_from_iterator(pieces, trainer)
        return cls._with_special_tokens(tokenizer, data)

    @classmethod
    def of_characters(cls, data: TextData) -> Self:
        """Return a vocabulary of the data's characters; others are encoded as bytes."""
        characters = set[str]()
        for text in chain(data.texts, data.prompts or ()):
            characters.update(text)
        alphabet = sorted(characters)
        if not alphabet:
            raise ModelError("the training texts are empty; there are no characters to learn")
        pieces = [*alphabet, *(f"<0x{byte:02X}>" for byte in range(256))]
        vocab = {piece: index for index, piece in enumerate(pieces)}
        tokenizer = Tokenizer(BPE(vocab=vocab, merges=[], byte_fallback=True))
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        return cls._with_special_tokens(tokenizer, data)

    @classmethod
    def of_bytes(cls, data: TextData) -> Self:
        """Return a vocabulary with one token per byte, and the special tokens."""
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocab = {character: index for index, character in enumerate(alphabet)}
        tokenizer = _byte_level(BPE(vocab=vocab, merges=[]), words=False)
        tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
        return cls._with_special_tokens(tokenizer, data)

    @classmethod
    def _with_special_tokens(cls, tokenizer: Tokenizer, data: TextData) -> Self:
        ids = tokenizer.get_vocab()
        vocabulary = cls(tokenizer, start=ids[START], turn=[], end=ids[END])
        if data.prompts is not None:
            vocabulary.use_turn_token()
        return vocabulary

    def use_turn_token(self) -> None:
        """Separate prompts from texts from now on, by the turn token or else a new line."""
        if not self.turn:
            turn = self.tokenizer.token_to_id(TURN)
            self.turn = self._new_line if turn is None else [turn]

    def use_chat_template(self, template: ChatTemplate) -> None:
        """Format prompts by the template from now on, and end texts by its end token."""
        self.template = template
        # Chat models often end answers by another token than their config's eos_token.
        closing = self._template_tokens([(template.after_answer(), None)])
        special_tokens = self.tokenizer.get_added_tokens_decoder()
        self.end = next((token for token in closing if token in special_tokens), self.end)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Return the vocabulary that `record()` describes."""
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
        """Return the whole vocabulary as JSON; it is stored in model.json."""
        return {
            "tokenizer": self.tokenizer.to_str(),
            "start": self.start,
            "turn": list(self.turn),
            "end": self.end,
            "template": self.template and asdict(self.template),
        }

    def tokenizer_terms(self) -> dict[str, JsonValue]:
        """Return digest, kind and size of the tokenizer, without format and template."""
        text = self.tokenizer.to_str()
        model = json.loads(text)["model"]
        kind = str(model["type"])
        if kind == "BPE" and not model["merges"]:
            kind = "characters" if model["byte_fallback"] else "bytes"
        return {
            "tokenizer": hashlib.sha256(text.encode()).hexdigest(),
            "tokenizer_kind": kind,
            "tokenizer_size": self.size,
        }

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special tokens."""
        with _ENCODING:
            self._encode_special_tokens_as_text()
            return [encoding.ids for encoding in self._encodings(texts)]

    def _encodings(self, texts: Sequence[str]) -> list[Encoding]:
        check_unicode("".join(texts))
        return self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)

    def _encode_special_tokens_as_text(self) -> None:
        """Encode special tokens in users' texts as text, so that a prompt cannot end itself."""
        # Set before each use, because a copy of a tokenizer loses the setting.
        self.tokenizer.encode_special_tokens = True

    def prompt_tokens(self, prompt: str | None, history: Sequence[Message] = ()) -> list[int]:
        """Return the ids before a text that answers (or continues) the prompt."""
        if self.template and (prompt or history):
            messages = [*history, Message("user", prompt or "")]
            return self._template_tokens(self.template.render(messages, answered=False))
        return self._join_turns(self.encode([prompt])[0] if prompt else [], history)

    def prefix_tokens(self, text: str) -> list[int]:
        """Return the ids of a text's own beginning, which the model continues."""
        return [self.start, *self.encode([text])[0]]

    def _join_turns(self, prompt: list[int], history: Sequence[Message] = ()) -> list[int]:
        ids = [self.start]
        after = {"system": self._new_line, "user": self.turn, "assistant": [self.end]}
        texts = self.encode([message.text for message in history])
        for message, text in zip(history, texts, strict=True):
            ids += [*text, *after[message.role]]
        return [*ids, *prompt, *self.turn] if prompt else ids

    def _template_tokens(self, pieces: Sequence[tuple[str, int | None]]) -> list[int]:
        """Return the ids of rendered pieces; special tokens count in the template's text only."""
        ids: list[int] = []
        for text, message_index in pieces:
            with _ENCODING:
                self.tokenizer.encode_special_tokens = message_index is not None
                ids += self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def documents(self, data: TextData) -> Iterator[Document]:
        """Yield each text with its prompt and special tokens, in order."""
        return chain.from_iterable(self.batches(data))

    def batches(self, data: TextData) -> Iterator[Documents]:
        """Yield the documents in order, many at a time; only a few blocks are held in memory."""
        # 1. Conversations and templates are formatted one by one.
        if (self.template and data.prompts is not None) or data.histories:
            for part in _blocks(data):
                texts = self.encode(part.texts)
                yield Documents.of(
                    [self._document(part, row, ids) for row, ids in enumerate(texts)]
                )
            return
        # 2. Other texts are encoded in bulk, one block per thread ahead of the caller.
        self._encode_special_tokens_as_text()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="encode") as pool:
            ahead = deque[Future[Documents]]()
            for part in _blocks(data):
                ahead.append(pool.submit(self._documents_in_block, part))
                if len(ahead) > THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _documents_in_block(self, part: TextData) -> Documents:
        """Return what `_document` returns for each row, for a whole block of rows at once."""
        texts, num_text = self._encode_flat(part.texts)
        prompts, num_prompt = self._encode_flat(part.prompts or [""] * len(part))
        # Lengths first: start, prompt, turn (after a prompt only), text, end.
        num_before = 1 + num_prompt + len(self.turn) * (num_prompt > 0)
        lengths = num_before + num_text + 1
        starts = lengths.cumsum() - lengths
        # Filled with the end token; everything but the last id of a document is overwritten.
        ids = np.full(lengths.sum(), self.end, np.int32)
        ids[starts] = self.start
        ids[concatenated_ranges(starts + 1, num_prompt)] = prompts
        for offset, token in enumerate(self.turn, start=1):
            ids[(starts + num_prompt + offset)[num_prompt > 0]] = token
        ids[concatenated_ranges(starts + num_before, num_text)] = texts
        return Documents(ids, starts, lengths, num_before, np.ones_like(lengths))

    def _encode_flat(self, texts: Sequence[str]) -> tuple[Integers, Integers]:
        """Return the concatenated ids of all texts, and the number of ids of each."""
        # A text longer than a block is encoded in pieces, to bound the encoder's memory.
        if len(texts) > 1 and any(len(text) > MOST_CHARACTERS for text in texts):
            encoded = [self._encode_flat([text]) for text in texts]
            return np.concatenate([i for i, _ in encoded]), np.concatenate([n for _, n in encoded])
        if len(texts) == 1 and len(texts[0]) > MOST_CHARACTERS:
            pieces = [self._ids([piece])[0] for piece in _split_text(texts[0], self._can_split)]
            return np.concatenate(pieces), np.array([sum(map(len, pieces))])
        return self._ids(texts)

    def _ids(self, texts: Sequence[str]) -> tuple[Integers, Integers]:
        encodings = self._encodings(texts)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(ids, np.int32, lengths.sum()), lengths

    def _can_split(self, head: str, tail: str) -> bool:
        """Return whether two strings have the same ids apart as together."""
        whole, before, after = self._encodings([head + tail, head, tail])
        ids: list[int] = before.ids + after.ids
        return ids == whole.ids

    def _document(self, data: TextData, row: int, text: list[int]) -> Document:
        prompt = data.prompts[row] if data.prompts else None
        history = data.histories[row] if data.histories else ()
        opening, new = self.prompt_tokens(prompt, history), 1
        # `new` skips the history, which earlier documents contain, with the answer's end token.
        if history and not self.template:
            new = len(self._join_turns([], history))
        elif history and self.template:
            messages = [*history, Message("user", prompt or "")]
            pieces = self.template.render(messages, answered=False)
            indices = [index for _, index in pieces]
            if (last := len(history) - 1) in indices:
                new = len(self._template_tokens(pieces[: indices.index(last) + 1]))
                new += opening[new : new + 1] == [self.end]
        return Document([*opening, *text, self.end], len(opening), new)

    def for_display(self, token: int) -> list[int]:
        """Return the ids to decode for a sampled id: a turn token is shown as a new line."""
        return self._new_line if [token] == self.turn else [token]

    def fits(self, prompt: str, num_tokens: int) -> bool:
        """Return False if the prompt is sure to exceed `num_tokens`, without encoding it."""
        return len(prompt) <= num_tokens * self.longest_token


def _blocks(data: TextData) -> Iterator[TextData]:
    """Yield the data in order, in blocks of the size that is encoded at once."""
    first, num_characters = 0, 0
    for row, text in enumerate(data.texts):
        num_characters += len(text) + len(data.prompts[row] if data.prompts else "")
        if row + 1 - first == MOST_TEXTS or num_characters >= MOST_CHARACTERS:
            yield data.take(range(first, row + 1))
            first, num_characters = row + 1, 0
    if first < len(data):
        yield data.take(range(first, len(data)))


def _split_text(text: str, can_split: Callable[[str, str], bool]) -> Iterator[str]:
    """Yield a text in pieces of MOST_CHARACTERS or somewhat more, split at line ends.

    `can_split` decides by the characters on both sides. A text without such an index stays whole.
    """
    first, near = 0, CONTEXT_CHARACTERS
    while len(text) - first > MOST_CHARACTERS:
        # Before and after each line end: tokenizers differ in the side to which it belongs.
        ends = islice(_LINE_END.finditer(text, first + MOST_CHARACTERS), MOST_TRIES)
        indices = chain.from_iterable((end.start(), end.end()) for end in ends)
        sides = ((at, text[max(first, at - near) : at], text[at : at + near]) for at in indices)
        index = next((at for at, head, tail in sides if can_split(head, tail)), None)
        if index is None:
            break
        yield text[first:index]
        first = index
    yield text[first:] if first else text


def concatenated_ranges(starts: Integers, lengths: Integers) -> Integers:
    """Return start, start + 1, … of each range, (sum of lengths,), without a Python loop."""
    before = lengths.cumsum() - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


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


def truncate_history(
    history: Sequence[Message], fits: Callable[[Sequence[Message]], bool]
) -> Sequence[Message]:
    """Return the history without the oldest pairs of turns, until it fits; [] if nothing does."""
    system = [message for message in history if message.role == "system"]
    turns = history[len(system) :]
    starts = range(0, len(turns) + 1, 2)
    # Binary search, since `fits` encodes; a shorter history is taken to fit if a longer one does.
    index = bisect_left(starts, True, key=lambda start: fits([*system, *turns[start:]]))
    return [*system, *turns[starts[index] :]] if index < len(starts) else []
