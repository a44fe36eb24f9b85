"""Make docs/benchmarks.md of the results and benchmarks/page.md, which holds the prose.

    python benchmarks/page.py            write the page
    python benchmarks/page.py --check    list what is wrong: results, commands, the page

The check parses each command of the results and of the documentation by the parser of its script.
"""

import argparse
import contextlib
import io
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from pydantic import ValidationError
from results import CONDITION, FOLDER, ROOT, Hardware, Result, read_results

TEMPLATE = ROOT / "benchmarks" / "page.md"
PAGE = ROOT / "docs" / "benchmarks.md"
COLUMNS = ["Benchmark", "Value", "Peer", "Ratio", "Rounds", "Target", "Machine", "Date", "Command"]
NONE = "–"
SIGNS = {">=": "≥", "<=": "≤"}
SCRIPT = re.compile(r"benchmarks/\w+\.py[^`\n]*")
VARIABLE = re.compile(r"[A-Z_]+=\S*")


def number(value: float) -> str:
    """Return a number with at most four digits, or all before the point."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.2g}" if abs(value) < 0.001 else f"{value:.4g}"


class Page:
    """What the template calls; it notes which results it has shown."""

    def __init__(self, results: dict[str, Result]) -> None:
        self.results, self.shown = results, list[str]()
        machines = dict.fromkeys(map(_machine, results.values()))
        self._letters = {machine: chr(ord("A") + i) for i, machine in enumerate(machines)}

    def render(self, template: str) -> str:
        """Return the page's text; end the program if it does not show each result once."""
        environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
        called = {"table": self.table, "peers": self.peers, "machines": self.machines}
        text = environment.from_string(template).render(called)
        unequal = {name for name in self.results if self.shown.count(name) != 1}
        if unequal:
            raise SystemExit(f"{TEMPLATE}: show each of these results once: {sorted(unequal)}")
        return text

    def table(self, *names: str) -> str:
        """Return the table of some results."""
        rows, before = [], None
        for name in names:
            if name not in self.results:
                raise SystemExit(f"{TEMPLATE}: there is no result {name}")
            result = self.results[name]
            self.shown.append(name)
            rows.append([*self._cells(result), _command_cell(result.command, before)])
            before = result.command
        return _table(COLUMNS, rows)

    def _cells(self, result: Result) -> list[str]:
        threads = result.hardware.threads
        alone = ", 1 thread" if threads == 1 else ""
        return [
            result.description,
            NONE if result.value is None else f"{number(result.value)} {result.unit}".rstrip(),
            _peer_cell(result),
            NONE if result.ratio is None else f"{result.ratio:.2f} ×",
            _spread_cell(result),
            _target_cell(result),
            self._letters[_machine(result)] + alone,
            f"{result.date}",
        ]

    def peers(self) -> str:
        """Return a table of the baselines, which of them are strong, and why."""
        peers = {r.peer.name: r.peer for r in self.results.values() if r.peer}
        for result in self.results.values():
            assert result.peer is None or result.peer == peers[result.peer.name], result.name
        rows = [[peer.name, peer.strength, peer.reason] for _, peer in sorted(peers.items())]
        return _table(["Peer", "Baseline", "Reason"], rows)

    def machines(self) -> str:
        """Return a table of the machines."""
        rows = [
            [letter, machine.cpu or "not recorded", f"{machine.cores}", machine.gpu or "none",
             f"Python {machine.python}, torch {machine.torch}"]
            for machine, letter in self._letters.items()
        ]  # fmt: skip
        return _table(["Machine", "Processor", "Cores", "GPU", "Versions"], rows)


def _machine(result: Result) -> Hardware:
    return result.hardware.model_copy(update={"threads": None})


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| --- ", "|---")


def _peer_cell(result: Result) -> str:
    if result.peer is None:
        return NONE
    value = "" if result.peer_value is None else f": {number(result.peer_value)}"
    return f"{result.peer.name} ({result.peer.strength}){value}"


def _spread_cell(result: Result) -> str:
    if result.interval:
        low, high = sorted(result.interval)
        return f"{number(low)} to {number(high)} (95 %)"
    if not result.spread:
        return NONE
    low, high = min(result.spread), max(result.spread)
    if result.ratio is not None:
        return f"{low:.2f} to {high:.2f} ({len(result.spread)})"
    return f"{number(low)} to {number(high)} ({len(result.spread)})"


