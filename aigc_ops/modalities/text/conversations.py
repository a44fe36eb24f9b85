"""Rows of JSON lines and of conversations: an answer each, after all that was said before."""

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast, get_args

from aigc_ops.core.errors import ModelError
from aigc_ops.core.file_contents import open_content
from aigc_ops.interfaces.ingestion import DataSettings, unreadable
from aigc_ops.interfaces.request import Message, Role, check_turns
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.text.config import TextDataConfig

ROLES = get_args(Role)
OTHER_TEXT_COLUMNS = ("response", "answer", "completion")


def text_settings(config: DataSettings) -> TextDataConfig:
    """Return the section `data.text`."""
    section: TextDataConfig = config.section("text")
    return section


def text_column(found: Collection[str], settings: TextDataConfig) -> str | None:
    """Return the column of texts: the configured one, or a usual one in place of the default."""
    if settings.column in found:
        return settings.column
    if settings.column != TextDataConfig.model_fields["column"].default:
        return None
    return next((name for name in OTHER_TEXT_COLUMNS if name in found), None)


def json_rows(path: Path, shown: str, config: DataSettings) -> Iterator[Row]:
    """Yield rows of a file with a JSON object a line; any other line is a row with an error."""
    try:
        with open_content(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield from _record_rows(f"{shown} line {number}", line, config)
    except OSError as error:
        raise unreadable(path, error) from error


def _record_rows(name: str, line: bytes, config: DataSettings) -> Iterator[Row]:
    settings = text_settings(config)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # the latter of brackets in brackets
        yield Row(name, None, error=f"not JSON ({error})")
        return
    if not isinstance(record, dict):
        yield Row(name, None, error="not a JSON object")
        return
    source, licence = (
        value if isinstance(value, str) else None
        for value in map(record.get, (config.source_column, config.licence_column))
    )
    if settings.messages_column in record:
        yield from answers(name, record[settings.messages_column], source=source, licence=licence)
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


def answers(
    name: str, messages: Any, *, source: str | None = None, licence: str | None = None
) -> Iterator[Row]:
    """A row for each answer of a conversation; one with an error when the turns are no turns."""
    try:
        turns = [_message(each) for each in messages or ()]
        places = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
        if not places:
            raise ModelError("no message is the assistant's")
        if places[-1] + 1 != len(turns):
            raise ModelError("the last message is not the assistant's")
        check_turns(turns)
    except (ModelError, TypeError) as error:
        yield Row(name, None, error=f"messages: {error}", source=source, licence=licence)
        return
    for number, place in enumerate(places, start=1):
        yield Row(
            f"{name} answer {number}" if len(places) > 1 else name,
            _encoded(turns[place].text),
            prompt=_encoded(turns[place - 1].text),
            history=tuple(turns[: place - 1]),
            source=source,
            licence=licence,
        )


def _message(record: Any) -> Message:
    if not isinstance(record, Mapping):
        raise ModelError("each message is an object with role and content")
    role, content = record.get("role"), record.get("content")
    if role not in ROLES:
        raise ModelError(f"role {role!r} is none of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ModelError(f"the {role}'s content is {content!r} where a text was expected")
    return Message(cast(Role, role), content)


def _encoded(value: Any) -> bytes | None:
    """A text's bytes, half surrogates as they are, so that decoding names the row."""
    return value.encode(errors="surrogatepass") if isinstance(value, str) else None
