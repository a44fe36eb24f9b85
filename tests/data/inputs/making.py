"""Makers of inputs, and what becomes of them."""

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.data.making_data import encode, noise

Make = Callable[[Path], Path | None]


@dataclass(frozen=True)
class Read:
    """Read with this many rows, columns and source of labels; `unread` in words."""

    rows: int
    columns: Mapping[str, str] = field(default_factory=dict)
    labels: str | None = None
    unread: tuple[str, ...] = ()
    prompt: str | None = None
    """The prompt of the first row."""
    left_out: int = 0
    """Number of rows that are left out."""
    noted: str = ""
    """Words of the note on rows that are read otherwise than stored."""

    def __str__(self) -> str:
        """Return the result as a cell of the table."""
        roles = [f"{role} from `{column}`" for role, column in self.columns.items()]
        labels = (
            [f"label from {self.labels}"] if self.labels and "label" not in self.columns else []
        )
        listed = [f"listed: {reason}" for reason in self.unread]
        left_out = [f"{self.left_out} of {self.rows + self.left_out} rows left out"]
        noted = [f"noted: {self.noted}"] * bool(self.noted)
        return ", ".join(
            ["read", *roles, *labels, *listed, *left_out * bool(self.left_out), *noted]
        )


@dataclass(frozen=True)
class Refused:
    """Refused with these words."""

    words: str
    by_validation: bool = False
    """True: it can be read, but the validation fails."""

    def __str__(self) -> str:
        """Return the result as a cell of the table."""
        return f"refused: {self.words}"


@dataclass(frozen=True)
class Input:
    """An input, how to make it, and what becomes of it."""

    name: str
    make: Make
    result: Read | Refused
    settings: Mapping[str, Any] = field(default_factory=dict)


# Makers


def pictures(
    *names: str,
    mode: str = "RGB",
    size: int = 8,
    start: int = 0,
) -> Make:
    """Return a maker of these images, PNG or JPEG by their suffix, with seeds from `start`."""

    def make(folder: Path) -> None:
        for index, name in enumerate(names, start):
            kind = "PNG" if name.endswith(".png") else "JPEG"
            write(folder / name, encode(noise(index, size, size, mode), kind))

    return make


def files(**contents: bytes | str) -> Make:
    """Return a maker of files by name, where two underscores stand for a dot."""
    return these({name.replace("__", "."): content for name, content in contents.items()})


def these(contents: Mapping[str, bytes | str]) -> Make:
    """Return a maker of files by name."""

    def make(folder: Path) -> None:
        for name, content in contents.items():
            write(folder / name, content if isinstance(content, bytes) else content.encode())

    return make


def both(*makers: Make) -> Make:
    """Return a maker of all of these."""

    def make(folder: Path) -> Path | None:
        paths = [each(folder) for each in makers]
        return next((path for path in paths if path), None)

    return make


def at(name: str, maker: Make) -> Make:
    """Return a maker whose dataset is one file or folder of what another makes."""

    def make(folder: Path) -> Path:
        maker(folder)
        return folder / name

    return make


def write(path: Path, content: bytes) -> None:
    """Write a file and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def table(name: str, rows: Sequence[Mapping[str, Any]], schema: Any = None) -> Make:
    """Return a maker of a Parquet file."""

    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / name)

    return make


def lines(name: str, rows: Sequence[Any]) -> Make:
    """Return a maker of a JSON lines file."""
    return these({name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)})


def names(num: int, form: str = "{}.png") -> list[str]:
    """Return numbered names."""
    return [form.format(index) for index in range(num)]


def one_more(name: str, content: bytes | str) -> Make:
    """Return a maker of 20 PNG images and one more file."""
    return both(pictures(*names(20)), these({name: content}))


def encoded(num: int, start: int = 0) -> list[bytes]:
    """Return PNG images."""
    return [encode(noise(start + index)) for index in range(num)]


def numbered(num: int, form: str = "text {}") -> list[str]:
    """Return numbered texts."""
    return [form.format(index) for index in range(num)]


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """Return an image in one of Pillow's formats."""
    file = io.BytesIO()
    noise(99, mode=mode).save(file, kind, **options)
    return file.getvalue()


def animated(kind: str) -> bytes:
    """Return an image with two frames."""
    file = io.BytesIO()
    noise(1, mode="RGB").save(file, kind, save_all=True, append_images=[noise(2, mode="RGB")])
    return file.getvalue()


def turned() -> bytes:
    """Return a JPEG that EXIF turns by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved("JPEG", exif=exif)


def stylegan(labels: Any, form: str = "{:05d}/img{:08d}.png") -> Make:
    """Return a maker of StyleGAN's folders, whose dataset.json has these labels."""
    found = [form.format(index % 4, index) for index in range(20)]
    pairs = labels and [[name, index % 2] for index, name in enumerate(found)]
    return both(pictures(*found), these({"dataset.json": json.dumps({"labels": pairs})}))


def metadata(folder: str = "", num: int = 20, start: int = 0) -> Make:
    """Return a maker of images with the metadata.csv of the `datasets` library."""
    found = names(num)
    rows = "".join(f"{name},{'cat' if i % 2 else 'dog'}\n" for i, name in enumerate(found))
    return both(
        pictures(*(f"{folder}{name}" for name in found), start=start),
        these({f"{folder}metadata.csv": f"file_name,label\n{rows}"}),
    )


def linked(folder: Path) -> Path:
    """Make a dataset of a link to a folder of images."""
    pictures(*names(20))(folder / "real")
    (folder / "set").mkdir()
    (folder / "set" / "linked").symlink_to(folder / "real")
    return folder / "set"


def looped(folder: Path) -> None:
    """Make a folder of images with a link to itself."""
    pictures(*names(4))(folder)
    (folder / "again").symlink_to(folder)


def piped(folder: Path) -> None:
    """Make a folder of images with a pipe among them."""
    pictures(*names(4))(folder)
    os.mkfifo(folder / "pipe.png")


def zipped(folder: Path) -> None:
    """Make a folder of images with an archive of others."""
    pictures(*names(20))(folder)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.writestr("a.png", encode(noise(50)))


def arrayed(folder: Path) -> None:
    """Make a folder with one array of images."""
    np.savez(folder / "images.npz", np.zeros((4, 8, 8, 3), np.uint8))


def cut_short(name: str) -> Make:
    """Return a maker of a Parquet file without its end."""

    def make(folder: Path) -> None:
        table(name, [{"image": c} for c in encoded(20)])(folder)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return make


def class_label(folder: Path) -> None:
    """Make Parquet whose Hugging Face metadata names the classes."""
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    schema = pa.schema(
        {"image": pa.binary(), "label": pa.int64()},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = [{"image": c, "label": i % 2} for i, c in enumerate(encoded(20))]
    table("rows.parquet", rows, schema)(folder)


def chat(*turns: tuple[str, str]) -> dict[str, Any]:
    """Return a conversation."""
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


ASKED = ("user", "Who?"), ("assistant", "Me.")
JUNK = b"not what its name says"
IMAGES = {"image": "image"}
TEXTS = {"text": "text"}
COMPANION = "companion file"
OTHER_COLUMN = "column that no setting names"
CANNOT = "cannot be decoded"


def refused_format(suffix: str, content: bytes = JUNK) -> Input:
    """Return an image of a format that is not accepted, among others."""
    return Input(
        f"an image `.{suffix}` among PNG", one_more(f"x.{suffix}", content), Refused(f"x.{suffix}")
    )


def accepted(name: str, content: bytes, label: str) -> Input:
    """Return an image among others that is read."""
    return Input(label, one_more(name, content), Read(21))
