"""Interface of a modality's data: files and columns to rows, rows to training data.

A modality implements `DataHooks`. The defaults suit samples that are one file each, with classes
by sub-folder, or values of a Parquet column beside `label`, `source` and `licence`. The modality
then adds its suffixes, the shape of its samples and their decoding.
"""

import abc
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator
from pydantic_core import PydanticKnownError

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import DataError
from aigc_ops.core.file_contents import read_content
from aigc_ops.interfaces.discovery import find_modality, modality_names
from aigc_ops.interfaces.reading import Unread
from aigc_ops.interfaces.row import Label, Row
from aigc_ops.interfaces.sections import SectionedConfig

if TYPE_CHECKING:
    from aigc_ops.interfaces.data import TrainingData

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, Split] = ("train", "heldout")
AUTO = "auto"


def _modality_choices() -> list[JsonValue]:
    # A function, not a Literal: other packages add modalities by entry points.
    return [AUTO, *modality_names()]


class DataSettings(SectionedConfig):
    """Dataset settings shared by all modalities; `DataConfig` adds their sections."""

    added_fields: ClassVar[frozenset[str]] = frozenset({"allow_unread"})

    path: str = Field(
        min_length=1,
        description=(
            "Folder with train and held-out Parquet, a Parquet file, a folder of images "
            "(classes by sub-folder), a text file, a folder of text files, or JSON lines."
        ),
    )
    modality: str = Field(
        default=AUTO,
        description="Modality of the data; auto: detected from its files and columns.",
        json_schema_extra=lambda schema: schema.update(enum=_modality_choices()),
    )
    heldout_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of rows held out of data that comes without a held-out split.",
    )
    allow_unread: bool = Field(
        default=False,
        description="Accept that more than 1 % of the files that could be samples are not read.",
    )
    label_column: str | None = Field(
        default="label",
        description="Parquet column of classes (integers or names); empty: ignore classes.",
    )
    prompt_column: str | None = Field(
        default="prompt",
        description="Parquet column of the prompts that the texts answer; empty: none.",
    )
    source_column: str = Field(
        default="source", min_length=1, description="Parquet column of each row's source."
    )
    licence_column: str = Field(
        default="licence",
        min_length=1,
        description="Parquet column of each row's licence; by default `license` is read as well.",
    )

    @field_validator("modality")
    @classmethod
    def _is_known(cls, value: str) -> str:
        choices = _modality_choices()
        if value not in choices:
            # Pydantic's own error of a Literal, so that flags and forms report it the same way.
            *others, last = map(repr, choices)
            expected = f"{', '.join(others)} or {last}"
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value

    def decisive_values(self) -> dict[str, Any]:
        """Return the settings that affect the training data, for digests."""
        # The content of the files has a digest of its own, so moving a dataset changes nothing.
        without_effect = ("path", "num_workers", "allow_unread")
        values = self.stable_dump().items()
        return {name: v for name, v in values if name.rpartition(".")[2] not in without_effect}


@dataclass(frozen=True)
class Layout:
    """Files of a dataset, not read yet."""

    root: Path
    modality: str
    is_parquet: bool
    """True: rows are read from Parquet columns; False: from the modality's own files."""
    files: Mapping[Split, tuple[Path, ...]] | None
    """Files of each split, relative to `root`; None for data without splits."""
    unsplit: tuple[Path, ...] = ()
    label_files: tuple[Path, ...] = ()
    """Files with the labels of sample files, relative to `root`."""
    labels: Mapping[str, Label] = field(default_factory=dict)
    """Label of each sample file by its POSIX path, where `label_files` are given."""
    unread: tuple[Unread, ...] = ()
    """Files at `root` that are not read."""
    left_out: Mapping[Split, Mapping[str, Sequence[int]]] = field(default_factory=dict)
    """Ascending positions of the rows left out, by split and by POSIX path of the file."""
    piece_lengths: Mapping[Split, int] = field(default_factory=dict)
    """Length to which the samples of a split that would have too few rows are cut."""

    @property
    def hooks(self) -> "DataHooks":
        """Data hooks of the modality."""
        return find_modality(self.modality).data

    def every_file(self) -> tuple[Path, ...]:
        """Return all files that are read, train first."""
        if self.files is None:
            return self.unsplit
        return self.files["train"] + self.files["heldout"]

    def files_of(self, split: Split) -> tuple[Path, ...]:
        """Return the files with rows of a split; for data without splits all files."""
        return self.unsplit if self.files is None else self.files[split]


