"""Texts as token ids: a vocabulary with its marks, and the frame that it puts around texts."""

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
MARKS = START, TURN, END = "<|start|>", "<|answer|>", "<|end|>"
NUM_FIXED = 256 + len(MARKS)
MOST_TEXTS, MOST_CHARACTERS = 2048, 2**20  # encoded at a time; a token takes 100 bytes then
MOST_TRIES, NEAR = 16, 256  # ends of lines at which a long text may be cut; characters looked at
_LINE_END = re.compile(r"\n(?=\S)")
_ENCODING = threading.Lock()  # held from saying whether marks are text until that is done
THREADS = 2  # each of which waits for the tokenizer's own, and then makes arrays


@dataclass(frozen=True)
class Document:
    """The ids of one text in its frame; those from `first` on are the text and its end."""

    ids: list[int]
    first: int
    new: int = 1
    """Where what another document does not hold too begins: after an earlier conversation."""


@dataclass(frozen=True)
class Documents:
    """Documents one after another; all arrays but `ids` have an entry for each."""

    ids: Integers
    """(tokens,) of all of them."""
    starts: Integers
    """Where each begins in `ids`."""
    lengths: Integers
    first: Integers
    """Place in each, as in `Document`."""
    new: Integers

    @classmethod
    def of(cls, documents: Sequence[Document]) -> Self:
        """The documents' arrays."""
        lengths = np.array([len(each.ids) for each in documents])
        return cls(
            np.fromiter(chain.from_iterable(each.ids for each in documents), np.int32),
            lengths.cumsum() - lengths,
            lengths,
            np.array([each.first for each in documents]),
            np.array([each.new for each in documents]),
        )

    def __iter__(self) -> Iterator[Document]:
        columns = (self.starts, self.lengths, self.first, self.new)
        for start, length, first, new in zip(*(c.tolist() for c in columns), strict=True):
            yield Document(self.ids[start : start + length].tolist(), first, new)


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
        # Before the last of some line ends this tokenizer parts words at any rate.
        texts = chain(data.texts, data.prompts or ())
        pieces = (piece for text in texts for piece in _cut(text, lambda *_: True))
        tokenizer.train_from_iterator(pieces, trainer)
        return cls._marked(tokenizer, data)

    @classmethod
    def of_characters(cls, data: TextData) -> Self:
        """One token a character that occurs in the data, and the marks; others take their bytes."""
        found = set[str]()
        for text in chain(data.texts, data.prompts or ()):
            found.update(text)
        alphabet = sorted(found)
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
        vocabulary = cls(tokenizer, start=ids[START], turn=[], end=ids[END])
        if data.prompts is not None:
            vocabulary.take_turns()
        return vocabulary

    def take_turns(self) -> None:
        """Set prompts apart from their texts from now on: by the mark for that, or a new line."""
        if not self.turn:
            mark = self.tokenizer.token_to_id(TURN)
            self.turn = self._new_line if mark is None else [mark]

    def take_template(self, template: ChatTemplate) -> None:
        """Frame prompts by the template from now on, and end texts as it ends answers."""
        self.template = template
        closing = self._framed([(template.after_answer(), None)])
        marks = self.tokenizer.get_added_tokens_decoder()
        self.end = next((token for token in closing if token in marks), self.end)

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

    def tokenizer_terms(self) -> dict[str, JsonValue]:
        """Digest, kind and size of the tokenizer alone, whatever its frame."""
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
        """Ids of each text, without marks."""
        with _ENCODING:
            self._take_marks_for_text()
            return [encoding.ids for encoding in self._encodings(texts)]

    def _encodings(self, texts: Sequence[str]) -> list[Encoding]:
        check_unicode("".join(texts))
        return self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)

    def _take_marks_for_text(self) -> None:
        """A prompt cannot end or answer itself; set often, for a copied tokenizer forgets it."""
        self.tokenizer.encode_special_tokens = True

    def opening(self, prompt: str | None, history: Sequence[Message] = ()) -> list[int]:
        """What stands before a text that answers or continues the prompt."""
        if self.template and (prompt or history):
            messages = [*history, Message("user", prompt or "")]
            return self._framed(self.template.render(messages, answered=False))
        return self._open(self.encode([prompt])[0] if prompt else [], history)

    def beginning(self, text: str) -> list[int]:
        """What stands before a text that goes on from this beginning of its own."""
        return [self.start, *self.encode([text])[0]]

    def _open(self, prompt: list[int], history: Sequence[Message] = ()) -> list[int]:
        ids = [self.start]
        after = {"system": self._new_line, "user": self.turn, "assistant": [self.end]}
        texts = self.encode([message.text for message in history])
        for message, text in zip(history, texts, strict=True):
            ids += [*text, *after[message.role]]
        return [*ids, *prompt, *self.turn] if prompt else ids

    def _framed(self, pieces: Sequence[tuple[str, int | None]]) -> list[int]:
        """Ids of a template's own text, where marks are marks, and of people's, where not."""
        ids: list[int] = []
        for text, place in pieces:
            with _ENCODING:
                self.tokenizer.encode_special_tokens = place is not None
                ids += self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def documents(self, data: TextData) -> Iterator[Document]:
        """Each text in its frame, in order."""
        return chain.from_iterable(self.batches(data))

    def batches(self, data: TextData) -> Iterator[Documents]:
        """The documents in order, many at a time; no more texts than these are held."""
        if (self.template and data.prompts is not None) or data.histories:
            for part in _parts(data):
                texts = self.encode(part.texts)
                yield Documents.of([self._answer(part, row, ids) for row, ids in enumerate(texts)])
            return
        self._take_marks_for_text()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="encode") as pool:
            ahead = deque[Future[Documents]]()
            for part in _parts(data):
                ahead.append(pool.submit(self._framed_part, part))
                if len(ahead) > THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

    def _framed_part(self, part: TextData) -> Documents:
        """The same as `_open` and `_answer` without history make, for many documents at once."""
        texts, num_text = self._flat(part.texts)
        prompts, num_prompt = self._flat(part.prompts or [""] * len(part))
        num_before = 1 + num_prompt + len(self.turn) * (num_prompt > 0)
        lengths = num_before + num_text + 1
        starts = lengths.cumsum() - lengths
        ids = np.full(lengths.sum(), self.end, np.int32)
        ids[starts] = self.start
        ids[runs(starts + 1, num_prompt)] = prompts
        for place, token in enumerate(self.turn, start=1):
            ids[(starts + num_prompt + place)[num_prompt > 0]] = token
        ids[runs(starts + num_before, num_text)] = texts
        return Documents(ids, starts, lengths, num_before, np.ones_like(lengths))

    def _flat(self, texts: Sequence[str]) -> tuple[Integers, Integers]:
        """Ids of all texts one after another, and how many each has; a long one's by pieces."""
        if len(texts) > 1 and any(len(text) > MOST_CHARACTERS for text in texts):
            each = [self._flat([text]) for text in texts]
            return np.concatenate([i for i, _ in each]), np.concatenate([n for _, n in each])
        if len(texts) == 1 and len(texts[0]) > MOST_CHARACTERS:
            pieces = [self._ids([piece])[0] for piece in _cut(texts[0], self._may_part)]
            return np.concatenate(pieces), np.array([sum(map(len, pieces))])
        return self._ids(texts)

    def _ids(self, texts: Sequence[str]) -> tuple[Integers, Integers]:
        encodings = self._encodings(texts)
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        ids = chain.from_iterable(encoding.ids for encoding in encodings)
        return np.fromiter(ids, np.int32, lengths.sum()), lengths

    def _may_part(self, left: str, right: str) -> bool:
        """Whether the two have the same ids apart as together."""
        whole, before, after = self._encodings([left + right, left, right])
        ids: list[int] = before.ids + after.ids
        return ids == whole.ids

    def _answer(self, data: TextData, row: int, text: list[int]) -> Document:
        prompt = data.prompts[row] if data.prompts else None
        history = data.histories[row] if data.histories else ()
        opening, new = self.opening(prompt, history), 1
        if history and not self.template:
            new = len(self._open([], history))
        elif history and self.template:
            messages = [*history, Message("user", prompt or "")]
            pieces = self.template.render(messages, answered=False)
            places = [place for _, place in pieces]
            if (last := len(history) - 1) in places:
                new = len(self._framed(pieces[: places.index(last) + 1]))
                new += opening[new : new + 1] == [self.end]
        return Document([*opening, *text, self.end], len(opening), new)

    def spoken(self, token: int) -> list[int]:
        """The ids by which a drawn id is told: a turn within a text reads as a new line."""
        return self._new_line if [token] == self.turn else [token]

    def fits(self, prompt: str, num_tokens: int) -> bool:
        """False when the prompt is longer than so many tokens, known without encoding it."""
        return len(prompt) <= num_tokens * self.longest_token


