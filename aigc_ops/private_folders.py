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

from aigc_ops.errors import ConfigError
from aigc_ops.home import PRIVATE_FOLDERS, home

MODE = 0o700


def claim(variable: str) -> Path:
    """Return the private folder that a library reads from `variable`, made on first use.

    The variable is set to it, for this process and those that it starts. Raises ConfigError
    unless the folder belongs to this user and nobody else may enter it.
    """
    folder = private_folder(variable)
    is_new = False
    with suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=MODE)
        is_new = True
    if problem := fault(folder):
        raise ConfigError(f"{folder}: {problem}; {remedy(variable, is_new=is_new)}")
    os.environ[variable] = str(folder)
    return folder


def private_folder(variable: str) -> Path:
    """Return the folder that `variable` names, or the one in the home where it is unset."""
    return Path(os.environ.get(variable) or home() / PRIVATE_FOLDERS[variable]).absolute()


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


def remedy(variable: str, *, is_new: bool = False) -> str:
    """Return what to do about a folder that is at fault."""
    folder = private_folder(variable)
    why = "what others put there would run as code of yours"
    if is_new:
        return (
            f"{why}, and this file system keeps no permissions; point {variable} at a folder on "
            "one that does"
        )
    if folder != (home() / PRIVATE_FOLDERS[variable]).absolute():
        return f"{why}; unset {variable}, or name a folder of your own with mode {MODE:o}"
    return (
        f"{why}; remove it (rm -r {shlex.quote(str(folder))}), or have its owner do so, and it is "
        "made anew; or set AIGC_OPS_HOME to a folder of your own"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
