"""Validation in a child process, which imports Great Expectations ahead of time.

The import takes seconds. A command that will validate starts the child first, so that the import
runs in parallel with the command's other imports.
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
    """Start a child process that imports Great Expectations; it ends with this process."""
    global _pool
    # Not fork: a forked child inherits locks that other threads hold, and may deadlock.
    spawn = multiprocessing.get_context("spawn")
    _pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_end_with_parent)
    # Ctrl-C reaches the whole process group. The child must leave it to the parent, so SIGINT is
    # ignored while `submit` starts the child: a process inherits ignored signals.
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    _pool.submit(_import)
    signal.signal(signal.SIGINT, handler)


def validate(
    ref: DatasetRef,
    data_config: DataConfig,
    validation_config: ValidationConfig,
    *,
    folder: Path,
) -> ValidationReport:
    """Return the result of `suite.validate`, computed in the child if one was started."""
    global _pool
    # The child is used once; a second validation runs here.
    pool, _pool = _pool, None
    arguments = (ref, data_config, validation_config)
    if pool is not None:
        try:
            return pool.submit(suite.validate, *arguments, folder=folder).result()
        except BrokenProcessPool:
            pass  # the child was killed, for example for memory: validate here
        except KeyboardInterrupt:
            # The child ignores Ctrl-C, and the interpreter joins it at exit: without this the
            # command would wait for the end of the validation.
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(wait=False)
    return suite.validate(*arguments, folder=folder)


def _end_with_parent() -> None:
    """End this process when its parent is gone, even if it was killed."""
    # By a thread that joins the parent: the main thread is blocked in the pool's queue, and a
    # killed parent sends nothing through it.
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _import() -> None:
    import great_expectations  # noqa: F401 - for its time, not its names

    from aigc_ops.data.validation import manifest  # noqa: F401
