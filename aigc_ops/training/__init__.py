"""The only training loop, and the state it can resume from."""

from aigc_ops.training.config import TrainingConfig, run_key
from aigc_ops.training.folder import RunFolder
from aigc_ops.training.loop import train

__all__ = ["RunFolder", "TrainingConfig", "run_key", "train"]
