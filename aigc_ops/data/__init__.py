"""The data room: open, read, version and validate datasets.

Names are imported when first used, so that `aigc_ops.data.fingerprint` and
`aigc_ops.data.config` stay quick to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc_ops.data.config import DataConfig
    from aigc_ops.data.opening import open_dataset, pin_hint
    from aigc_ops.data.reading import read_split

__all__ = ["DataConfig", "open_dataset", "pin_hint", "read_split"]

_HOMES = {
    "DataConfig": "config",
    "open_dataset": "opening",
    "pin_hint": "opening",
    "read_split": "reading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
