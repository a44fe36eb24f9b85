"""What a run's log shows of a fault that its user can act on: the message alone, once."""

import logging

from aigc_ops.core.errors import AigcOpsError

RUNS = ("prefect.flow_runs", "prefect.task_runs")
FAILED = "Finished in state Failed("
"""How Prefect repeats the message when a run ends."""


class WithoutTraceback(logging.Filter):
    """Drops the traceback of an AigcOpsError; a bug keeps its own.

    Records that show or repeat such a message are marked, for `LeftToCaller`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._has_failed = False

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        is_shown = isinstance(error, AigcOpsError)
        if is_shown:
            record.exc_info = record.exc_text = None
            self._has_failed = True
        record.is_left_to_caller = is_shown or (
            self._has_failed and record.getMessage().startswith(FAILED)
        )
        return True


class LeftToCaller(logging.Filter):
    """Drops what the caller of a flow prints itself; Prefect's server gets it all the same."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(record, "is_left_to_caller", False)


def show_messages_alone() -> None:
    """Filter the loggers of flow and task runs; calling it again changes nothing."""
    for name in RUNS:
        _add_once(logging.getLogger(name), WithoutTraceback)


def leave_errors_to_caller() -> None:
    """Keep errors that end a run out of this process's own output, since its caller prints them."""
    for handler in logging.getLogger().handlers:
        _add_once(handler, LeftToCaller)


def _add_once(place: logging.Filterer, kind: type[logging.Filter]) -> None:
    if not any(isinstance(each, kind) for each in place.filters):
        place.addFilter(kind())
