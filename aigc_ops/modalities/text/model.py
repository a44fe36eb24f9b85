"""Text data, and the contract that every text family keeps."""

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

KEPT_FROM = 2**20
"""Characters from which on examples are kept on disk: below, making them again is as quick."""


@dataclass(frozen=True)
class TextData(TrainingData):
    """Documents, or answers with the prompts they answer."""

    texts: Sequence[str]
    prompts: Sequence[str] | None = None
    """As many as texts, or None for plain documents."""
    histories: Sequence[Sequence[Message]] | None = None
    """The conversation before each prompt, oldest turn first; None: there is none."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def num_characters(self) -> int:
        """Characters of all that it holds."""
        return sum(map(len, self.parts()))

    def parts(self) -> Iterator[str]:
        """Every text, prompt and earlier turn, and what tells one from another, in order."""
        yield from self.texts
        if self.prompts is not None:
            yield "prompts"
            yield from self.prompts
        for place, history in enumerate(self.histories or ()):
            for message in history:
                yield f"{place} {message.role}"
                yield message.text

    def digest_parts(self) -> Iterator[str] | None:
        return self.parts() if self.num_characters >= KEPT_FROM else None

    def take(self, indices: Iterable[int]) -> "TextData":
        """The texts at these indices, in their order."""
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
        """One continuation (or answer) per request, without its prompt; may be empty."""

    @abc.abstractmethod
    def examples(self, data: TextData, folder: Path | None = None) -> dict[str, Tensor]:
        """Training examples; with an empty folder they are written there as they are made.

        A NumPy file of each kind then, so that those of much text never fill the memory.
        """

    def write_examples(self, data: TextData, folder: Path) -> None:
        self.examples(data, folder)

    @abc.abstractmethod
    def example_terms(self) -> dict[str, JsonValue]:
        """All that decides `examples` beside the data: equal terms give equal examples."""

    @abc.abstractmethod
    def tokenizer_terms(self) -> dict[str, JsonValue]:
        """What the tokens are that figures a token count; those compare under equal terms alone."""

    def origin(self, data: TextData) -> "TextModel | None":  # noqa: ARG002
        """The model as it was before this training, for such data; None for one begun anew."""
        return None

    @abc.abstractmethod
    def stream(self, request: SampleRequest) -> Generator[str, None, None]:
        """The pieces of `sample`'s text as they come, whole characters; close it to cancel."""

    @abc.abstractmethod
    def log_likelihood(self, data: TextData) -> tuple[Tensor, Tensor]:
        """Log likelihood of each text given its prompt, (N,) float64 nats, and (N,) tokens.

        Every token of the text counts once, its end mark included.
        """
