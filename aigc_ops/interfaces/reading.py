"""What is read of a dataset, and what is not, grouped by reason."""

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from pydantic import Field

from aigc_ops.core.artifacts import Record, RowGroup
from aigc_ops.core.errors import DataError

MAX_UNREAD = 0.01
"""Share of the files that could be samples above which unread ones stop a run."""
NUM_EXAMPLES = 3
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
ARRAYS = (".npy", ".npz", ".h5", ".hdf5", ".mat", ".tfrecord", ".arrow", ".mdb", ".rec")
# What operating systems, repositories and the `datasets` library put beside data.
_COMPANION = re.compile(
    r"thumbs\.db|desktop\.ini|dataset_(info|infos|dict)\.json|state\.json|.*\.dvc", re.IGNORECASE
)
_PAGE = re.compile(r"(readme|licen[cs]e)([-_.].*)?", re.IGNORECASE)
_PAGE_SUFFIXES = ("", ".md", ".txt", ".rst", ".html", ".pdf")  # license_1.png is a sample


class Unread(Record):
    """A group of files, or of columns, that are not read."""

    reason: str
    suffix: str = Field(description="Suffix of the files in lower case; empty for columns.")
    count: int
    examples: tuple[str, ...] = Field(description="Names of the first of them.")
    counted: bool = Field(
        exclude=True, description="True: they could be samples, so too many of them stop a run."
    )

    def __str__(self) -> str:
        """Return the group as a line."""
        more = ", …" if self.count > len(self.examples) else ""
        return f"{self.count} ({', '.join(self.examples)}{more}): {self.reason}"


class Reading(Record):
    """What is read of a dataset, and what is not."""

    num_rows: int
    columns: dict[str, str] = Field(description="Source column of each role, where there are any.")
    labels_from: str | None = Field(description="Column, file or rule; None: there are no labels.")
    unread: tuple[Unread, ...]
    dropped: tuple[RowGroup, ...] = ()
    noted: tuple[RowGroup, ...] = ()

    def lines(self) -> list[str]:
        """Return the lines that describe it to a person."""
        parts = [f"{role} from {column}" for role, column in self.columns.items()]
        if self.labels_from and "label" not in self.columns:
            parts.append(f"label from {self.labels_from}")
        read = f"read: {self.num_rows} rows" + "".join(f", {part}" for part in parts)
        return [
            read,
            *(f"not read: {group}" for group in self.unread),
            *selection_lines(self.dropped, self.noted),
        ]


def selection_lines(dropped: Iterable[RowGroup], noted: Iterable[RowGroup]) -> list[str]:
    """Return the lines on rows that are left out, or read otherwise than stored."""
    return [*(f"left out: {group}" for group in dropped), *(f"note: {group}" for group in noted)]


def is_companion(name: PurePath) -> bool:
    """Return whether a file accompanies data and is no sample: a README, a licence, a dot file."""
    if any(part.startswith(".") or part == "__MACOSX" for part in name.parts):
        return True
    is_page = name.suffix.lower() in _PAGE_SUFFIXES and _PAGE.fullmatch(name.name)
    return bool(is_page or _COMPANION.fullmatch(name.name))


def unread_columns(names: Sequence[str]) -> tuple[Unread, ...]:
    """Return the group of the columns that no setting names; empty without any."""
    if not names:
        return ()
    group = Unread(
        reason="column that no setting names",
        suffix="",
        count=len(names),
        examples=tuple(names[:NUM_EXAMPLES]),
        counted=False,
    )
    return (group,)


def grouped(files: Iterable[tuple[PurePath, str, bool]]) -> tuple[Unread, ...]:
    """Return groups of (name, reason, could be a sample), by reason and suffix."""
    groups: dict[tuple[str, str, bool], list[str]] = {}
    for name, reason, counted in files:
        groups.setdefault((reason, name.suffix.lower(), counted), []).append(name.as_posix())
    return tuple(
        Unread(
            reason=reason,
            suffix=suffix,
            count=len(names),
            examples=tuple(names[:NUM_EXAMPLES]),
            counted=counted,
        )
        for (reason, suffix, counted), names in groups.items()
    )


def require_read(where: object, num_read: int, unread: Iterable[Unread], flag: str) -> None:
    """Raise DataError if too many files that could be samples are unread; name the flag."""
    counted = [group for group in unread if group.counted]
    num = sum(group.count for group in counted)
    if num > MAX_UNREAD * (num + num_read):
        listed = "\n".join(f"  - {group}" for group in counted)
        raise DataError(
            f"{where}: {num} of {num + num_read} files that could be samples are not read:\n"
            f"{listed}\nmove or convert them, or read the others alone: {flag}"
        )
