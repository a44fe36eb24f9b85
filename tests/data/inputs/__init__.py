"""Inputs as people have them, each with what becomes of it: the table of docs/data.md."""

from tests.data.inputs.images import IMAGE_INPUTS
from tests.data.inputs.texts import TEXT_INPUTS

INPUTS = [*IMAGE_INPUTS, *TEXT_INPUTS]


def table_of_inputs() -> str:
    """Return the table as Markdown."""
    rows = [f"| {each.name} | {each.result} |" for each in INPUTS]
    return "\n".join(["| Input | What becomes of it |", "|---|---|", *rows]) + "\n"
