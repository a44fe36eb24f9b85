"""The errors of each stage; a message names what was expected, what was found, what to do next."""


class AigcOpsError(Exception):
    """Base of all errors that the user can act on."""

    # The command line prints these without a traceback. Any other exception is a bug.


class ConfigError(AigcOpsError):
    """The run's configuration is wrong; the command line exits with 2."""


class DataError(AigcOpsError):
    """The dataset is missing, unreadable, unsuitable, or not the one that was recorded."""


class ValidationFailed(DataError):
    """Expectations over the dataset do not hold; the report names the rows."""


class ModelError(AigcOpsError):
    """A model's config does not fit its data, or a request does not fit the model."""


class CheckpointError(AigcOpsError):
    """A stored model is missing, damaged, or not of the expected kind."""


class TrainingError(AigcOpsError):
    """Training cannot start, or stopped before its last step."""


class EvaluationError(AigcOpsError):
    """A score cannot be computed, or two scores cannot be compared."""


class RegistryError(AigcOpsError):
    """The model registry does not answer, or does not hold the requested entry."""


class PackagingError(AigcOpsError):
    """A Bento could not be built, booted or confirmed against its golden samples."""


class DecisionError(AigcOpsError):
    """A decision is not allowed: it has no reason, or the version was decided on already."""


class StaleDecision(DecisionError):
    """The evidence of a decision is outdated; review the new packet."""

    # A class of its own, since the review flow evaluates again after it and asks once more.
