"""Rows of JSON lines and of conversations: one row per answer, with the turns before it."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from aigc_ops.core.errors import ModelError
from aigc_ops.core.file_contents import open_content
from aigc_ops.interfaces.ingestion import DataSettings, licence_column, unreadable
from aigc_ops.interfaces.request import Message, Role, check_turns
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.text.config import TextDataConfig

ROLES = get_args(Role)
OTHER_TEXT_COLUMNS = ("response", "answer", "completion")


def text_settings(config: DataSettings) -> TextDataConfig:
    """Return the section `data.text`."""
    section: TextDataConfig = config.section("text")
    return section


def text_column(columns: Collection[str], settings: TextDataConfig) -> str | None:
    """Return the configured text column, or a common alternative to the default one."""
    if settings.column in columns:
        return settings.column
    # A name that the user chose is never replaced: a wrong column would train silently.
    if settings.column != TextDataConfig.model_fields["column"].default:
        return None
    return next((name for name in OTHER_TEXT_COLUMNS if name in columns), None)


def json_rows(path: Path, name: str, config: DataSettings) -> Iterator[Row]:
    """Yield rows of a JSON lines file; a line that is not an object gives a row with an error."""
    try:
        with open_content(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield from _record_rows(f"{name} line {number}", line, config)
    except OSError as error:
        raise unreadable(path, error) from error


def _record_rows(name: str, line: bytes, config: DataSettings) -> Iterator[Row]:
    settings = text_settings(config)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # RecursionError: deeply nested brackets
        yield Row(name, None, error=f"not JSON ({error})")
        return
    if not isinstance(record, dict):
        yield Row(name, None, error="not a JSON object")
        return
    source, licence = (
        value if isinstance(value, str) else None
        for value in map(record.get, (config.source_column, licence_column(record, config)))
    )
    if settings.messages_column in record:
        yield from answer_rows(
            name, record[settings.messages_column], source=source, licence=licence
        )
        return
    column = text_column(record, settings)
    if column is None:
        found = ", ".join(record) or "nothing"
        yield Row(
            name,
            None,
            error=f"has no {settings.column!r} (data.text.column) and no "
            f"{settings.messages_column!r}; found {found}",
        )
        return
    prompt = record.get(config.prompt_column) if config.prompt_column else None
    text, question = _encoded(record[column]), _encoded(prompt)
    yield Row(name, text, prompt=question, source=source, licence=licence)


def answer_rows(
    name: str, messages: Any, *, source: str | None = None, licence: str | None = None
) -> Iterator[Row]:
    """Yield one row per answer; a conversation with invalid turns gives a row with an error."""
    try:
        turns = [_message(record) for record in messages or ()]
        indices = [index for index, turn in enumerate(turns) if turn.role == "assistant"]
        if not indices:
            raise ModelError("no message is the assistant's")
        # An unanswered question at the end is data that would be dropped silently.
        if indices[-1] + 1 != len(turns):
            raise ModelError("the last message is not the assistant's")
        check_turns(turns)
    except (ModelError, TypeError) as error:
        yield Row(name, None, error=f"messages: {error}", source=source, licence=licence)
        return
    for number, index in enumerate(indices, start=1):
        yield Row(
            # The last turn before the answer is its prompt, the turns before that are its history.
            f"{name} answer {number}" if len(indices) > 1 else name,
            _encoded(turns[index].text),
            prompt=_encoded(turns[index - 1].text),
            history=tuple(turns[: index - 1]),
            source=source,
            licence=licence,
        )


def _message(record: Any) -> Message:
    if not isinstance(record, Mapping):
        raise ModelError("expected each message to be an object with role and content")
    role, content = record.get("role"), record.get("content")
    if role not in ROLES:
        raise ModelError(f"role {role!r} is not one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ModelError(f"the {role}'s content is {content!r}; expected a text")
    return Message(cast(Role, role), content)


def _encoded(value: Any) -> bytes | None:
    """Return a text's bytes, None for other values."""
    # JSON can hold lone surrogates, which UTF-8 forbids. They pass here, so that the decoding
    # of the row fails with an error that names it.
    return value.encode(errors="surrogatepass") if isinstance(value, str) else None
