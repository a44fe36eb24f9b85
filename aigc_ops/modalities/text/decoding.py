"""Rows decoded into texts; the first damaged row is named."""

import json
from collections.abc import Iterable

from aigc_ops.core.errors import DataError
from aigc_ops.formats.spill import Column
from aigc_ops.interfaces.request import Message
from aigc_ops.interfaces.row import Row
from aigc_ops.modalities.text.model import TextData


def text_data(rows: Iterable[Row]) -> TextData:
    """Return rows as texts with prompts and earlier turns; raises DataError naming a bad one.

    Many texts are kept on disk.
    """
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
    if first_with is None:
        return TextData(texts.finish())
    if first_without is not None:
        _decoded(first_without, None)
    earlier = histories.finish() if has_histories else None
    return TextData(texts.finish(), prompts.finish(), earlier)


def _history_bytes(history: tuple[Message, ...]) -> bytes:
    return json.dumps(history).encode() if history else b""


def _history(content: bytes) -> tuple[Message, ...]:
    return tuple(Message(*turn) for turn in json.loads(content)) if content else ()


def _decoded(row: Row, content: bytes | None) -> str:
    if content is None:
        problem = row.error or "text is null"
        raise DataError(f"{row.name}: {problem}; mend it or leave the row out")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{row.name}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8, or "
            "leave the row out"
        ) from error
