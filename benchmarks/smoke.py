"""Seconds of the two-step smoke run, of its unchanged rerun, and of `--help`.

    python benchmarks/smoke.py [--rounds 3]

Each is a fresh process on one home whose databases an uncounted first run has made. Every
round trains with a seed of its own, so that nothing is reused but where it is meant to be.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from os import environ

from results import benchmark_parser, recorder

RESULTS = {
    "whole chain with a Bento": "smoke-bento",
    "unchanged rerun": "smoke-rerun",
    "whole chain without packaging": "smoke-no-bento",
    "--help": "help",
}


def seconds(home: str, *arguments: str) -> float:
    """Wall-clock seconds of one command."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "aigc_ops", *arguments],
        env={**environ, "AIGC_OPS_HOME": home},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begin


def build_parser() -> argparse.ArgumentParser:
    parser = benchmark_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    return parser


def main() -> None:
    """Print each round and the medians."""
    given = build_parser().parse_args()
    record, rounds = recorder(given), given.rounds
    figures: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as home:
        run: Sequence[str] = ("run", "configs/smoke.yaml")
        # Any better score is promoted, so that each round packages its own champion.
        print(f"first run, databases made: {seconds(home, *run):.1f} s")
        for seed in range(1, rounds + 1):
            promoted = (*run, "--seed", str(seed), "--name", f"smoke-{seed}")
            plain = (*run, "--seed", str(seed + 1000), "--packaging.enabled", "false")
            figures["whole chain with a Bento"].append(seconds(home, *promoted))
            figures["unchanged rerun"].append(seconds(home, *promoted))
            figures["whole chain without packaging"].append(seconds(home, *plain))
            figures["--help"].append(seconds(home, "--help"))
    for name, values in figures.items():
        shown = ", ".join(f"{value:.2f}" for value in values)
        print(f"{name}: median {statistics.median(values):.2f} s ({shown})")
        record(RESULTS[name], values)


if __name__ == "__main__":
    main()
