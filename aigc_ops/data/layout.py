"""Which files make up a dataset, and which of them belong to which split."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from aigc_ops.artifacts import Modality
from aigc_ops.data.config import DataConfig, Split
from aigc_ops.data.conversations import text_column
from aigc_ops.data.fingerprint import require_regular, visible_files
from aigc_ops.data.images import MAX_BYTES
from aigc_ops.errors import DataError

Kind = Literal["parquet", "images", "texts"]

TEXT_SUFFIXES = (".txt", ".text", ".md", ".jsonl")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
# Not accepted, but read all the same, so that the refusal names them.
OTHER_IMAGE_SUFFIXES = (".tif", ".tiff", ".heic", ".avif", ".jp2", ".ico", ".tga", ".psd", ".eps")
TRAIN_NAMES = ("train", "training")
HELDOUT_NAMES = (
    *("heldout", "held-out", "validation", "valid", "val", "dev", "eval", "evaluation"),
    *("test", "testing"),
)
_SPLIT_NAME = re.compile(
    rf"({'|'.join((*TRAIN_NAMES, *HELDOUT_NAMES))})([-_.]\d[\w-]*)?", re.IGNORECASE
)
_NAMED_SPLIT = re.compile(rf"[\w.-]+[-_.]{_SPLIT_NAME.pattern}", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """The files of a dataset, read but not decoded."""

    root: Path
    kind: Kind
    modality: Modality
    files: Mapping[Split, tuple[Path, ...]] | None
    """Files of each split below `root`; None when the data comes unsplit."""
    unsplit: tuple[Path, ...] = ()

    def every_file(self) -> tuple[Path, ...]:
        """All files that are read, train first."""
        if self.files is None:
            return self.unsplit
        return self.files["train"] + self.files["heldout"]

    def files_of(self, split: Split) -> tuple[Path, ...]:
        """Files in which rows of a split stand; all, when the data comes unsplit."""
        return self.unsplit if self.files is None else self.files[split]


def find_layout(root: Path, config: DataConfig) -> Layout:
    """The files of the dataset at `root`, which exists; raises DataError on none."""
    if not root.is_dir():
        require_regular(root)
        return _file_layout(root, config)
    names = list(visible_files(root))
    by_kind: dict[Kind, list[Path]] = {
        "parquet": [n for n in names if n.suffix.lower() == ".parquet" and len(n.parts) == 1],
        "images": [n for n in names if n.suffix.lower() in IMAGE_SUFFIXES + OTHER_IMAGE_SUFFIXES],
        "texts": [n for n in names if n.suffix.lower() in TEXT_SUFFIXES],
    }
    order: tuple[Kind, ...] = ("parquet", "images", "texts")
    if config.modality == "text":
        order = ("parquet", "texts", "images")
    if not by_kind["parquet"] and (config.modality == "text" or not by_kind["images"]):
        # Beside Parquet in a sub-folder a README is none of the data.
        by_kind["parquet"] = _of_one_dataset(root, names)
    for kind in order:
        if by_kind[kind]:
            return _layout(root, kind, by_kind[kind], config)
    raise DataError(
        f"{root} is not a dataset: no Parquet, no images and no text files; found {_listing(root)}"
    )


def _of_one_dataset(root: Path, names: list[Path]) -> list[Path]:
    """Parquet in one sub-folder, or in folders named after splits; more is refused."""
    parquet = [name for name in names if name.suffix.lower() == ".parquet"]
    folders = {name.parent for name in parquet}
    if len(folders) < 2 or all(_SPLIT_NAME.fullmatch(folder.parts[0]) for folder in folders):
        return parquet
    raise DataError(
        f"{root}: Parquet in several folders is several datasets; give data.path one of them; "
        f"found {_listing(root)}"
    )


def _file_layout(path: Path, config: DataConfig) -> Layout:
    suffix = path.suffix.lower()
    kind: Kind | None = (
        "parquet" if suffix == ".parquet" else "texts" if suffix in TEXT_SUFFIXES else None
    )
    if kind is None:
        raise DataError(
            f"{path}: expected a folder, or a file ending in .parquet, "
            f"{', '.join(TEXT_SUFFIXES)}; put single images in a folder"
        )
    return Layout(path, kind, _modality(path, kind, config), None, unsplit=(Path(),))


def _layout(root: Path, kind: Kind, names: list[Path], config: DataConfig) -> Layout:
    files = _split_files(names, kind)
    if files is None:
        _check_no_splits(root, names)
    every = tuple(names) if files is None else files["train"] + files["heldout"]
    for name in every:
        require_regular(root / name, MAX_BYTES if kind == "images" else None)
    modality = _modality(root / every[0], kind, config)
    return Layout(root, kind, modality, files, unsplit=() if files else every)


def _split_files(names: list[Path], kind: Kind) -> dict[Split, tuple[Path, ...]] | None:
    """Files by split, told by the file's or the top folder's name; None when unsplit.

    Parquet's own name may begin with another (digits-train.parquet), in whatever folder. Of
    several held-out splits the first of HELDOUT_NAMES is read and the others are not, so a
    test split beside a validation split stays untouched.
    """
    found: dict[str, list[Path]] = {}
    for name in names:
        top = name.parts[0] if len(name.parts) > 1 else name.stem
        match = _SPLIT_NAME.fullmatch(top)
        if match is None and kind == "parquet":
            match = _SPLIT_NAME.fullmatch(name.stem) or _NAMED_SPLIT.fullmatch(name.stem)
        if match:
            found.setdefault(match[1].lower(), []).append(name)
    train = next((split for split in TRAIN_NAMES if split in found), None)
    heldout = next((split for split in HELDOUT_NAMES if split in found), None)
    if train is None or heldout is None:
        return None
    return {"train": tuple(found[train]), "heldout": tuple(found[heldout])}


def _check_no_splits(root: Path, names: list[Path]) -> None:
    """Raise DataError where splits would be taken for classes, or be mixed."""
    tops = {name.parts[0] for name in names if len(name.parts) > 1}
    if not tops or any(len(name.parts) == 1 for name in names):
        return
    if all(_SPLIT_NAME.fullmatch(top) for top in tops):
        raise DataError(
            f"{root}: {', '.join(sorted(tops))} seem to be splits, of which one is missing; name "
            f"them train and heldout, or give data.path the one folder to read"
        )
    below = {name.parts[1] for name in names if len(name.parts) > 2}
    if len(tops) == 1 and below and all(_SPLIT_NAME.fullmatch(each) for each in below):
        raise DataError(f"{root}: holds one folder, {min(tops)}, of splits; give data.path that")


def _modality(path: Path, kind: Kind, config: DataConfig) -> Modality:
    if kind == "parquet":
        return _parquet_modality(path, config)
    found: Modality = "image" if kind == "images" else "text"
    if config.modality not in ("auto", found):
        raise DataError(f"{path}: data.modality is {config.modality}, but this is {found} data")
    return found


def _parquet_modality(path: Path, config: DataConfig) -> Modality:
    columns = read_schema(path).names
    wanted: dict[Modality, str] = {"image": config.image_column, "text": config.text_column}
    holds_texts = config.messages_column in columns or text_column(columns, config) is not None
    holds: dict[Modality, bool] = {"image": config.image_column in columns, "text": holds_texts}
    for modality, is_there in holds.items():
        if config.modality in ("auto", modality) and is_there:
            return modality
    expected = " or ".join(
        f"{column!r} (data.{modality}_column)"
        for modality, column in wanted.items()
        if config.modality in ("auto", modality)
    )
    raise DataError(f"{path}: expected a column {expected}; found {', '.join(columns)}")


def read_schema(path: Path) -> pa.Schema:
    """The Arrow schema of a Parquet file; raises DataError when it is cut short."""
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise unreadable_parquet(path, error) from error


def unreadable_parquet(path: Path, error: Exception) -> DataError:
    """The error to raise for a Parquet file that pyarrow cannot read."""
    reason = str(error).splitlines()[0]
    return DataError(f"{path}: not a whole Parquet file ({reason}); copy or write it again")


def _listing(root: Path) -> str:
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    if not entries:
        return "an empty folder"
    more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
    return ", ".join(entries[:8]) + more
