"""Where the old home lies, and how its archive comes to lie there."""

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

ARCHIVE = Path(__file__).with_name("home.tar.xz")
FACTS = Path(__file__).with_name("facts.json")
PLACE = Path("/var/tmp/aigc-ops-old-home")
"""The one folder that the home's stores name: it is unpacked nowhere else."""
HOME = PLACE / "home"
LOCK = "lock"


@contextmanager
def held() -> Iterator[Path]:
    """Hold the place, so that no other process replaces what lies there; refuse a stranger's."""
    PLACE.mkdir(mode=0o700, exist_ok=True)
    state = PLACE.lstat()
    if not PLACE.is_dir() or PLACE.is_symlink() or state.st_uid != os.getuid():
        raise PermissionError(f"{PLACE} is not a folder of this user's own; remove it")
    with FileLock(PLACE / LOCK):
        yield PLACE


def emptied() -> None:
    """Remove all but the lock from the place, which the caller holds."""
    for path in PLACE.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


@contextmanager
def unpacked() -> Iterator[Path]:
    """The home as it was made, in a place that is held until the block ends."""
    with held():
        emptied()
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(PLACE, filter="data")
        try:
            yield HOME
        finally:
            emptied()
