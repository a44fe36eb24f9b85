"""Python's UTF-8 mode for this process and its child processes, whatever the locale."""

import locale
import os
import sys

VARIABLE = "PYTHONUTF8"


def ensure_utf8() -> None:
    """Start this process again in UTF-8 mode if the locale has another encoding.

    Names of files, configs, logs and data are UTF-8. A locale such as zh_CN.GB18030 or
    en_US.ISO-8859-1 would read and write them in its own encoding.
    """
    os.environ[VARIABLE] = "1"
    # Python's own codec names are in lower case; the locale's may be "UTF-8".
    if sys.flags.utf8_mode or locale.getencoding().lower() == "utf-8":
        return
    # The arguments are encoded again as they were decoded, so their bytes are the same.
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
