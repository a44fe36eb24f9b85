"""Settings that name an input, which may change while its name stays what it was."""

from pathlib import Path
from typing import Annotated, get_args

from pydantic import BaseModel, Field

from aigc_ops.core.artifacts import file_digest, json_digest

Reference = Annotated[
    str, Field(pattern=r"^[^\x00]*$"), "a file, a folder or models:/NAME@ALIAS, without a null byte"
]
"""The type of such a setting in a config."""


def references(config: BaseModel, prefix: str = "") -> dict[str, str]:
    """Dotted name and value of every such setting that is given."""
    found: dict[str, str] = {}
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            found |= references(value, f"{prefix}{name}.")
        elif value and Reference in get_args(info.annotation):
            found[f"{prefix}{name}"] = value
    return found


def content_digest(path: Path) -> str:
    """SHA-256 (hex) over a file's bytes, or over all files of a folder with their names."""
    if path.is_file():
        return file_digest(path)
    files = sorted(each for each in path.rglob("*") if each.is_file())
    return json_digest([[each.relative_to(path).as_posix(), file_digest(each)] for each in files])
