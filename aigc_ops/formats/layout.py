"""Layout of a dataset: its files, and their assignment to splits."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from aigc_ops.core.errors import DataError
from aigc_ops.formats.label_files import read_labels
from aigc_ops.formats.parquet import column_names
from aigc_ops.formats.stat_digest import all_files, is_visible, require_regular
from aigc_ops.interfaces.ingestion import AUTO, DataHooks, DataSettings, Layout, Split
from aigc_ops.interfaces.reading import (
    ARCHIVES,
    ARRAYS,
    Unread,
    grouped,
    is_companion,
    require_read,
)

PARQUET = ".parquet"
TRAIN_NAMES = ("train", "training")
HELDOUT_NAMES = (
    *("heldout", "held-out", "validation", "valid", "val", "dev", "eval", "evaluation"),
    *("test", "testing"),
)
_SPLIT_NAME = re.compile(
    rf"({'|'.join((*TRAIN_NAMES, *HELDOUT_NAMES))})([-_.]\d[\w-]*)?", re.IGNORECASE
)
_NAMED_SPLIT = re.compile(rf"[\w.-]+[-_.]{_SPLIT_NAME.pattern}", re.IGNORECASE)


def find_layout(root: Path, config: DataSettings, modalities: Sequence[DataHooks]) -> Layout:
    """Return the files of the dataset at `root`, which must exist; raise DataError if none fit.

    Parquet at the top of a folder comes first. Next come the files of one modality: the one that
    the config names, else the one with the highest priority. Parquet in sub-folders comes before
    files of priority 0. All other files are listed as unread. Raises DataError if too many of
    them could be samples, unless `data.allow_unread` is set.
    """
    modalities = _by_precedence(modalities, config)
    if not root.is_dir():
        require_regular(root)
        return _file_layout(root, config, modalities)
    names = list(all_files(root))
    samples = [name for name in names if not is_companion(name)]
    # A folder of nothing but README files is data too, but beside other data they are not.
    layout = _folder_layout(root, samples, config, modalities) or _folder_layout(
        root, [name for name in names if is_visible(name)], config, modalities
    )
    if layout is None:
        kinds = [f"no {hooks.files_noun}" for hooks in modalities]
        expected = " and ".join(filter(None, [", ".join(["no Parquet", *kinds[:-1]]), *kinds[-1:]]))
        raise DataError(f"{root} is not a dataset: {expected}; found {_listing(root)}")
    layout = replace(layout, unread=_unread(layout, names))
    if not config.allow_unread:
        require_read(root, len(layout.every_file()), layout.unread, "--data.allow-unread true")
    return layout


def _folder_layout(
    root: Path, names: list[Path], config: DataSettings, modalities: Sequence[DataHooks]
) -> Layout | None:
    """Return the layout of the samples among `names`; None without any."""
    # 1. Parquet. In sub-folders it counts only where no modality claims the folder: a folder of
    # images may hold a Parquet file of annotations.
    files = {hooks.name: _files_of(hooks, names) for hooks in modalities}
    parquet = [name for name in names if _is_parquet(name) and len(name.parts) == 1]
    hides_parquet = (
        files[hooks.name] and hooks.priority > 0 and config.modality in (AUTO, hooks.name)
        for hooks in modalities
    )
    if not parquet and not any(hides_parquet):
        parquet = _parquet_of_one_dataset(root, names)
    if parquet:
        return _parquet_layout(root, parquet, config, modalities)
    # 2. Files of a modality, with the labels that a file beside them may hold.
    for hooks in modalities:
        if files[hooks.name]:
            layout = _files_layout(root, files[hooks.name], config, hooks)
            if hooks.has_many_rows_a_file:
                return layout
            label_files, labels = read_labels(root, names, config.label_column)
            return replace(layout, label_files=label_files, labels=labels)
    return None


def _unread(layout: Layout, names: list[Path]) -> tuple[Unread, ...]:
    """Return the groups of the files that are not read, with the reasons."""
    read = {*layout.every_file(), *layout.label_files}
    unread = [(name, *_why_unread(layout, name)) for name in names if name not in read]
    absent = sorted(layout.labels.keys() - {name.as_posix() for name in layout.every_file()})
    missing = f"labelled in {layout.label_files[0]}, but not there" if absent else ""
    return grouped([*unread, *((Path(name), missing, False) for name in absent)])


def _why_unread(layout: Layout, name: Path) -> tuple[str, bool]:
    """Return why a file is not read, and whether it could be a sample."""
    hooks, suffix = layout.hooks, name.suffix.lower()
    if is_companion(name):
        return "companion file", False
    is_sample = (
        suffix == PARQUET
        if layout.is_parquet
        else suffix in hooks.suffixes + hooks.refused_suffixes
    )
    if is_sample:
        is_single = not (layout.is_parquet or hooks.has_many_rows_a_file)
        if split := _split_name(name, is_parquet=layout.is_parquet, is_single=is_single):
            return f"in the split {split}, beside the two that are read", False
        return "outside the splits", True
    if suffix in ARCHIVES:
        return "an archive, which is not unpacked", True
    could_be = suffix in (*ARRAYS, *hooks.unread_suffixes) and not layout.is_parquet
    return f"not {'Parquet' if layout.is_parquet else hooks.sample_noun}", could_be


def _by_precedence(modalities: Sequence[DataHooks], config: DataSettings) -> list[DataHooks]:
    # The name comes last, so that the order does not depend on how modalities were discovered.
    return sorted(
        modalities, key=lambda hooks: (hooks.name != config.modality, -hooks.priority, hooks.name)
    )


def _is_parquet(name: Path) -> bool:
    return name.suffix.lower() == PARQUET


def _files_of(hooks: DataHooks, names: list[Path]) -> list[Path]:
    # Refused suffixes count too: reading such a file raises an error that names it, whereas
    # skipping it would lose a part of the data silently.
    return [n for n in names if n.suffix.lower() in hooks.suffixes + hooks.refused_suffixes]


def _parquet_of_one_dataset(root: Path, names: list[Path]) -> list[Path]:
    """Return Parquet in one sub-folder, or in folders named after splits; else raise DataError."""
    parquet = [name for name in names if _is_parquet(name)]
    folders = {name.parent for name in parquet}
    if len(folders) < 2 or all(_SPLIT_NAME.fullmatch(folder.parts[0]) for folder in folders):
        return parquet
    raise DataError(
        f"{root}: expected one dataset, but several folders hold Parquet; set data.path to one of "
        f"them; found {_listing(root)}"
    )


def _file_layout(path: Path, config: DataSettings, modalities: Sequence[DataHooks]) -> Layout:
    if _is_parquet(path):
        hooks = _parquet_hooks(path, config, modalities)
        return Layout(path, hooks.name, True, None, unsplit=(Path(),))
    # One image is no dataset, so only files of many rows (texts) may be given alone.
    multi_row = [hooks for hooks in modalities if hooks.has_many_rows_a_file]
    for hooks in multi_row:
        if path.suffix.lower() in hooks.suffixes:
            _require_modality(path, config, hooks)
            return Layout(path, hooks.name, False, None, unsplit=(Path(),))
    suffixes = [suffix for hooks in multi_row for suffix in hooks.suffixes]
    single = [hooks.files_noun for hooks in modalities if not hooks.has_many_rows_a_file]
    raise DataError(
        f"{path}: expected a folder, or a file ending in {', '.join([PARQUET, *suffixes])}; put "
        f"single {' or '.join(single)} in a folder"
    )


def _parquet_layout(
    root: Path, names: list[Path], config: DataSettings, modalities: Sequence[DataHooks]
) -> Layout:
    files, chosen = _split(root, names, is_parquet=True)
    for name in chosen:
        require_regular(root / name)
    hooks = _parquet_hooks(root / chosen[0], config, modalities)
    return Layout(root, hooks.name, True, files, unsplit=() if files else chosen)


def _files_layout(root: Path, names: list[Path], config: DataSettings, hooks: DataHooks) -> Layout:
    files, chosen = _split(root, names, is_single=not hooks.has_many_rows_a_file)
    for name in chosen:
        require_regular(root / name, hooks.max_file_bytes, hooks.sample_noun)
    _require_modality(root / chosen[0], config, hooks)
    return Layout(root, hooks.name, False, files, unsplit=() if files else chosen)


def _split(
    root: Path, names: list[Path], *, is_parquet: bool = False, is_single: bool = False
) -> tuple[dict[Split, tuple[Path, ...]] | None, tuple[Path, ...]]:
    """Return the files by split (None when unsplit), and all files to read, train first."""
    files = _split_files(names, is_parquet=is_parquet, is_single=is_single)
    if files is None:
        _check_no_splits(root, names)
        return None, tuple(names)
    return files, files["train"] + files["heldout"]


def _split_files(
    names: list[Path], *, is_parquet: bool, is_single: bool
) -> dict[Split, tuple[Path, ...]] | None:
    """Return the files by split, according to the top folder or the file name; None when unsplit.

    A Parquet file's name may have a prefix (digits-train.parquet), in any folder. Of several
    held-out splits the first of HELDOUT_NAMES is read and the others are not.
    """
    # So a test split beside a validation split is not read: the gate, which decides by held-out
    # data again and again, would use it up.
    by_name: dict[str, list[Path]] = {}
    for name in names:
        if split := _split_name(name, is_parquet=is_parquet, is_single=is_single):
            by_name.setdefault(split, []).append(name)
    train = next((split for split in TRAIN_NAMES if split in by_name), None)
    heldout = next((split for split in HELDOUT_NAMES if split in by_name), None)
    if train is None or heldout is None:
        return None
    return {"train": tuple(by_name[train]), "heldout": tuple(by_name[heldout])}


def _split_name(name: Path, *, is_parquet: bool, is_single: bool) -> str | None:
    """Return the split that a file's top folder or its own name names, in lower case.

    `is_single`: the file is one sample, so its own name is no split: train.png shows a train.
    """
    top = name.parts[0] if len(name.parts) > 1 else "" if is_single else name.stem
    match = _SPLIT_NAME.fullmatch(top)
    if match is None and is_parquet:
        match = _SPLIT_NAME.fullmatch(name.stem) or _NAMED_SPLIT.fullmatch(name.stem)
    return match[1].lower() if match else None


def _check_no_splits(root: Path, names: list[Path]) -> None:
    """Raise DataError if folders named like splits would be read as classes, or mixed."""
    tops = {name.parts[0] for name in names if len(name.parts) > 1}
    if not tops or any(len(name.parts) == 1 for name in names):
        return
    if all(_SPLIT_NAME.fullmatch(top) for top in tops):
        raise DataError(
            f"{root}: {', '.join(sorted(tops))} look like splits, but one of two is missing; name "
            f"them train and heldout, or set data.path to the one folder to read"
        )
    below = {name.parts[1] for name in names if len(name.parts) > 2}
    if len(tops) == 1 and below and all(_SPLIT_NAME.fullmatch(name) for name in below):
        raise DataError(f"{root}: the splits are in its folder {min(tops)}; set data.path to that")


def _require_modality(path: Path, config: DataSettings, hooks: DataHooks) -> None:
    if config.modality not in (AUTO, hooks.name):
        raise DataError(
            f"{path}: data.modality is {config.modality}, but this is {hooks.name} data"
        )


def _parquet_hooks(path: Path, config: DataSettings, modalities: Sequence[DataHooks]) -> DataHooks:
    """Return the modality of a Parquet file, according to its columns."""
    columns = column_names(path)
    allowed = [hooks for hooks in modalities if config.modality in (AUTO, hooks.name)]
    for hooks in allowed:
        if hooks.holds(columns, config):
            return hooks
    expected = " or ".join(describe_content_column(hooks, config) for hooks in allowed)
    raise DataError(f"{path}: expected a column {expected}; found {', '.join(columns)}")


def describe_content_column(hooks: DataHooks, config: DataSettings) -> str:
    """Return the expected column of a modality's samples, with the setting that names it."""
    setting = f"data.{hooks.name}.column"
    has_setting = hasattr(config.section(hooks.name), "column")
    return f"{hooks.content_column(config)!r}" + f" ({setting})" * has_setting


def _listing(root: Path) -> str:
    entries = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir())
    if not entries:
        return "an empty folder"
    more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
    return ", ".join(entries[:8]) + more
