"""Decode dataset rows into texts; an error names the first damaged row."""

import json
from collections.abc import Iterable

from aigc_ops.core.errors import DataError
from aigc_ops.formats.spill import Column
from aigc_ops.interfaces.request import Message
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.text.model import TextData


def text_data(rows: Iterable[Row]) -> TextData:
    """Return rows as texts with prompts and earlier turns; raises DataError naming a bad row.

    Texts that exceed a memory limit are stored in a temporary file.
    """
    # 1. Decode every row. The first row with a prompt and the first one without are noted,
    #    since a split must have a prompt in every row or in none.
    texts, prompts = Column(str.encode, bytes.decode), Column(str.encode, bytes.decode)
    histories = Column(_history_bytes, _history)
    first_with: Row | None = None
    first_without: Row | None = None
    has_histories = False
    for row in rows:
        texts.append(_decoded(row, row.content))
        histories.append(row.history)
        has_histories |= bool(row.history)
        if row.prompt is not None:
            prompts.append(_decoded(row, row.prompt))
            first_with = first_with or row
        else:
            first_without = first_without or row
    # 2. No prompts at all: plain documents. A mixture: name the row that lacks its prompt.
    if first_with is None:
        return TextData(texts.finish())
    if first_without is not None:
        _decoded(first_without, None)  # raises with the row's own error
    earlier = histories.finish() if has_histories else None
    return TextData(texts.finish(), prompts.finish(), earlier)


def _history_bytes(history: tuple[Message, ...]) -> bytes:
    # Empty bytes rather than "[]": most rows of plain prompts have no earlier turns.
    return json.dumps(history).encode() if history else b""


def _history(content: bytes) -> tuple[Message, ...]:
    return tuple(Message(*turn) for turn in json.loads(content)) if content else ()


def _decoded(row: Row, content: bytes | None) -> str:
    if content is None:
        problem = row.error or "text is null"
        raise DataError(f"{row.name}: {problem}; fix or remove the row")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{row.name}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8 or "
            "remove the row"
        ) from error
