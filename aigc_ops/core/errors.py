"""One base error, one subclass per stage; each message says what to do next."""


class AigcOpsError(Exception):
    """A mistake or fault the user can act on: expected, found, what to do next."""


class ConfigError(AigcOpsError):
    """The run's configuration is wrong; the command line exits with 2."""


class DataError(AigcOpsError):
    """The dataset is missing, unreadable, changed without notice, or unfit."""


class ValidationFailed(DataError):
    """The expectations over the dataset did not hold; the report names the rows."""


class ModelError(AigcOpsError):
    """A model's config does not fit its data, or a request does not fit the model."""


class CheckpointError(AigcOpsError):
    """A stored model is missing, damaged, or of another kind than asked for."""


class TrainingError(AigcOpsError):
    """Training cannot start, or stopped before its last step."""


class EvaluationError(AigcOpsError):
    """A score cannot be computed, or two scores cannot be compared."""


class RegistryError(AigcOpsError):
    """The model registry cannot be reached, or does not hold what was asked for."""


class PackagingError(AigcOpsError):
    """A Bento could not be built, booted or confirmed against its golden samples."""


class DecisionError(AigcOpsError):
    """A decision that cannot be taken: without a reason, or on what was decided already."""


class StaleDecision(DecisionError):
    """A decision on evidence that no longer speaks of what is: look again."""
