"""Data hooks of texts: find, split into rows, decode, measure."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from aigc_ops.core.artifacts import DatasetRef
from aigc_ops.core.file_contents import open_content
from aigc_ops.interfaces.ingestion import (
    Check,
    DataHooks,
    DataSettings,
    Layout,
    SplitRows,
    unreadable,
)
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.text.config import TextValidationConfig
from aigc_ops.modalities.text.conversations import (
    answer_rows,
    json_keys,
    json_rows,
    prompt_columns,
    text_column,
    text_settings,
    with_context,
)
from aigc_ops.modalities.text.documents import cut_document, split_documents

if TYPE_CHECKING:
    from aigc_ops.modalities.text.model import TextData

JSON_LINES = ".jsonl"
HELDOUT_PIECES = 32
LEAST_PIECE = 100  # characters
TOO_FEW = "whole, it would leave a score too few held-out texts"


class TextFiles(DataHooks):
    """Text files, JSON lines, and Parquet files of texts or conversations."""

    name = "text"
    sample_noun = "a text"
    files_noun = "text files"
    priority = 0
    suffixes = (".txt", ".text", ".md", JSON_LINES)
    unread_suffixes = (
        *(".json", ".csv", ".tsv", ".html", ".htm", ".xml", ".pdf", ".docx", ".doc", ".rtf"),
        *(".odt", ".epub", ".rst", ".tex", ".srt", ".vtt"),
    )
    has_many_rows_a_file = True
    optional_fields = ("prompt",)
    more_rows_hint = " (data.text.documents paragraph or line splits a text file into more rows)"
    manifest_columns: ClassVar[Mapping[str, str]] = {
        "num_characters": "Int64",
        "num_prompt_characters": "Int64",
    }

    def holds(self, columns: Collection[str], config: DataSettings) -> bool:
        settings = text_settings(config)
        return settings.messages_column in columns or text_column(columns, settings) is not None

    def columns(self, found: Collection[str], config: DataSettings) -> dict[str, str]:
        settings = text_settings(config)
        columns = super().columns(found, config)
        if settings.messages_column in found:
            facts = {field: columns[field] for field in ("source", "licence")}
            # A conversation holds its own prompts, so a prompt column is not read.
            return {"messages": settings.messages_column, **facts}
        content = text_column(found, settings) or settings.column
        return {**columns, "content": content, **prompt_columns(found, config)}

    def column_rows(self, name: str, values: Mapping[str, Any]) -> Iterator[Row]:
        """Return one row, or one row per answer of a conversation."""
        if "messages" in values:
            return answer_rows(name, **values)
        fields = dict(values)
        if (context := fields.pop("context", None)) is not None:
            fields["prompt"] = with_context(fields["prompt"], context)
        return super().column_rows(name, fields)

    def file_columns(self, path: Path) -> tuple[str, ...]:
        """Return the keys of the first JSON lines; empty for other files."""
        return json_keys(path) if path.suffix.lower() == JSON_LINES else ()

    def file_rows(self, layout: Layout, file: Path, config: DataSettings) -> Iterator[Row]:
        """Yield the documents of a text file, or the rows of JSON lines."""
        path = layout.root / file
        name = path.name if file == Path() else file.as_posix()
        if path.suffix.lower() == JSON_LINES:
            yield from json_rows(path, name, config)
            return
        unit = _document_unit(layout, config)
        try:
            with open_content(path) as lines:
                for line, document in split_documents(lines, unit):
                    yield Row(name if unit == "file" else f"{name} line {line}", document)
        except OSError as error:
            raise unreadable(path, error) from error

    def prepared(self, row: Row, config: DataSettings, piece_length: int | None) -> Iterator[Row]:
        """Yield the row, or the pieces of a document that is too long."""
        limit = text_settings(config).max_characters
        length = min(limit, piece_length or limit)
        # An answer is not cut: its pieces would lack their prompt. Bytes bound the characters.
        if row.prompt is not None or row.content is None or len(row.content) <= length:
            yield row
            return
        try:
            text = row.content.decode()
        except UnicodeDecodeError:  # validation names it
            yield row
            return
        if len(text) <= length:
            yield row
            return
        change = f"cut into pieces of at most {length:,} characters"
        change += " (--data.text.max-characters)" if length == limit else f"; {TOO_FEW}"
        pieces = filter(str.strip, cut_document(text, length))
        for number, piece in enumerate(pieces, start=1):
            yield replace(
                row,
                name=f"{row.name} piece {number}",
                content=piece.encode(),
                change=change if number == 1 else None,
            )

    def piece_length(self, rows: Iterable[Row], share: float) -> int | None:
        """Return the length of pieces that gives about `HELDOUT_PIECES` held-out documents."""
        documents = (row.content for row in rows if row.prompt is None and row.content)
        num_characters = sum(len(content.decode(errors="replace")) for content in documents)
        length = int(num_characters * share / HELDOUT_PIECES)
        return max(length, LEAST_PIECE) if num_characters else None

    def decode(self, source: SplitRows) -> "TextData":
        from aigc_ops.modalities.text.decoding import text_data

        return text_data(source.rows)

    def measure(self, row: Row) -> dict[str, Any]:
        facts: dict[str, Any] = {}
        errors = {}
        for part, content in {"text": row.content, "prompt": row.prompt}.items():
            column = "num_characters" if part == "text" else "num_prompt_characters"
            try:
                facts[column] = None if content is None else len(content.decode().strip())
                if content is not None and 0 in content:
                    errors[part] = (
                        f"{part} holds a null character; expected UTF-8, this may be UTF-16"
                    )
            except UnicodeDecodeError as error:
                errors[part] = f"{part} is not UTF-8 ({error.reason} at byte {error.start})"
        if row.content is None:
            errors["text"] = row.error or "text is null"
        if errors:
            return facts | {"error": "; ".join(errors.values())}
        # Duplicates are texts with equal prompts and histories: an answer such as "Yes." recurs
        # under other questions. The null bytes keep the fields apart.
        before = b"".join(turn.text.encode(errors="replace") + b"\0" for turn in row.history)
        key = before + (row.prompt or b"") + b"\0" + (row.content or b"")
        return facts | {"digest": hashlib.sha256(key).hexdigest()}

    def checks(
        self,
        ref: DatasetRef,  # noqa: ARG002
        config: DataSettings,  # noqa: ARG002
        rules: TextValidationConfig,
        measured: Collection[str],
    ) -> list[Check]:
        low, high = rules.min_characters, rules.max_characters
        text = f"every text is from {low:,} to {high:,} characters"
        flags = ["--validation.text.max-characters {high}"]
        checks = [Check("between", "num_characters", text, low=low, high=high, flags=flags)]
        if "num_prompt_characters" in measured:
            prompt = f"every prompt is from 1 to {high:,} characters"
            checks += [
                Check("not_null", "num_prompt_characters", "every text has a prompt"),
                Check("between", "num_prompt_characters", prompt, low=1, high=high, flags=flags),
            ]
        return checks


def _document_unit(layout: Layout, config: DataSettings) -> str:
    """Return the unit of a document; `auto` means a file in a folder of unsplit text files."""
    documents = text_settings(config).documents
    if documents == "auto" and layout.files is None and layout.root.is_dir():
        return "file"
    return documents
