"""A row before it is decoded, and rows that are read together."""

from dataclasses import dataclass
from pathlib import Path

from aigc_ops.interfaces.request import Message

Label = int | str | None


@dataclass(frozen=True, slots=True)
class Row:
    """One row before it is decoded: nothing in it is known to be sound."""

    name: str
    """Where a person finds it: `train.parquet row 12` (from 0), `cat/7.png`, `a.txt line 3`."""
    content: bytes | None
    """The encoded image, or the text's bytes; None where the file holds null."""
    label: Label = None
    prompt: bytes | None = None
    source: str | None = None
    licence: str | None = None
    history: tuple[Message, ...] = ()
    """The conversation before the prompt, oldest turn first."""
    error: str | None = None
    """Why there is no content, where more is known than that."""

    @property
    def conversation(self) -> bytes:
        """What all rows of one conversation share: its first prompt."""
        first = (turn.text for turn in self.history if turn.role == "user")
        text = next(first, None)
        return text.encode(errors="surrogatepass") if text is not None else self.prompt or b""


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are read together: those of a file, or of a row group of Parquet."""

    file: Path
    """Below the dataset's root."""
    index: int | None = None
    """Which row group; None: all of the file."""
    first: int = 0
    """Place in the file of the first row."""
    num: int = 1
    """Rows, those of the other split included; of a whole file, not known."""
