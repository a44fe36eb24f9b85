"""What people look at or listen to: the few media that reports, packets and trackers know."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from PIL import Image

    from aigc_ops.core.tracking import Tracker


class Medium(Protocol):
    """One thing to show; `Media` lists the kinds."""

    suffix: ClassVar[str]

    def encoded(self) -> bytes:
        """Return the content of a file with this suffix."""


@dataclass(frozen=True)
class Picture:
    """A picture; `is_smooth` for plots, whose pixels need not be seen one by one."""

    image: "Image.Image"
    is_smooth: bool = False
    suffix: ClassVar[str] = ".png"
    media_type: ClassVar[str] = "image/png"

    def encoded(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG")
        return buffer.getvalue()


@dataclass(frozen=True)
class Audio:
    """A sound as the bytes of a WAV file."""

    content: bytes
    suffix: ClassVar[str] = ".wav"
    media_type: ClassVar[str] = "audio/wav"

    def encoded(self) -> bytes:
        return self.content


@dataclass(frozen=True)
class Video:
    """A moving picture as the bytes of an MP4 file."""

    content: bytes
    suffix: ClassVar[str] = ".mp4"
    media_type: ClassVar[str] = "video/mp4"

    def encoded(self) -> bytes:
        return self.content


@dataclass(frozen=True)
class Text:
    """Plain text with its line breaks."""

    text: str
    suffix: ClassVar[str] = ".txt"
    media_type: ClassVar[str] = "text/plain"

    def encoded(self) -> bytes:
        return self.text.encode()


@dataclass(frozen=True)
class Table:
    """Rows of texts under headings."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    suffix: ClassVar[str] = ".tsv"
    media_type: ClassVar[str] = "text/tab-separated-values"

    def encoded(self) -> bytes:
        lines = ("\t".join(cell.replace("\t", " ") for cell in row) for row in self.rows)
        return "\n".join(["\t".join(self.columns), *lines, ""]).encode()


Media = Picture | Audio | Video | Text | Table


@dataclass(frozen=True)
class Section:
    """A part of a report: media under a heading, each with a caption (empty: none)."""

    heading: str
    text: str = ""
    items: Sequence[tuple[str, Media]] = ()


@dataclass(frozen=True)
class Note:
    """A finding to be read first."""

    text: str
    alarm: bool = False


@dataclass
class Findings:
    """What a report shows beside the scores, in order."""

    notes: list[Note] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def log_medium(tracker: "Tracker", key: str, medium: Media, *, step: int) -> None:
    """Report a medium of one step: pictures as MLflow images, others as files by step."""
    if isinstance(medium, Picture):
        tracker.log_image(key, medium.image, step=step)
    elif isinstance(medium, Text):
        tracker.log_text(medium.text, f"{key}/step-{step:08d}{medium.suffix}")
    else:
        tracker.log_bytes(medium.encoded(), f"{key}/step-{step:08d}{medium.suffix}")


def data_uri(medium: Picture | Audio | Video) -> str:
    """Return a medium as a data URI, which needs no file beside the page."""
    return f"data:{medium.media_type};base64,{base64.b64encode(medium.encoded()).decode()}"


def read_medium(path: Path) -> Media:
    """Read a file that `Medium.encoded` wrote, by its suffix; tables are read as text."""
    if path.suffix == Picture.suffix:
        from PIL import Image  # importing a modality, which names media, must be quick

        with Image.open(path, formats=["PNG"]) as image:
            return Picture(image.copy())
    if path.suffix == Audio.suffix:
        return Audio(path.read_bytes())
    if path.suffix == Video.suffix:
        return Video(path.read_bytes())
    return Text(path.read_text(encoding="utf-8"))