@dataclass(frozen=True)
class SplitRows:
    """Undecoded rows of one split of an opened dataset."""

    ref: DatasetRef
    layout: Layout
    config: DataSettings
    split: Split
    rows: Iterable[Row]
    """Rows in file order, read lazily; iterate once."""

    @property
    def num_rows(self) -> int:
        """Number of rows, at least 1."""
        return self.ref.num_rows(self.split)


@dataclass(frozen=True)
class Check:
    """Expectation about a column of the manifest; the report shows its description."""

    kind: Literal["null", "not_null", "in_set", "between", "contains"]
    """Rule for each value of the column; `contains`: all of `values` occur in the column."""
    column: str
    description: str
    values: Sequence[JsonValue] = ()
    """Values for `in_set` and `contains`."""
    low: float | None = None
    """Smallest value for `between`."""
    high: float | None = None
    """Largest value for `between`."""
    mostly: float = 1.0
    """Minimum share of rows that must satisfy the rule, in 0..1."""
    flags: Sequence[str] = ()
    """Flags that let failing rows through.

    `{low}`, `{high}` and `{share}` stand for the smallest value, the largest value and the share of
    the failing rows. A flag with `{low}` or `{high}` is named only if values are below `low` or
    above `high`.
    """


class Survey:
    """Facts about the samples, collected in one pass over the undecoded rows."""

    # Opening a dataset must not fail at a damaged row: validation reads all rows and names
    # every bad one, which is more useful than the first.
    def add(self, row: Row) -> None:
        """Record the facts of one row; must accept a damaged row."""

    def shape_fields(
        self,
        config: DataSettings,  # noqa: ARG002
        class_names: tuple[str, ...],
    ) -> dict[str, Any]:
        """Return the fields of `DatasetRef` that describe the samples.

        `shape` holds all that a model of the modality must know, `class_names` included.
        """
        return {"shape": {"class_names": list(class_names)}} if class_names else {}


def licence_column(found: Collection[str], config: DataSettings) -> str:
    """Return the column with licences among those found: the configured one, else `license`."""
    configured = config.licence_column
    is_default = configured == DataSettings.model_fields["licence_column"].default
    return (
        "license" if is_default and configured not in found and "license" in found else configured
    )


