"""How a modality's files and columns become rows, and its rows become training data.

A modality implements `DataHooks`. The defaults serve one whose samples are one file each, with
classes by sub-folder, or values of a Parquet column beside `label`, `source` and `licence`. It
then adds its suffixes, the shape of its samples and their decoding.
"""

import abc
import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, JsonValue, field_validator
from pydantic_core import PydanticKnownError

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.errors import DataError
from aigc_ops.core.file_contents import read_content
from aigc_ops.interfaces.discovery import find_modality, modality_names
from aigc_ops.interfaces.row import Row
from aigc_ops.interfaces.sections import SectionedConfig

if TYPE_CHECKING:
    from aigc_ops.interfaces.data import TrainingData

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, Split] = ("train", "heldout")
AUTO = "auto"


def _modality_choices() -> list[JsonValue]:
    return [AUTO, *modality_names()]


class DataSettings(SectionedConfig):
    """The settings of a dataset that all modalities share; `DataConfig` adds their sections."""

    path: str = Field(
        min_length=1,
        description=(
            "Folder with train and held-out Parquet, a Parquet file, a folder of images "
            "(classes by sub-folder), a text file, a folder of text files, or JSON lines."
        ),
    )
    modality: str = Field(
        default=AUTO,
        description="What the data holds; auto: told from its files and columns.",
        json_schema_extra=lambda schema: schema.update(enum=_modality_choices()),
    )
    heldout_fraction: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="Share of rows held out of data that comes without a held-out split.",
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
        default="licence", min_length=1, description="Parquet column of each row's licence."
    )

    @field_validator("modality")
    @classmethod
    def _is_known(cls, value: str) -> str:
        choices = _modality_choices()
        if value not in choices:
            *others, last = map(repr, choices)
            expected = f"{', '.join(others)} or {last}"
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value

    def decisive_values(self) -> dict[str, Any]:
        """Return the values that decide what a model is trained on, beside the files' content."""
        without_effect = ("path", "num_workers")
        values = self.stable_dump().items()
        return {name: v for name, v in values if name.rpartition(".")[2] not in without_effect}


@dataclass(frozen=True)
class Layout:
    """The files of a dataset, which are found but not read."""

    root: Path
    modality: str
    is_parquet: bool
    """Whether rows are read from Parquet columns; else from the modality's own files."""
    files: Mapping[Split, tuple[Path, ...]] | None
    """Files of each split below `root`; None when the data comes unsplit."""
    unsplit: tuple[Path, ...] = ()

    @property
    def hooks(self) -> "DataHooks":
        """How the modality reads its files and columns."""
        return find_modality(self.modality).data

    def every_file(self) -> tuple[Path, ...]:
        """Return all files that are read, train first."""
        if self.files is None:
            return self.unsplit
        return self.files["train"] + self.files["heldout"]

    def files_of(self, split: Split) -> tuple[Path, ...]:
        """Return the files that hold rows of a split: all, when the data comes unsplit."""
        return self.unsplit if self.files is None else self.files[split]


@dataclass(frozen=True)
class SplitRows:
    """The undecoded rows of one split of an opened dataset."""

    ref: DatasetRef
    layout: Layout
    config: DataSettings
    split: Split
    rows: Iterable[Row]
    """Rows in file order, read while they are iterated."""

    @property
    def num_rows(self) -> int:
        """Number of rows, at least 1."""
        return self.ref.num_rows(self.split)


@dataclass(frozen=True)
class Check:
    """One expectation over a column of the manifest; its description goes into the report."""

    kind: Literal["null", "not_null", "in_set", "between", "contains"]
    """Rule for every value of the column; `contains`: all of `values` occur in the column."""
    column: str
    description: str
    values: Sequence[JsonValue] = ()
    """Of `in_set` and `contains`."""
    low: float | None = None
    """Least value of `between`."""
    high: float | None = None
    """Greatest value of `between`."""
    mostly: float = 1.0
    """Share of rows that must satisfy the rule."""


class Survey:
    """What one pass over a dataset's undecoded rows finds out about its samples."""

    def add(self, row: Row) -> None:
        """Take note of a row, which may be damaged: validation names it."""

    def shape_fields(
        self,
        config: DataSettings,  # noqa: ARG002
        class_names: tuple[str, ...],
    ) -> dict[str, Any]:
        """Return the fields of `DatasetRef` that hold the shape of the samples.

        A modality puts what its models must know, with its `class_names`, into `shape`.
        """
        return {"shape": {"class_names": list(class_names)}} if class_names else {}


