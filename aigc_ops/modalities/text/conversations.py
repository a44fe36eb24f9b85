"""Rows of JSON lines and of conversations: one row per answer, with the turns before it."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, cast, get_args

from aigc_ops.core.errors import ModelError
from aigc_ops.core.file_contents import open_content
from aigc_ops.interfaces.ingestion import DataSettings, licence_column, unreadable
from aigc_ops.interfaces.request import Message, Role, check_turns
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.text.config import TextDataConfig

ROLES = get_args(Role)
OTHER_TEXT_COLUMNS = ("response", "answer", "completion", "output")
"""Columns of texts that are answers, in data without the default column."""
OTHER_PROMPT_COLUMNS = ("question", "instruction")
CONTEXT_COLUMNS = ("input", "context")
"""Columns whose text follows such a prompt, after a blank line."""


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


def prompt_columns(columns: Collection[str], config: DataSettings) -> dict[str, str]:
    """Return the columns of the fields `prompt` and `context`.

    The default column that is absent is replaced by the question or instruction that an answer
    comes with, as in GSM8K, Dolly and Alpaca. A column that the user chose is never replaced.
    """
    column = config.prompt_column
    if not column:
        return {}
    is_default = column == DataSettings.model_fields["prompt_column"].default
    if column in columns or not is_default:
        return {"prompt": column}
    is_answer = text_column(columns, text_settings(config)) in OTHER_TEXT_COLUMNS
    other = next((name for name in OTHER_PROMPT_COLUMNS if is_answer and name in columns), None)
    if other is None:
        return {"prompt": column}
    context = next((name for name in CONTEXT_COLUMNS if name in columns), None)
    return {"prompt": other} | ({"context": context} if context else {})


def with_context(prompt: bytes | None, context: Any) -> bytes | None:
    """Return the prompt followed by its context, if it has one."""
    if prompt is None or not isinstance(context, str) or not context.strip():
        return prompt
    return prompt + b"\n\n" + context.encode(errors="surrogatepass")


def json_rows(path: Path, name: str, config: DataSettings) -> Iterator[Row]:
    """Yield rows of a JSON lines file; a line that is not an object gives a row with an error."""
    try:
        with open_content(path) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield from _record_rows(f"{name} line {number}", line, config)
    except OSError as error:
        raise unreadable(path, error) from error


def json_keys(path: Path) -> tuple[str, ...]:
    """Return the keys of the first 1,000 lines, in order of their appearance."""
    keys: dict[str, None] = {}
    try:
        with open_content(path) as lines:
            for line in islice(lines, 1000):
                with suppress(ValueError, RecursionError):
                    record = json.loads(line)
                    keys |= dict.fromkeys(record) if isinstance(record, dict) else {}
    except OSError as error:
        raise unreadable(path, error) from error
    return tuple(keys)


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
    fields = prompt_columns(record, config)
    asked = fields.get("prompt")
    is_default = asked == DataSettings.model_fields["prompt_column"].default
    if asked and asked not in record and not is_default:
        found = ", ".join(record)
        yield Row(name, None, error=f"has no {asked!r} (data.prompt_column); found {found}")
        return
    context = record.get(fields.get("context", ""))
    prompt = with_context(_encoded(record.get(asked or "")), context)
    yield Row(name, _encoded(record[column]), prompt=prompt, source=source, licence=licence)


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