class DataHooks(abc.ABC):
    """Interface of a modality for files and columns."""

    # Words for messages
    name: ClassVar[str]
    """The modality's name."""
    sample_noun: ClassVar[str]
    """A sample with its article, such as "an image"."""
    files_noun: ClassVar[str]
    """Files in the plural, such as "images"."""
    more_rows_hint: ClassVar[str] = ""
    """Hint on how to get more rows from the same data: a space, then text in brackets."""

    # Which files belong to the modality. Text has priority 0, because a README.md or a list of
    # names often accompanies other data: Parquet in sub-folders is preferred to such files.
    priority: ClassVar[int] = 50
    """Rank when several modalities could read a dataset: highest first, ties by name."""
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of the modality's files, in lower case."""
    # Without these, a folder of TIFF files would be "not a dataset", and in a mixed folder the
    # files would be skipped without a message.
    refused_suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of unsupported formats; such files are found, and refused by name."""
    unread_suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of files that may hold samples, but are not read; archives are known as such."""
    max_file_bytes: ClassVar[int | None] = None
    """Size limit of a file in bytes; None: unlimited."""
    has_many_rows_a_file: ClassVar[bool] = False
    """True when a single file can be a whole dataset."""

    # Rows and their measurements
    optional_fields: ClassVar[tuple[str, ...]] = ("label",)
    """Fields of a row that may have a column, of "label" and "prompt"."""
    manifest_columns: ClassVar[Mapping[str, str]] = {}
    """pandas type of each measurement from `measure`, except `error` and `digest`."""

    # Columns of Parquet

    def content_column(self, config: DataSettings) -> str:
        """Return the column of samples: `data.NAME.column`, else the modality's name."""
        return str(getattr(config.section(self.name), "column", self.name))

    def holds(self, columns: Collection[str], config: DataSettings) -> bool:
        """Return True if Parquet with these columns holds samples of this modality."""
        return self.content_column(config) in columns

    def columns(self, found: Collection[str], config: DataSettings) -> dict[str, str]:
        """Return the column of each field to read: `content` and the optional fields.

        `found` are the columns of the file. Fields that a Row does not have are passed to
        `column_rows` as plain Python values.
        """
        # A column setting may be None or empty, which turns the field off.
        optional = {
            field: column
            for field in self.optional_fields
            if (column := getattr(config, f"{field}_column"))
        }
        facts = {"source": config.source_column, "licence": licence_column(found, config)}
        return {"content": self.content_column(config), **optional, **facts}

    def column_rows(self, name: str, values: Mapping[str, Any]) -> Iterator[Row]:
        """Yield the rows of one Parquet row, given its values by field."""
        yield Row(name, **values)

    # Files

    def file_rows(self, layout: Layout, file: Path, config: DataSettings) -> Iterator[Row]:
        """Yield the rows of a file below `layout.root`: one row.

        Its class is that of the label files, else the sub-folder.
        """
        label: Label = None
        # With splits the first folder is the split's, so the class is the second.
        below = file.parts[1:] if layout.files is not None else file.parts
        if layout.label_files:
            label = layout.labels.get(file.as_posix())
        elif len(below) > 1 and "label" in self.columns((), config):
            label = below[0]
        yield Row(file.as_posix(), read_bytes(layout.root / file), label=label)

    def file_columns(self, path: Path) -> tuple[str, ...]:  # noqa: ARG002
        """Return the columns of a file that has some, such as the keys of JSON lines."""
        return ()

    # Opening and reading

    def prepared(
        self,
        row: Row,
        config: DataSettings,  # noqa: ARG002
        piece_length: int | None,  # noqa: ARG002
    ) -> Iterator[Row]:
        """Yield the rows that are read for a stored one: itself, converted, or its pieces.

        A `piece_length` cuts the samples of a split that would have too few rows.
        """
        yield row

    def piece_length(self, rows: Iterable[Row], share: float) -> int | None:  # noqa: ARG002
        """Return a length of pieces that gives several held-out rows; None if none does.

        `share` is the share of the pieces that are held out.
        """
        return None

    def survey(self) -> Survey:
        """Return an empty survey; all rows of both splits are added to it."""
        return Survey()

    @abc.abstractmethod
    def decode(self, source: SplitRows) -> "TrainingData":
        """Return a split as training data, decoded now or on demand.

        Raises DataError naming the first damaged row, on demand when that row is read.
        """

    # Validation

    def measure(self, row: Row) -> dict[str, Any]:
        """Return the measurements of a row: `error`, or `digest` and `manifest_columns`.

        Rows with equal digests are duplicates.
        """
        # The digest here is over the encoded bytes. A modality that decodes anyway should use
        # the decoded sample: then the same image as PNG and as BMP is a duplicate too.
        if row.content is None:
            return {"error": row.error or "null"}
        return {"digest": hashlib.sha256(row.content).hexdigest()}

    def checks(
        self,
        ref: DatasetRef,  # noqa: ARG002
        config: DataSettings,  # noqa: ARG002
        rules: Any,  # noqa: ARG002
        measured: Collection[str],  # noqa: ARG002
    ) -> list[Check]:
        """Return the checks of the measurements.

        `rules` is the modality's section of the validation config or None; `measured` names the
        columns of the manifest that are not empty.
        """
        return []


def all_data_hooks() -> list[DataHooks]:
    """Return the data hooks of every modality."""
    return [find_modality(name).data for name in modality_names()]


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raises DataError when it cannot be read."""
    try:
        return read_content(path)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the DataError for a file that cannot be read."""
    return DataError(f"{path}: unreadable ({error.strerror}); check its permissions")
