"""Results of the benchmarks: one JSON file each, and the arguments that record them.

A file in `benchmarks/results` has a description, a unit, a peer and a target, which people write,
and the measured fields, which a benchmark replaces when it is run with `--results FOLDER`.
`benchmarks/page.py` makes docs/benchmarks.md of the files.
"""

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from datetime import date as Date  # noqa: N812 - a field is named date
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "results"
CODE = ("aigc_ops", "benchmarks/*.py", "benchmarks/peer", "configs", "flows")
CONDITION = r"(value|ratio) (>=|<=) (peer|[\d.]+)"
CHANGED = " with changes"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Record(BaseModel):
    """An immutable record without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Peer(Record):
    """The other side of a comparison."""

    name: str
    strength: Literal["strong", "weak"]
    reason: str


class Hardware(Record):
    """The machine of a measurement; None where it was not recorded."""

    cpu: str | None
    cores: int
    threads: int | None
    gpu: str | None
    python: str
    torch: str


class Result(Record):
    """A figure of a benchmark with everything needed to judge and repeat it."""

    name: str = Field(pattern=r"[a-z0-9-]+")
    description: str = Field(max_length=80)
    unit: str = Field(max_length=30)
    value: float | None
    """The median, unless the benchmark says otherwise; None if only the ratio was recorded."""
    peer: Peer | None = None
    peer_value: float | None = None
    ratio: float | None = None
    """How many times as fast as the peer, for speeds; else value / peer value."""
    spread: tuple[float, ...] = ()
    """Single rounds or seeds: of the ratio if there is one, else of the value."""
    peer_spread: tuple[float, ...] = ()
    interval: tuple[float, float] | None = None
    """The 95 % interval of the value."""
    target: str | None = Field(default=None, pattern=rf"^{CONDITION}(, {CONDITION})*$")
    date: Date
    hardware: Hardware
    command: str | None
    """The command as typed, without paths of the machine; None for measurements by hand."""
    commit: str | None
    """The commit of the code; None where it was not recorded."""

    def missed(self) -> bool:
        """Return whether a condition of the target is not met; False for what is not measured."""
        if self.value is self.ratio is None:
            return False
        return any(not self._is_met(*found) for found in re.findall(CONDITION, self.target or ""))

    def _is_met(self, kind: str, sign: str, bound: str) -> bool:
        value = self.value if kind == "value" else self.ratio
        limit = self.peer_value if bound == "peer" else float(bound)
        assert value is not None, (self.name, kind)
        assert limit is not None, (self.name, bound)
        return value >= limit if sign == ">=" else value <= limit

    def to_json(self) -> str:
        """Return the text of the result's file."""
        values = self.model_dump(mode="json")
        return json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_results(folder: Path = FOLDER) -> dict[str, Result]:
    """Return all results of a folder by name."""
    paths = sorted(folder.glob("*.json"))
    return {path.stem: Result.model_validate_json(path.read_text("utf-8")) for path in paths}


@dataclass(frozen=True)
class Recorder:
    """Writes measured values into the results of a folder; without a folder it does nothing."""

    folder: Path | None
    label: str
    command: str

    def __call__(
        self,
        name: str,
        values: Sequence[float],
        peer_values: Sequence[float] = (),
        *,
        ratios: Sequence[float] = (),
        interval: tuple[float, float] | None = None,
        average: Callable[[Sequence[float]], float] = statistics.median,
    ) -> None:
        """Replace the measured fields of a result: averages of rounds or seeds, and these."""
        if self.folder is None:
            return
        labelled = f"{name}-{self.label}" if self.label else name
        path = self.folder / f"{labelled}.json"
        source = path if path.exists() else self.folder / f"{name}.json"
        if not source.exists():
            raise SystemExit(f"{path} is missing: write its description, unit, peer and target")
        peer_spread = peer_values if not ratios and len(peer_values) > 1 else ()
        spread = ratios or values
        measured = {
            "name": labelled,
            "value": _rounded(average(values)),
            "peer_value": _rounded(average(peer_values)) if peer_values else None,
            "ratio": _rounded(average(ratios)) if ratios else None,
            "spread": [*map(_rounded, spread)] if len(spread) > 1 else [],
            "peer_spread": [*map(_rounded, peer_spread)],
            "interval": interval and [*map(_rounded, interval)],
            "date": datetime.now(UTC).date(),
            "hardware": _hardware(),
            "command": self.command,
            "commit": _commit(),
        }
        static = Result.model_validate_json(source.read_text("utf-8")).model_dump()
        path.write_text(Result.model_validate(static | measured).to_json(), "utf-8")
        print(f"written: {path}")


def benchmark_parser(
    description: str | None, parts: Collection[str] = ()
) -> argparse.ArgumentParser:
    """Return a parser with the arguments that every benchmark has, and the parts that it runs."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if parts:
        # Python 3.11 compares the empty list of no parts with the choices, too.
        parser.add_argument("parts", nargs="*", metavar="PART", choices=[*parts, []])
    _add_recording(parser)
    return parser


def _add_recording(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("recording")
    group.add_argument(
        "--results", type=Path, metavar="FOLDER",
        help="replace the figures in this folder's JSON files, such as benchmarks/results",
    )  # fmt: skip
    group.add_argument(
        "--label", metavar="TEXT",
        help="end of the files' names, such as 8-epochs; default: gpu if there is one",
    )  # fmt: skip


def recorder(given: argparse.Namespace) -> Recorder:
    """Return what records the figures of a benchmark that was called with these arguments."""
    if given.results is None:
        return Recorder(None, "", "")
    label = given.label if given.label is not None else "gpu" if _gpu() else ""
    return Recorder(given.results, label, command_line(sys.argv))


def command_line(words: Sequence[str]) -> str:
    """Return a command as typed, but for absolute paths and the arguments that record it."""
    recording = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_recording(recording)
    _, others = recording.parse_known_args(words[1:])
    threads = [f"{name}={os.environ[name]}" for name in THREAD_VARIABLES if name in os.environ]
    script = f"benchmarks/{Path(words[0]).name}"
    return shlex.join([*threads, "python", script, *map(_without_path, others)])


def _without_path(word: str) -> str:
    flag, sign, value = word.rpartition("=")
    path = Path(value)
    if not path.is_absolute() and path.parts[:1] != ("..",):
        return word
    return flag + sign + ("FILE" if path.is_file() else "FOLDER")


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _hardware() -> Hardware:
    import torch

    names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return Hardware(
        cpu=names[0] if names else None,
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        gpu=_gpu(),
        python="{}.{}".format(*sys.version_info),
        torch=torch.__version__.partition("+")[0],
    )


def _commit() -> str | None:
    """Return the commit of the code, and whether the code differs from it; None without git."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", ROOT, *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    # Only code is compared: results that were recorded just before are changes, too.
    changed = CHANGED if git("status", "--porcelain", "--", *CODE) else ""
    return git("rev-parse", "HEAD")[:12] + changed or None
