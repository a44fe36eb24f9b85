"""Datasets: open, read, version and validate them.

Names are imported when first used, so that `aigc_ops.data.config` stays quick to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc_ops.data.config import DataConfig
    from aigc_ops.data.dataset import Dataset, open_dataset, pin_hint, read_split

__all__ = ["DataConfig", "Dataset", "open_dataset", "pin_hint", "read_split"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "config" if name == "DataConfig" else "dataset"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
