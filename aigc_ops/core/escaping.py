"""Text that others wrote, made harmless where it is shown."""

import re

MARKDOWN = re.compile(r"([\\`*_\[\]()<>#!|~&])")


def printable(text: str) -> str:
    """The text with control, direction and other invisible characters written out."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )


def markdown(text: str) -> str:
    """The text as Markdown that shows it letter by letter: no links, pictures or HTML."""
    return MARKDOWN.sub(r"\\\1", printable(text))
