"""Text data, and the interface that every text family implements."""

import abc
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue
from torch import Tensor

from aigc_ops.interfaces.data import TrainingData
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import Message, SampleRequest

# Data of at least this number of characters has its tokenised examples cached on disk. Below that,
# tokenising again is as quick as reading a cache entry.
MIN_CACHED_CHARACTERS = 2**20


@dataclass(frozen=True)
class TextData(TrainingData):
    """Documents, or answers with the prompts they answer."""

    texts: Sequence[str]
    prompts: Sequence[str] | None = None
    """One prompt per text, or None for plain documents."""
    histories: Sequence[Sequence[Message]] | None = None
    """The conversation before each prompt, oldest turn first; None without conversations."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_characters(self) -> int:
        """Number of characters of all strings in `parts`."""
        return sum(map(len, self.parts()))

    def parts(self) -> Iterator[str]:
        """Yield all texts, prompts and earlier turns in a fixed order, with separators."""
        # These strings are the input of a digest that names cached examples. The separators keep
        # apart data whose strings are equal but divided otherwise. A change of them or of the
        # order makes every cached entry invalid.
        yield from self.texts
        if self.prompts is not None:
            yield "prompts"
            yield from self.prompts
        for index, history in enumerate(self.histories or ()):
            for message in history:
                yield f"{index} {message.role}"
                yield message.text

    def digest_parts(self) -> Iterator[str] | None:
        return self.parts() if self.num_characters >= MIN_CACHED_CHARACTERS else None

    def take(self, indices: Iterable[int]) -> "TextData":
        """Return the texts at these indices, in their order."""
        rows = list(indices)
        prompts = self.prompts and [self.prompts[row] for row in rows]
        histories = self.histories and [self.histories[row] for row in rows]
        return TextData([self.texts[row] for row in rows], prompts, histories)


class TextModel(Generative[list[str]]):
    """A family whose samples are texts."""

    modality: ClassVar[str] = "text"
    can_stream: ClassVar[bool] = True

    @abc.abstractmethod
    def sample(self, requests: Sequence[SampleRequest]) -> list[str]:
        """Return one continuation or answer per request, without its prompt; may be empty."""

    @abc.abstractmethod
    def examples(self, data: TextData, folder: Path | None = None) -> dict[str, Tensor]:
        """Return training examples; given an empty folder, write them there as well.

        One NumPy file per kind is written while the examples are made. So memory never holds
        all examples of a large dataset.
        """

    def write_examples(self, data: TextData, folder: Path) -> None:
        self.examples(data, folder)

    @abc.abstractmethod
    def example_terms(self) -> dict[str, JsonValue]:
        """Return all that `examples` depends on besides the data; part of a cache entry's name."""

    @abc.abstractmethod
    def tokenizer_terms(self) -> dict[str, JsonValue]:
        """Return what identifies the tokenizer.

        Values per token, such as perplexity, are comparable only when these terms are equal.
        """

    def origin(self, data: TextData) -> "TextModel | None":  # noqa: ARG002
        """Return the base model that was finetuned on `data`; None if trained from scratch."""
        return None

    @abc.abstractmethod
    def stream(self, request: SampleRequest) -> Generator[str, None, None]:
        """Yield the text of `sample` in pieces of whole characters; close it to cancel."""

    @abc.abstractmethod
    def log_likelihood(self, data: TextData) -> tuple[Tensor, Tensor]:
        """Return log-likelihoods of texts given their prompts, and their numbers of tokens.

        Both are (N,); the likelihoods are float64, in nats. Every token of a text counts once,
        its end token included.
        """
