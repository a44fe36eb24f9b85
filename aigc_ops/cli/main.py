"""The command line: parse the arguments, run one command, report its answer or its error."""

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
from aigc_ops.core.extras import install_advice
from aigc_ops.core.import_path import isolate
from aigc_ops.core.state_dir import export_environment, full_disk_message, home, is_first_process


@dataclass
class Outcome:
    """The exit code of a command, which `_reported` sets after an error."""

    code: int = 0
    """Exit code: 0, 1 for a stage's failure, 2 for wrong usage, 130 after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = _joined(sys.argv[1:] if argv is None else argv)
    try:
        arguments, flags = parser().parse_known_args(words)
    except ConfigError as error:
        # Parsing has failed, so --json is looked up in the words themselves.
        unread = argparse.Namespace(command=(*words, "COMMAND")[0], json="--json" in words)
        _report(unread, error, str(error), sys.stdout)
        return 2
    with _claim_standard_output() as output, _reported(arguments, output) as outcome:
        _check_words([*vars(arguments).values(), *flags])
        # A new project gets its state directory later, not the folder in which it is created.
        if arguments.command != "init":
            _make_home()
        isolate()
        # Imported last: libraries read their settings from the environment when imported.
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
    """Print a command's answer as text, or as JSON with --json."""
    if arguments.command == "train" and not is_first_process():
        return  # rank 0 prints for all processes of the group
    if arguments.json:
        print(json.dumps(answer, ensure_ascii=False), file=output)
    elif lines:
        print("\n".join(lines), file=output)


@contextmanager
def _reported(arguments: argparse.Namespace, output: TextIO) -> Iterator[Outcome]:
    """Print an error that the body raises, with what to do next, and set the exit code.

    Only an unexpected error is printed with a traceback.
    """
    outcome = Outcome()
    try:
        yield outcome
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe. Python would report it once more when
        # it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
    except KeyboardInterrupt as stop:
        _report(arguments, stop, f"stopped{_resume_hint(arguments)}", output)
        outcome.code = 130  # as shells report SIGINT: 128 + 2
    except AigcOpsError as error:
        _report(arguments, error, str(error), output)
        outcome.code = 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        _report(arguments, error, f"{error}; {_remedy(error)}", output)
        outcome.code = 1
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and (advice := install_advice(error)):
            _report(arguments, error, advice, output)
            outcome.code = 2
            return
        # A bug: its report needs the traceback.
        # Libraries raise many kinds of errors on a full disk, so that is checked first.
        traceback.print_exc()
        hint = full_disk_message(home()) or "please report it"
        _report(arguments, error, f"failed unexpectedly: {error!r}; {hint}", output)
        outcome.code = 1


def _report(
    arguments: argparse.Namespace, error: BaseException, message: str, output: TextIO
) -> None:
    """Print an error on standard error, and as JSON on standard output with --json."""
    if arguments.json:
        print(json.dumps({"error": message, "kind": type(error).__name__}), file=output)
    # Messages quote file names and arguments, which may hold terminal escape sequences.
    shown = "\n".join(map(printable, message.split("\n")))
    print(f"aigc-ops {arguments.command}: {shown}", file=sys.stderr)


def _check_words(words: Iterable[object]) -> None:
    """Raise ConfigError for an argument that is not UTF-8, which cannot be printed or stored."""
    # Python decodes such bytes to surrogates, which are not printable: a quick check first.
    for word in words:
        if isinstance(word, str) and not word.isprintable():
            try:
                word.encode()
            except UnicodeEncodeError as error:
                raise ConfigError(f"{word!a} is not UTF-8") from error


def _make_home() -> None:
    """Create the state directory; raises ConfigError for a path that cannot be used."""
    # The path becomes part of the URLs of SQLite databases, where these characters have a meaning.
    if unfit := next((mark for mark in "?#%" if mark in str(home())), None):
        raise ConfigError(f"AIGC_OPS_HOME ({home()}) contains {unfit!r}; choose a path without it")
    try:
        export_environment()
    except OSError as error:
        raise ConfigError(f"cannot create AIGC_OPS_HOME: {error}") from error


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"free space on the disk of AIGC_OPS_HOME ({home()}), or set it to a larger disk"
    return "check the path and its permissions"


def _resume_hint(arguments: argparse.Namespace) -> str:
    """Return what the same command would do next, as the end of a message."""
    # A run with --force trains in a new folder each time, so it never resumes.
    if getattr(arguments, "force", False):
        return "; with --force the same command starts over"
    if arguments.command not in CONFIG_COMMANDS:
        return ""
    return "; repeat the command to resume: training continues from its last checkpoint"


def _joined(argv: Sequence[str]) -> list[str]:
    """Return the arguments with config flags as `--name=value`."""
    # argparse does not know the config's flags yet: it would take `500` in `--training.steps 500`
    # for the positional argument CONFIG.
    if not argv or argv[0] not in (*CONFIG_COMMANDS, *MODEL_COMMANDS):
        return list(argv)
    joined, rest = [argv[0]], list(argv[1:])
    while rest:
        word = rest.pop(0)
        takes_value = word.startswith("--") and "=" not in word and word not in SWITCHES
        joined.append(f"{word}={rest.pop(0)}" if takes_value and rest else word)
    return joined


def _claim_standard_output() -> TextIO:
    """Return a copy of standard output for the answer; redirect all other output to stderr."""
    # Libraries and child processes print to standard output, which would break `--json`.
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    return answer
