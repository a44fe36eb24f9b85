"""Rows of JSON lines and of conversations: an answer each, after all that was said before."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

from aigc_ops.data.config import DataConfig
from aigc_ops.data.rowtypes import Row
from aigc_ops.errors import DataError, ModelError
from aigc_ops.sample_request import Message, Role, check_turns

ROLES = get_args(Role)
OTHER_TEXT_COLUMNS = ("response", "answer", "completion")


def text_column(found: Sequence[str], config: DataConfig) -> str | None:
    """The column of texts: the configured one, or where that is left alone another usual one."""
    if config.text_column in found:
        return config.text_column
    if config.text_column != DataConfig.model_fields["text_column"].default:
        return None
    return next((name for name in OTHER_TEXT_COLUMNS if name in found), None)


def json_rows(path: Path, shown: str, config: DataConfig) -> Iterator[Row]:
    """Rows of a file with a JSON object a line; a line that is none is a row with an error."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield from _record_rows(f"{shown} line {number}", line, config)
    except OSError as error:
        raise DataError(f"{path}: unreadable ({error.strerror}); check its permissions") from error


def _record_rows(name: str, line: bytes, config: DataConfig) -> Iterator[Row]:
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
    if config.messages_column in record:
        yield from answers(name, record[config.messages_column], source=source, licence=licence)
        return
    column = text_column(list(record), config)
    if column is None:
        found = ", ".join(record) or "nothing"
        yield Row(
            name,
            None,
            error=f"has no {config.text_column!r} (data.text_column) and no "
            f"{config.messages_column!r}; found {found}",
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
