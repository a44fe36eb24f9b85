"""What a run's log shows of a fault that its user can act on: the message alone."""

import logging

from aigc_ops.errors import AigcOpsError


class WithoutTraceback(logging.Filter):
    """Drops the traceback of an AigcOpsError; a bug keeps its own."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], AigcOpsError):
            record.exc_info = record.exc_text = None
        return True


def show_messages_alone() -> None:
    """Filter the loggers of flow and task runs; calling it again changes nothing."""
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logger = logging.getLogger(name)
        if not any(isinstance(each, WithoutTraceback) for each in logger.filters):
            logger.addFilter(WithoutTraceback())
