"""Validation in a process of its own, which imports Great Expectations ahead of time.

That import takes seconds. A command that will validate later starts it first, so that it
runs beside the command's other imports instead of after them.
"""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from aigc_ops.core.artifacts import DatasetRef, ValidationReport
from aigc_ops.data.config import DataConfig
from aigc_ops.data.validation import suite
from aigc_ops.data.validation.config import ValidationConfig

_pool: ProcessPoolExecutor | None = None


def start() -> None:
    """Begin the import in a child process, which ends with this one."""
    global _pool
    spawn = multiprocessing.get_context("spawn")
    _pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_end_with_parent)
    # Ctrl-C reaches the child too, which inherits that it is left to the parent.
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
    _pool.submit(_import)
    signal.signal(signal.SIGINT, interrupted)


def validate(
    ref: DatasetRef,
    data_config: DataConfig,
    validation_config: ValidationConfig,
    *,
    folder: Path,
) -> ValidationReport:
    """What `suite.validate` returns; from the child, once, if one was started."""
    global _pool
    pool, _pool = _pool, None
    arguments = (ref, data_config, validation_config)
    if pool is not None:
        try:
            return pool.submit(suite.validate, *arguments, folder=folder).result()
        except BrokenProcessPool:
            pass  # killed from outside: do its work here
        except KeyboardInterrupt:  # which the child ignores, and the end would wait for it
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(wait=False)
    return suite.validate(*arguments, folder=folder)


def _end_with_parent() -> None:
    """End at once when the parent is gone, however it went."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _import() -> None:
    import great_expectations  # noqa: F401 - for its time, not its names

    from aigc_ops.data.validation import manifest  # noqa: F401
