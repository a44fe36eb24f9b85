"""The command line: `aigc-ops COMMAND --help` tells what each stage takes."""

import argparse
import atexit
import json
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn, TextIO

from aigc_ops.errors import AigcOpsError, ConfigError
from aigc_ops.home import export_environment
from aigc_ops.parsers import CONFIG_COMMANDS, MODEL_COMMANDS, SWITCHES, parser


def entry() -> NoReturn:
    """The `aigc-ops` program: runs a command, then leaves at once.

    Taking the interpreter apart under torch, MLflow and Prefect costs three seconds and
    changes nothing: threads have been joined and exit handlers have run by then.
    """
    code = main()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stderr.flush()
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for a stage's failure, 2 for wrong usage."""
    arguments, flags = parser().parse_known_args(_joined(sys.argv[1:] if argv is None else argv))
    answer = _claim_standard_output()
    try:
        _make_home()
        from aigc_ops import commands

        return commands.execute(arguments, flags, answer)
    except AigcOpsError as error:
        if arguments.json:
            print(json.dumps({"error": str(error), "kind": type(error).__name__}), file=answer)
        print(f"aigc-ops {arguments.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except BrokenPipeError:  # whoever read the answer has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), answer.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"stopped{_what_follows(arguments)}", file=sys.stderr)
        return 130


def _make_home() -> None:
    try:
        export_environment()
    except OSError as error:
        raise ConfigError(f"AIGC_OPS_HOME is no folder that can be made: {error}") from error


def _what_follows(arguments: argparse.Namespace) -> str:
    """What the same command does next, where it had come some way."""
    if getattr(arguments, "force", False):
        return "; with --force the same command starts over"
    return "; the same command again continues from here" * (arguments.command in CONFIG_COMMANDS)


def _joined(argv: Sequence[str]) -> list[str]:
    """Config flags as `--name=value`, so that a value is never taken for CONFIG."""
    if not argv or argv[0] not in (*CONFIG_COMMANDS, *MODEL_COMMANDS):
        return list(argv)
    joined, rest = [argv[0]], list(argv[1:])
    while rest:
        word = rest.pop(0)
        takes_value = word.startswith("--") and "=" not in word and word not in SWITCHES
        joined.append(f"{word}={rest.pop(0)}" if takes_value and rest else word)
    return joined


def _claim_standard_output() -> TextIO:
    """Standard output for the answer alone; whatever else prints goes to standard error."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return answer


if __name__ == "__main__":
    entry()
