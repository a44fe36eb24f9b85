"""Cache folders whose content a library executes: private to this user, else refused.

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

MODE = 0o700  # even listing the folder needs the user's own rights


def claim(variable: str) -> Path:
    """Create a library's private folder if needed, set its variable, and return the folder.

    Raises ConfigError unless the folder belongs to this user and has mode 700.
    """
    folder = private_folder(variable)
    is_new = False
    # mkdir fails for any existing entry, also for a link, so nobody can prepare the folder
    # between a check and its creation. The check follows for both a new and an old folder.
    with suppress(FileExistsError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=MODE)
        is_new = True
    if problem := fault(folder):
        raise ConfigError(f"{folder}: {problem}; {remedy(folder, is_new=is_new)}")
    # Overrides a value that the user has set: only this folder was checked.
    os.environ[variable] = str(folder)
    return folder


def private_folder(variable: str) -> Path:
    """Return the folder in the state directory that the environment variable names."""
    return home() / PRIVATE_FOLDERS[variable]


def fault(folder: Path) -> str | None:
    """Return why the content of a folder cannot be trusted; None if it is private."""
    # lstat, not stat: the owner of a link could point it elsewhere after this check.
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return "is a link or a file, not a folder"
    if status.st_uid != os.geteuid():
        return f"belongs to {_user(status.st_uid)}, not to {_user(os.geteuid())}"
    if stat.S_IMODE(status.st_mode) & 0o777 != MODE:
        return f"has mode {stat.S_IMODE(status.st_mode):o} instead of {MODE:o}"
    return None


def remedy(folder: Path, *, is_new: bool = False) -> str:
    """Return what to do about a private folder that cannot be trusted."""
    why = "files that others put there would run as your code"
    # A new folder with a wrong mode: FAT and some network mounts ignore it.
    if is_new:
        return (
            f"{why}, and this file system keeps no permissions; set AIGC_OPS_HOME to a folder on "
            "one that does"
        )
    return (
        f"{why}; remove the folder (rm -r {shlex.quote(str(folder))}) or ask its owner to, and "
        "it is created again; or set AIGC_OPS_HOME to a folder of your own"
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
