"""The entry point of `aigc-ops` and `python -m aigc_ops`."""

if __name__ == "__main__":
    # Before other imports: `python -m` has put the working folder first on the import path.
    from aigc_ops.core.import_path import drop_working_folder

    drop_working_folder()

import atexit
import os
import sys
import threading
from typing import NoReturn

from aigc_ops.cli.main import main
from aigc_ops.core.utf8 import ensure_utf8
from aigc_ops.core.workarounds import is_used


def entry() -> NoReturn:
    """Run a command, then exit without the interpreter's slow shutdown (`fast-exit`)."""
    ensure_utf8()
    code = main()
    if not is_used("fast-exit"):
        sys.exit(code)
    # As the interpreter does: wait for threads, run exit handlers, flush; then skip the rest.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
