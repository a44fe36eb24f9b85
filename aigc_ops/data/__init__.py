"""Datasets: opening, reading, versioning by DVC, validation."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc_ops.data.config import DataConfig
    from aigc_ops.data.dataset import Dataset, open_dataset, pin_hint, read_split

__all__ = ["DataConfig", "Dataset", "open_dataset", "pin_hint", "read_split"]


# Names are imported at their first use: importing `aigc_ops.data.config` runs this module too, and
# the command line needs the settings without pyarrow and torch.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "config" if name == "DataConfig" else "dataset"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
