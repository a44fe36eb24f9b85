"""Workarounds that use internals of other libraries, each with its reason and a switch.

`AIGC_OPS_WITHOUT=fast-exit,packed-linear` disables some. Results are the same without them, only
slower. A test fails for a library that is newer than the version a workaround was tested with.
"""

import os
from dataclasses import dataclass
from functools import cache

from aigc_ops.core.errors import ConfigError

VARIABLE = "AIGC_OPS_WITHOUT"


@dataclass(frozen=True)
class Workaround:
    """A use of a library's internals, or a setting of the whole process."""

    reason: str
    library: str
    """The library, or "python"."""
    tried_below: str
    """First version that it was not tested with: check then whether it is still needed."""


WORKAROUNDS = {
    "fast-exit": Workaround(
        "Shutting the interpreter down takes three seconds with torch, MLflow and Prefect loaded. "
        "The process ends at once after its threads and exit handlers (`threading._shutdown`, "
        "`atexit._run_exitfuncs`).",
        "python",
        "3.13",
    ),
    "packed-linear": Workaround(
        "oneDNN packs a weight again for every product (`torch.ops.mkldnn`). Packing it once makes "
        "generation on the CPU faster. torch has no public function for single layers.",
        "torch",
        "2.15",
    ),
    "malloc": Workaround(
        "glibc returns large buffers to the kernel at once and requests them again in every "
        "step. `mallopt` keeps them, which saves a tenth of a small network's step.",
        "torch",
        "2.15",
    ),
    "dvc-hashing": Workaround(
        "Importing DVC takes a second, so data is compared with its pin by an MD5 computed as DVC "
        "computes it. DVC itself is called only if the two differ.",
        "dvc",
        "4",
    ),
}


@cache
def disabled_workarounds() -> frozenset[str]:
    """Return the names in `AIGC_OPS_WITHOUT`; raises ConfigError for an unknown one."""
    # Cached, so that a workaround cannot be switched in the middle of a run.
    names = frozenset(filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))))
    if unknown := sorted(names - WORKAROUNDS.keys()):
        raise ConfigError(
            f"{VARIABLE}: unknown workaround {unknown[0]!r}; choose from {', '.join(WORKAROUNDS)}"
        )
    return names


def is_used(name: str) -> bool:
    """Return whether a workaround is in use."""
    assert name in WORKAROUNDS, name
    return name not in disabled_workarounds()
