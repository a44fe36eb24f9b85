"""`python -m tests.data.inputs` prints the table for docs/data.md."""

from tests.data.inputs import table_of_inputs

print(table_of_inputs(), end="")
