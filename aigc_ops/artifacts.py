"""Names that Prefect results of earlier releases hold, so that Prefect reads them still."""

from aigc_ops.core.artifacts import Checkpoint, RunResult, Scores, ValidationReport, Verdict

__all__ = ["Checkpoint", "RunResult", "Scores", "ValidationReport", "Verdict"]
