"""The training loop for all families, and the state that it resumes from."""

from aigc_ops.training.config import TrainingConfig, run_key
from aigc_ops.training.loop import TrainingJob, train
from aigc_ops.training.run_dir import RunFolder

__all__ = ["RunFolder", "TrainingConfig", "TrainingJob", "run_key", "train"]
