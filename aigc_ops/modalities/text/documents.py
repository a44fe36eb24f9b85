"""Split text files into documents."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import BinaryIO

BREAKS = tuple(map(re.compile, (r"\n\s*\n", r"\n", r"(?<=[.!?。！？])\s*", r"\s")))
"""Places to cut a document, the best first: paragraphs, lines, sentences, words."""


def split_documents(lines: BinaryIO, unit: str) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, document) of a text file, stripped and never empty.

    `unit` is line, paragraph, file, or auto: paragraphs if blank lines separate lines, else
    lines. At most one document is in memory.
    """
    # Documents stay bytes here: decoding per row lets an error name the row that is not UTF-8.
    if unit == "auto":
        unit = "paragraph" if _has_paragraphs(lines) else "line"
        lines.seek(0)
    # `first` is the number of the document's first line that is not blank.
    first, document = 0, list[bytes]()
    for number, line in enumerate(_plain(lines), start=1):
        is_blank = not line.strip()
        if document and (unit == "line" or (unit == "paragraph" and is_blank)):
            yield first, b"".join(document).strip()
            document = []
        if document or not is_blank:
            first = first if document else number
            document.append(line)
    if document:
        yield first, b"".join(document).strip()


def cut_document(text: str, length: int) -> Iterator[str]:
    """Yield consecutive pieces of at most `length` characters that together are the document.

    A piece ends at the best break of its second half; without any break it has `length` characters.
    """
    start = 0
    while len(text) - start > length:
        end = _last_break(text, start + length // 2, start + length)
        yield text[start:end]
        start = end
    yield text[start:]


def _last_break(text: str, first: int, last: int) -> int:
    for pattern in BREAKS:
        ends = [match.end() for match in pattern.finditer(text, first, last) if match.end() > first]
        if ends:
            return ends[-1]
    # An accent stays with its letter.
    while last > first and unicodedata.combining(text[last]):
        last -= 1
    return last


def _has_paragraphs(lines: Iterable[bytes]) -> bool:
    """Return whether a blank line has text before and after it."""
    has_text, has_blank = False, False
    for line in _plain(lines):
        if not line.strip():
            has_blank = has_text
        elif has_blank:
            return True
        else:
            has_text = True
    return False


def _plain(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines with Unix line ends and without a byte order mark."""
    for number, line in enumerate(lines):
        # Windows editors write both; otherwise the mark would become part of the first text.
        content = line if number else line.removeprefix(b"\xef\xbb\xbf")
        yield content[:-2] + b"\n" if content.endswith(b"\r\n") else content
