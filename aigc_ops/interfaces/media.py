"""Media that reports, review packets and trackers show: picture, audio, video, text, table."""

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
    """A file's content for people; `Media` lists the kinds."""

    suffix: ClassVar[str]

    def encoded(self) -> bytes:
        """Return the content of a file with this suffix."""


@dataclass(frozen=True)
class Picture:
    """A picture."""

    image: "Image.Image"
    # Samples are often 28 pixels wide, and must be enlarged without smoothing.
    is_smooth: bool = False
    """True for plots: a page may scale them smoothly."""
    suffix: ClassVar[str] = ".png"
    media_type: ClassVar[str] = "image/png"

    def encoded(self) -> bytes:
        buffer = io.BytesIO()
        self.image.save(buffer, format="PNG")
        return buffer.getvalue()


@dataclass(frozen=True)
class Audio:
    """A sound: the bytes of a WAV file."""

    content: bytes
    suffix: ClassVar[str] = ".wav"
    media_type: ClassVar[str] = "audio/wav"

    def encoded(self) -> bytes:
        return self.content


@dataclass(frozen=True)
class Video:
    """A video: the bytes of an MP4 file."""

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
    """A table of texts with a header row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    suffix: ClassVar[str] = ".tsv"
    media_type: ClassVar[str] = "text/tab-separated-values"

    def encoded(self) -> bytes:
        # TSV has no quoting, so a tab inside a cell would shift the columns after it.
        lines = ("\t".join(cell.replace("\t", " ") for cell in row) for row in self.rows)
        return "\n".join(["\t".join(self.columns), *lines, ""]).encode()


Media = Picture | Audio | Video | Text | Table


@dataclass(frozen=True)
class Section:
    """Section of a report: media under a heading."""

    heading: str
    text: str = ""
    items: Sequence[tuple[str, Media]] = ()
    """Pairs of caption (may be empty) and medium."""


@dataclass(frozen=True)
class Note:
    """A note at the top of a report."""

    text: str
    alarm: bool = False
    """True for a problem, which the page highlights."""


@dataclass
class Findings:
    """Notes and sections that a report shows beside the scores, in order."""

    notes: list[Note] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def log_medium(tracker: "Tracker", key: str, medium: Media, *, step: int) -> None:
    """Log a medium at a training step: pictures as MLflow images, others as artifact files."""
    # MLflow has a viewer with a step slider for images only. The other files carry the step in
    # their name, zero-padded so that they sort by it.
    if isinstance(medium, Picture):
        tracker.log_image(key, medium.image, step=step)
    elif isinstance(medium, Text):
        tracker.log_text(medium.text, f"{key}/step-{step:08d}{medium.suffix}")
    else:
        tracker.log_bytes(medium.encoded(), f"{key}/step-{step:08d}{medium.suffix}")


def data_uri(medium: Picture | Audio | Video) -> str:
    """Return a medium as a data URI, so that a page needs no second file."""
    return f"data:{medium.media_type};base64,{base64.b64encode(medium.encoded()).decode()}"


def read_medium(path: Path) -> Media:
    """Read a file written from `Medium.encoded`, by its suffix; tables are read as text."""
    if path.suffix == Picture.suffix:
        from PIL import Image  # here, because importing a modality must be quick

        # `formats` keeps Pillow from trying its other decoders on a file with a false suffix.
        with Image.open(path, formats=["PNG"]) as image:
            return Picture(image.copy())
    if path.suffix == Audio.suffix:
        return Audio(path.read_bytes())
    if path.suffix == Video.suffix:
        return Video(path.read_bytes())
    return Text(path.read_text(encoding="utf-8"))
