"""The command line: it parses words, runs one command and reports its answer or its error."""

import argparse
import errno
import json
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from aigc_ops.cli.parser import CONFIG_COMMANDS, MODEL_COMMANDS, SWITCHES, parser
from aigc_ops.core.errors import AigcOpsError, ConfigError
from aigc_ops.core.escaping import printable
from aigc_ops.core.import_path import isolate
from aigc_ops.core.state_dir import export_environment, full_disk, home, is_first_process


@dataclass
class Outcome:
    """How a command ended."""

    code: int = 0
    """Exit code: 0, 1 for a stage's failure, 2 for wrong usage, 130 after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = _joined(sys.argv[1:] if argv is None else argv)
    try:
        arguments, flags = parser().parse_known_args(words)
    except ConfigError as error:
        unread = argparse.Namespace(command=(*words, "COMMAND")[0], json="--json" in words)
        _report(unread, error, str(error), sys.stdout)
        return 2
    with _claim_standard_output() as output, _reported(arguments, output) as outcome:
        _check_words([*vars(arguments).values(), *flags])
        _make_home()
        isolate()
        from aigc_ops.cli import pipeline_commands as commands

        if getattr(arguments, "help", False):
            commands.print_help(arguments, output)
        else:
            commands.require_usage(arguments, flags)
            arguments.output = output
            answer, lines = commands.COMMANDS[arguments.command](arguments, flags)
            _print_answer(arguments, answer, lines, output)
            outcome.code = 1 if answer.get("failed") else 0
    return outcome.code


def _print_answer(
    arguments: argparse.Namespace, answer: Mapping[str, Any], lines: Sequence[str], output: TextIO
) -> None:
    """Print a command's answer, as JSON when asked for."""
    if arguments.command == "train" and not is_first_process():
        return  # of several processes that train together, the first answers
    if arguments.json:
        print(json.dumps(answer, ensure_ascii=False), file=output)
    elif lines:
        print("\n".join(lines), file=output)


@contextmanager
def _reported(arguments: argparse.Namespace, output: TextIO) -> Iterator[Outcome]:
    """Report an error in words that say what to do next; only one that nobody foresaw has a trace.

    The outcome's code is the command's exit code.
    """
    outcome = Outcome()
    try:
        yield outcome
    except BrokenPipeError:  # whoever read the answer has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
    except KeyboardInterrupt as stop:
        _report(arguments, stop, f"stopped{_what_follows(arguments)}", output)
        outcome.code = 130
    except AigcOpsError as error:
        _report(arguments, error, str(error), output)
        outcome.code = 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        _report(arguments, error, f"{error}; {_remedy(error)}", output)
        outcome.code = 1
    except Exception as error:  # nobody foresaw it: the traceback is for a report
        traceback.print_exc()
        hint = full_disk(home()) or "please report it"
        _report(arguments, error, f"failed unexpectedly: {error!r}; {hint}", output)
        outcome.code = 1


def _report(
    arguments: argparse.Namespace, error: BaseException, message: str, output: TextIO
) -> None:
    """Print what went wrong for a person, and as JSON where asked."""
    if arguments.json:
        print(json.dumps({"error": message, "kind": type(error).__name__}), file=output)
    shown = "\n".join(map(printable, message.split("\n")))
    print(f"aigc-ops {arguments.command}: {shown}", file=sys.stderr)


def _check_words(words: Iterable[object]) -> None:
    """Raise ConfigError for a word that is not UTF-8, which nothing could print or store."""
    for word in words:
        if isinstance(word, str) and not word.isprintable():
            try:
                word.encode()
            except UnicodeEncodeError as error:
                raise ConfigError(f"{word!a} is not UTF-8") from error


def _make_home() -> None:
    """Make the home; raises ConfigError for one that cannot be, or be part of an address."""
    if unfit := next((mark for mark in "?#%" if mark in str(home())), None):
        raise ConfigError(f"AIGC_OPS_HOME ({home()}) holds {unfit!r}; choose a path without it")
    try:
        export_environment()
    except OSError as error:
        raise ConfigError(f"AIGC_OPS_HOME is no folder that can be made: {error}") from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"free space where AIGC_OPS_HOME lies ({home()}), or point it at a larger disk"
    return "mend the path or its permissions"


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
