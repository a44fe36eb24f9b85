"""Escaping of text from others (names, reasons, file names) before it is displayed."""

import re

# All characters that can begin markup in CommonMark, or a table cell or mention in its dialects.
MARKDOWN = re.compile(r"([\\`*_\[\]()<>#!|~&])")


def printable(text: str) -> str:
    """Return the text with control, direction and other invisible characters as escapes."""
    # Such characters could move the cursor, or reorder what a reader sees (U+202E).
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def markdown(text: str) -> str:
    """Return Markdown that displays the text literally: no links, pictures or HTML."""
    return MARKDOWN.sub(r"\\\1", printable(text))
