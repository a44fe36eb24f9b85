"""The values of a config for digests that must outlive later versions of the config."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel


def stable_values(config: BaseModel, *, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return a config's values as JSON, without later fields that are at their default.

    Later fields are those that the config's class, or that of a config inside it, lists in
    `added_fields`. So a new field changes no digest of a config that does not use it.
    """
    kind = type(config)
    added: Collection[str] = getattr(kind, "added_fields", ())
    values = {}
    for name, value in config.model_dump(mode="json", exclude=set(exclude)).items():
        current = getattr(config, name)
        default = kind.model_fields[name].get_default(call_default_factory=True)
        if name in added and current == default:
            continue
        values[name] = stable_values(current) if isinstance(current, BaseModel) else value
    return values
