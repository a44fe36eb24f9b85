"""Cache folders whose content a library executes: usable by this user alone, or refused.

DVC unpickles the values of its site cache (CVE-2025-69872) and torch.compile loads pickles and
machine code from its cache. By default both are below /tmp or /var/tmp, where any user of the
machine could write them first.
"""

import os
import pwd
import shlex
import stat
from contextlib import suppress
from pathlib import Path

from aigc_ops.core.errors import ConfigError
from aigc_ops.core.state_dir import PRIVATE_FOLDERS, home

MODE = 0o700


def claim(variable: str) -> Path:
    """Point a library's variable at its private folder, made on first use; return the folder.

    The variable is set for this process and those that it starts, whatever it was: no other
    folder is trusted. Raises ConfigError unless this one belongs to this user and nobody else may
    enter it.
    """
    folder = private_folder(variable)
    is_new = False
    with suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=MODE)
        is_new = True
    if problem := fault(folder):
        raise ConfigError(f"{folder}: {problem}; {remedy(folder, is_new=is_new)}")
    os.environ[variable] = str(folder)
    return folder


def private_folder(variable: str) -> Path:
    """Return the folder of the home for which a library reads `variable`."""
    return home() / PRIVATE_FOLDERS[variable]


def fault(folder: Path) -> str | None:
    """Return why the content of a folder cannot be trusted; None when it is private."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return "is a link or a file, not a folder"
    if status.st_uid != os.geteuid():
        return f"belongs to {_user(status.st_uid)}, not to {_user(os.geteuid())}"
    if stat.S_IMODE(status.st_mode) & 0o777 != MODE:
        return f"has mode {stat.S_IMODE(status.st_mode):o} instead of {MODE:o}"
    return None


def remedy(folder: Path, *, is_new: bool = False) -> str:
    """Return what to do about a private folder that is at fault."""
    why = "what others put there would run as code of yours"
    if is_new:
        return (
            f"{why}, and this file system keeps no permissions; set AIGC_OPS_HOME to a folder on "
            "one that does"
        )
    return (
        f"{why}; remove it (rm -r {shlex.quote(str(folder))}), or have its owner do so, and it is "
        "made anew; or set AIGC_OPS_HOME to a folder of your own"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
