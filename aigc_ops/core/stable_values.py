"""The values of a config for digests that stay equal in later releases."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel


def stable_values(config: BaseModel, *, exclude: Collection[str] = ()) -> dict[str, Any]:
    """Return a config's values as JSON, without the `added_fields` that have their default.

    Nested configs are treated in the same way.
    """
    kind = type(config)
    added: Collection[str] = getattr(kind, "added_fields", ())
    values = {}
    for name, value in config.model_dump(mode="json", exclude=set(exclude)).items():
        current = getattr(config, name)
        default = kind.model_fields[name].get_default(call_default_factory=True)
        # A field that was added after version 0.1 must not change the digest of a config that
        # does not use it, else every stored run would be trained again after an upgrade.
        if name in added and current == default:
            continue
        values[name] = stable_values(current) if isinstance(current, BaseModel) else value
    return values
