"""The command line: `aigc-ops COMMAND --help` tells what each stage takes."""

if __name__ == "__main__":
    from aigc_ops.core.import_path import drop_working_folder

    drop_working_folder()

import atexit
import os
import sys
import threading
from typing import NoReturn

from aigc_ops.cli.main import main
from aigc_ops.core.workarounds import is_used


def entry() -> NoReturn:
    """Run a command, then end the process at once (the workaround `fast-exit`)."""
    code = main()
    if not is_used("fast-exit"):
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