def _parts(data: TextData) -> Iterator[TextData]:
    """The data in order, as much of it at a time as is encoded at once."""
    first, num_characters = 0, 0
    for row, text in enumerate(data.texts):
        num_characters += len(text) + len(data.prompts[row] if data.prompts else "")
        if row + 1 - first == MOST_TEXTS or num_characters >= MOST_CHARACTERS:
            yield data.take(range(first, row + 1))
            first, num_characters = row + 1, 0
    if first < len(data):
        yield data.take(range(first, len(data)))


def _cut(text: str, may_part: Callable[[str, str], bool]) -> Iterator[str]:
    """The text in pieces of about as many characters as are encoded at once, or somewhat more.

    They are cut at ends of lines where what stands on both sides may be parted; a text without
    such a place stays whole.
    """
    first = 0
    while len(text) - first > MOST_CHARACTERS:
        ends = islice(_LINE_END.finditer(text, first + MOST_CHARACTERS), MOST_TRIES)
        places = chain.from_iterable((end.start(), end.end()) for end in ends)
        near = ((at, text[max(first, at - NEAR) : at], text[at : at + NEAR]) for at in places)
        place = next((at for at, left, right in near if may_part(left, right)), None)
        if place is None:
            break
        yield text[first:place]
        first = place
    yield text[first:] if first else text


def runs(starts: Integers, lengths: Integers) -> Integers:
    """The indices start, start + 1, … of each run, one run after another."""
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


def newest_turns(
    history: Sequence[Message], fits: Callable[[Sequence[Message]], bool]
) -> Sequence[Message]:
    """The history without so many of its oldest turns, two at a time, that the rest fits.

    System messages stay; empty when nothing fits. What is shorter is taken to fit as well, so
    that a few tries are enough for hundreds of turns.
    """
    system = [message for message in history if message.role == "system"]
    turns = history[len(system) :]
    starts = range(0, len(turns) + 1, 2)
    place = bisect_left(starts, True, key=lambda start: fits([*system, *turns[start:]]))
    return [*system, *turns[starts[place] :]] if place < len(starts) else []
