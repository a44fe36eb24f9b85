"""Config fields that name an external input, whose content may change under the same name."""

from pathlib import Path
from typing import Annotated, get_args

from pydantic import BaseModel, Field

from aigc_ops.core.artifacts import file_digest, json_digest

InputPath = Annotated[
    str, Field(pattern=r"^[^\x00]*$"), "a file, a folder or models:/NAME@ALIAS, without a null byte"
]
"""The type of a config field that names an input: a file, a folder or a registered model."""


def collect_inputs(config: BaseModel, prefix: str = "") -> dict[str, str]:
    """Return the value of every such field that is set, by its dotted name."""
    inputs: dict[str, str] = {}
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            inputs |= collect_inputs(value, f"{prefix}{name}.")
        # The annotation is `InputPath | None`: pydantic removes the marker from a field whose
        # annotation is `InputPath` alone, but leaves it in the members of a union.
        elif value and InputPath in get_args(info.annotation):
            inputs[f"{prefix}{name}"] = value
    return inputs


def path_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return file_digest(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    # Relative names, so that a moved folder keeps its digest. It is part of run keys.
    return json_digest([[file.relative_to(path).as_posix(), file_digest(file)] for file in files])