class DataHooks(abc.ABC):
    """What a modality does with files and columns."""

    name: ClassVar[str]
    """The modality's name."""
    sample_noun: ClassVar[str]
    """One sample with its article, such as "an image"."""
    files_noun: ClassVar[str]
    """Its files in the plural, such as "images"."""
    priority: ClassVar[int] = 50
    """Whose files or columns a dataset is, where several modalities could read it.

    The highest goes first, equal ones by name. Images have 50. Files of a modality with 0 are often
    companions of other data, as README.md is: Parquet in sub-folders goes before them.
    """
    suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of its files, in lower case."""
    refused_suffixes: ClassVar[tuple[str, ...]] = ()
    """Suffixes of files that are read as well, so that the refusal of a format names them."""
    max_file_bytes: ClassVar[int | None] = None
    """Size of the largest file that is read."""
    has_many_rows_a_file: ClassVar[bool] = False
    """Whether one of its files can be a whole dataset."""
    optional_fields: ClassVar[tuple[str, ...]] = ("label",)
    """Fields of a row, beside source and licence, that may have a column: label, prompt."""
    more_rows_hint: ClassVar[str] = ""
    """How to get more rows out of the same data, in brackets after a space."""
    manifest_columns: ClassVar[Mapping[str, str]] = {}
    """The pandas type of each measurement that `measure` returns, `error` and `digest` aside."""

    # Columns of Parquet

    def content_column(self, config: DataSettings) -> str:
        """Return the column of samples: `data.NAME.column`, or the modality's name without it."""
        return str(getattr(config.section(self.name), "column", self.name))

    def holds(self, columns: Collection[str], config: DataSettings) -> bool:
        """Return whether Parquet with these columns holds samples of this modality."""
        return self.content_column(config) in columns

    def columns(self, found: Collection[str], config: DataSettings) -> dict[str, str]:  # noqa: ARG002
        """Return the column of each field that is read: `content` and what may be missing.

        `found` are the columns of the file. Columns of fields that a Row does not have are
        handed to `column_rows` as plain Python values.
        """
        optional = {
            field: column
            for field in self.optional_fields
            if (column := getattr(config, f"{field}_column"))
        }
        facts = {"source": config.source_column, "licence": config.licence_column}
        return {"content": self.content_column(config), **optional, **facts}

    def column_rows(self, name: str, values: Mapping[str, Any]) -> Iterator[Row]:
        """Yield the rows of one row of Parquet, whose values come by field."""
        yield Row(name, **values)

    # Files

    def file_rows(self, layout: Layout, file: Path, config: DataSettings) -> Iterator[Row]:
        """Yield the rows of a file below `layout.root`: one, its class the first sub-folder."""
        below = file.parts[1:] if layout.files is not None else file.parts
        has_class = len(below) > 1 and "label" in self.columns((), config)
        yield Row(
            file.as_posix(),
            read_bytes(layout.root / file),
            label=below[0] if has_class else None,
        )

    # Opening and reading

    def survey(self) -> Survey:
        """Return an empty survey, to which all rows of both splits are added."""
        return Survey()

    @abc.abstractmethod
    def decode(self, source: SplitRows) -> "TrainingData":
        """Return a split decoded, or one that decodes rows as they are needed.

        Raises DataError naming the first damaged row.
        """

    # Validation

    def measure(self, row: Row) -> dict[str, Any]:
        """Return the measurements of a row: `error`, or `digest` and `manifest_columns`.

        Rows with an equal digest are duplicates.
        """
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
        """Return what must hold of the measurements.

        `rules` is the modality's section of the validation config, None without one; `measured`
        names the columns of the manifest that are not empty.
        """
        return []


def all_data_hooks() -> list[DataHooks]:
    """Return the data hooks of every modality."""
    return [find_modality(name).data for name in modality_names()]


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes; raises DataError for one that cannot be read."""
    try:
        return read_content(path)
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the error to raise for a file that cannot be read."""
    return DataError(f"{path}: unreadable ({error.strerror}); check its permissions")
