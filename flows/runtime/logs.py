"""Log filters that show an error which the user can act on once, without its traceback."""

import logging

from aigc_ops.core.errors import AigcOpsError

RUNS = ("prefect.flow_runs", "prefect.task_runs")
FAILED = "Finished in state Failed("
"""The beginning of Prefect's last log record of a failed run, which repeats the message."""


class WithoutTraceback(logging.Filter):
    """A filter that removes the traceback of an AigcOpsError; other errors keep theirs.

    It marks the records that contain such a message, for `LeftToCaller`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._has_failed = False

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        is_shown = isinstance(error, AigcOpsError)
        if is_shown:
            # exc_text is the traceback as formatted for an earlier handler.
            record.exc_info = record.exc_text = None
            self._has_failed = True
        record.is_left_to_caller = is_shown or (
            self._has_failed and record.getMessage().startswith(FAILED)
        )
        return True


class LeftToCaller(logging.Filter):
    """A filter that drops records whose message the flow's caller prints itself."""

    # Only on handlers of this process's output: Prefect's server receives the records as well.

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, "is_left_to_caller", False)


def hide_user_error_tracebacks() -> None:
    """Remove tracebacks of user errors from the logs of flow and task runs."""
    for name in RUNS:
        _add_once(logging.getLogger(name), WithoutTraceback)


def leave_errors_to_caller() -> None:
    """Drop errors that end a run from this process's output, since its caller prints them."""
    for handler in logging.getLogger().handlers:
        _add_once(handler, LeftToCaller)


def _add_once(target: logging.Filterer, kind: type[logging.Filter]) -> None:
    # Every flow calls this, so a second call in one process must not add a second filter.
    if not any(isinstance(added, kind) for added in target.filters):
        target.addFilter(kind())
