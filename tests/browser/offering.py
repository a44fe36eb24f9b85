"""`python -m flows` beside a Prefect server that still starts: run by its path, not imported.

What it imports at length is there by the time the server answers. Web hooks on its command line
are each named to the server first, in that order.
"""

import os
import runpy
import sys
import time
from pathlib import Path
from urllib.request import urlopen


def wait_for(url: str, *, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.3)


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])  # as `python -m` in the checkout has it
    import pandas  # noqa: F401
    import torch  # noqa: F401

    hooks = sys.argv[1:]
    wait_for(os.environ["PREFECT_API_URL"] + "/health")
    for sys.argv[1:] in (*(["--notify", hook] for hook in hooks), []):
        runpy.run_module("flows", run_name="__main__")
