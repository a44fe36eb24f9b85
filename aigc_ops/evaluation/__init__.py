"""The evaluate stage: scores of trained models, and what people look at beside them.

Names are imported when first used, so that `aigc_ops.evaluation.config` stays quick to
import.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aigc_ops.evaluation.config import EvaluationConfig
    from aigc_ops.evaluation.stage import evaluate

__all__ = ["EvaluationConfig", "evaluate"]

_HOMES = {"EvaluationConfig": "config", "evaluate": "stage"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
