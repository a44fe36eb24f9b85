"""The evaluate stage: scores of trained models, with reports for people.

Names are imported on first use, so that `aigc_ops.evaluation.config` is quick to import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc_ops.evaluation.config import EvaluationConfig
    from aigc_ops.evaluation.stage import evaluate

__all__ = ["EvaluationConfig", "evaluate"]

# The stage imports torch and the models; the command line imports the config alone.
_MODULES = {"EvaluationConfig": "config", "evaluate": "stage"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
