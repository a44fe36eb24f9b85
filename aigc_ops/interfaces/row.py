"""Undecoded rows of a dataset, and groups of rows that are read together."""

from dataclasses import dataclass
from pathlib import Path

from aigc_ops.interfaces.request import Message

Label = int | str | None


@dataclass(frozen=True, slots=True)
class Row:
    """An undecoded row; any field may be damaged."""

    # Prompts are bytes as well as the content: invalid UTF-8 is reported by validation, with
    # the row's name, and not by the reader.
    name: str
    """Location for a person: `train.parquet row 12` (from 0), `cat/7.png`, `a.txt line 3`."""
    content: bytes | None
    """Encoded sample, such as a PNG or UTF-8 text; None for a null."""
    label: Label = None
    prompt: bytes | None = None
    source: str | None = None
    licence: str | None = None
    history: tuple[Message, ...] = ()
    """The conversation before the prompt, oldest turn first."""
    error: str | None = None
    """Reason for missing content, when there is a better one than "null"."""
    change: str | None = None
    """What makes the row another than the one stored; of several pieces the first has it."""

    @property
    def conversation(self) -> bytes:
        """First prompt, which all rows of a conversation share."""
        # The split hashes this, so that no conversation is partly held out. A lone surrogate
        # cannot be encoded otherwise; the row is refused later, by name.
        first = (turn.text for turn in self.history if turn.role == "user")
        text = next(first, None)
        return text.encode(errors="surrogatepass") if text is not None else self.prompt or b""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are read together: a whole file, or a Parquet row group."""

    file: Path
    """Path relative to the dataset's root."""
    index: int | None = None
    """Index of the row group; None: the whole file."""
    first: int = 0
    """Index in the file of the first row."""
    num: int = 1
    """Number of rows, including those of the other split; meaningless for a whole file."""
    copied_from: Path | None = None
    """The dataset's file, where `file` is a copy in the cache."""

    @property
    def origin(self) -> Path:
        """The dataset's own file, relative to its root."""
        return self.copied_from or self.file
