"""The command line: `aigc-ops COMMAND --help` tells what each stage takes."""

if __name__ == "__main__":
    from aigc_ops.import_path import drop_working_folder

    drop_working_folder()

import argparse
import atexit
import errno
import json
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Sequence
from typing import NoReturn, TextIO

from aigc_ops.errors import AigcOpsError, ConfigError
from aigc_ops.home import export_environment, full_disk, home
from aigc_ops.import_path import isolate
from aigc_ops.parsers import CONFIG_COMMANDS, MODEL_COMMANDS, SWITCHES, parser
from aigc_ops.plain import printable


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
    words = _joined(sys.argv[1:] if argv is None else argv)
    try:
        arguments, flags = parser().parse_known_args(words)
    except ConfigError as error:
        unread = argparse.Namespace(command=(*words, "COMMAND")[0], json="--json" in words)
        _tell(unread, error, str(error), sys.stdout)
        return 2
    with _claim_standard_output() as answer:
        return _executed(arguments, flags, answer)


def _executed(arguments: argparse.Namespace, flags: Sequence[str], answer: TextIO) -> int:
    try:
        _check_words([*vars(arguments).values(), *flags])
        _make_home()
        isolate()
        from aigc_ops import commands

        return commands.execute(arguments, flags, answer)
    except BrokenPipeError:  # whoever read the answer has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), answer.fileno())
        return 0
    except KeyboardInterrupt as stop:
        _tell(arguments, stop, f"stopped{_what_follows(arguments)}", answer)
        return 130
    except AigcOpsError as error:
        _tell(arguments, error, str(error), answer)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        _tell(arguments, error, f"{error}; {_remedy(error)}", answer)
        return 1
    except Exception as error:  # nobody foresaw it: the traceback is for a report
        traceback.print_exc()
        told = full_disk(home()) or "please report it"
        _tell(arguments, error, f"failed unexpectedly: {error!r}; {told}", answer)
        return 1


def _tell(arguments: argparse.Namespace, error: BaseException, told: str, answer: TextIO) -> None:
    """What went wrong, to a person and as JSON where asked."""
    if arguments.json:
        print(json.dumps({"error": told, "kind": type(error).__name__}), file=answer)
    shown = "\n".join(map(printable, told.split("\n")))
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


if __name__ == "__main__":
    entry()