def _target_cell(result: Result) -> str:
    parts = []
    for kind, sign, bound in re.findall(CONDITION, result.target or ""):
        limit = "the peer" if bound == "peer" else number(float(bound))
        unit = "×" if kind == "ratio" else result.unit if len(result.unit) <= 3 else ""
        parts.append(f"{SIGNS[sign]} {limit} {unit if bound != 'peer' else ''}".rstrip())
    state = ", not measured yet" if result.value is result.ratio is None else ""
    return (", ".join(parts) or NONE) + (", **missed**" if result.missed() else state)


def _command_cell(command: str | None, before: str | None) -> str:
    if command is None:
        return "by hand, see below"
    return "same" if command == before else f"`{command}`"


def problems(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the results of a folder, the page and the documented commands."""
    try:
        results = read_results(folder)
    except ValidationError as error:
        yield f"{folder}: {error}"
        return
    for name, result in results.items():
        if result.name != name:
            yield f"{name}: has another name"
        if (folder / f"{name}.json").read_text("utf-8") != result.to_json():
            yield f"{name}: keys are not sorted; write it by Result.to_json"
        yield from (f"{name}: {problem}" for problem in command_problems(result.command or ""))
    if Page(results).render(TEMPLATE.read_text("utf-8")) != PAGE.read_text("utf-8"):
        yield f"{PAGE}: differs from the results; run python benchmarks/page.py"
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = path.read_text("utf-8").replace("\\\n", "")
        for command in sorted({*SCRIPT.findall(text)}):
            found = command_problems(f"python {command}", names_alone=True)
            yield from (f"{path.name}: {problem}" for problem in found)


def command_problems(command: str, *, names_alone: bool = False) -> Iterator[str]:
    """Yield why a command cannot be run: no such script, file, target, or argument."""
    for part in filter(None, re.split(r"\s*;\s*", command)):
        words = shlex.split(part)
        while words and (words[0] == "time" or VARIABLE.fullmatch(words[0])):
            words.pop(0)
        missing = [w for w in words if w.startswith(("configs/", "benchmarks/", ".ci/"))
                   and not (ROOT / w).exists()]  # fmt: skip
        if missing:
            yield f"{part}: no file {missing}"
            continue
        output = io.StringIO()
        try:
            with contextlib.redirect_stderr(output):
                _parse(words)
        except (SystemExit, ValueError, LookupError) as error:
            reason = output.getvalue().strip().splitlines()[-1:] or [str(error)]
            # Pages name a script without arguments where they only mention it.
            if not (names_alone and "are required" in reason[0]):
                yield f"{part}: {reason[0]}"


def _parse(words: Sequence[str]) -> None:
    """Parse a command's arguments; raise SystemExit or ValueError if they are not accepted."""
    match words:
        case ["python", script, *arguments] if script.startswith("benchmarks/"):
            known, flags = _parser_of(script).parse_known_args(arguments)
            if flags and "config" not in known:
                raise ValueError(f"unknown arguments {flags}")
            if flags:  # those of its config
                from quality import config_of

                config_of(shlex.join([known.config, *flags]))
        case ["aigc-ops", *arguments]:
            from aigc_ops.cli.parser import parser

            parser().parse_known_args(arguments)
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text()
            if any(f"\n{target}:" not in makefile for target in targets):
                raise ValueError(f"no such target: {targets}")
        case ["python", "-m", "pytest", *_] | ["python", "-c", _] | ["bash", _]:
            pass
        case _:
            raise ValueError("not a known command")


def _parser_of(script: str) -> argparse.ArgumentParser:
    module: Any = import_module(Path(script).stem)
    parser: argparse.ArgumentParser = module.build_parser()
    return parser


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if anything is wrong")
    parser.add_argument("--results", type=Path, metavar="FOLDER", default=FOLDER)
    return parser


def main() -> int:
    """Write the page or check it; return the exit code."""
    given = build_parser().parse_args()
    if given.check:
        found = [*problems(given.results)]
        print("\n".join(found))
        return 1 if found else 0
    template = TEMPLATE.read_text("utf-8")
    PAGE.write_text(Page(read_results(given.results)).render(template), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
