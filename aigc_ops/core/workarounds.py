"""Workarounds that reach into other libraries, each with its reason and a switch.

`AIGC_OPS_WITHOUT=fast-exit,packed-linear` leaves some out. Results are the same without them, and
some things take longer. A test fails when a library is newer than a workaround was tried with.
"""

import os
from dataclasses import dataclass
from functools import cache

from aigc_ops.core.errors import ConfigError

VARIABLE = "AIGC_OPS_WITHOUT"


@dataclass(frozen=True)
class Workaround:
    """A use of what a library does not promise, or a setting of the whole process."""

    reason: str
    library: str
    """The library, or "python"."""
    tried_below: str
    """Version from which on it has to be tried again without."""


WORKAROUNDS = {
    "fast-exit": Workaround(
        "Taking the interpreter apart under torch, MLflow and Prefect takes three seconds: after "
        "threads and exit handlers (`threading._shutdown`, `atexit._run_exitfuncs`) the process "
        "ends at once.",
        "python",
        "3.13",
    ),
    "packed-linear": Workaround(
        "oneDNN lays a weight out anew for every product (`torch.ops.mkldnn`): laying it out once "
        "makes generation on the CPU faster. torch has no public way for single layers.",
        "torch",
        "2.15",
    ),
    "malloc": Workaround(
        "glibc gives large buffers back to the kernel at once and asks for them again in every "
        "step: `mallopt` keeps them, which is worth a tenth of a small network's step.",
        "torch",
        "2.15",
    ),
    "dvc-hashing": Workaround(
        "Importing DVC takes a second, so whether data is what is pinned is decided by MD5 as DVC "
        "computes it; DVC itself is asked where the two differ.",
        "dvc",
        "4",
    ),
}


@cache
def left_out() -> frozenset[str]:
    """Return the names in `AIGC_OPS_WITHOUT`; raises ConfigError for an unknown one."""
    names = frozenset(filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))))
    if unknown := sorted(names - WORKAROUNDS.keys()):
        raise ConfigError(f"{VARIABLE}: {unknown[0]!r} is none of {', '.join(WORKAROUNDS)}")
    return names


def is_used(name: str) -> bool:
    """Return whether a workaround is in use."""
    assert name in WORKAROUNDS, name
    return name not in left_out()
