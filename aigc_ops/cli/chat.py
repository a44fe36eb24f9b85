"""A conversation with a text model in the terminal."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, TextIO

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.discovery import find_modality
from aigc_ops.interfaces.model import Generative
from aigc_ops.interfaces.request import Message, SampleRequest

HELP = (
    "/reset clears the conversation, /seed N sets the seed, /quit ends the chat; to send a line "
    "that begins with /, begin it with //"
)


def chat(
    model: Generative[Any],
    lines: Iterator[str],
    output: TextIO,
    *,
    seed: int,
    system: str | None = None,
    controls: Mapping[str, float] | None = None,
    stop: Sequence[str] = (),
) -> list[Message]:
    """Stream an answer to each line; return the conversation since the last reset.

    Raises ModelError for a model that does not generate text.
    """
    if not model.can_stream:
        unit = find_modality(model.modality).unit
        raise ModelError(
            f"this model generates {unit}, not text; use aigc-ops sample, which writes them to a "
            "folder"
        )
    system_messages: tuple[Message, ...] = (Message("system", system),) if system else ()
    history = system_messages
    for line in lines:
        # 1. Commands to the chat itself.
        word, _, value = line.strip().partition(" ")
        if word == "/quit":
            break
        if word == "/reset":
            history = system_messages
            _print_note("conversation cleared")
        elif word == "/seed" and value.isdecimal():
            seed = int(value)
            _print_note(f"the next answer is generated with seed {seed}")
        # Any other command shows the help: a mistyped one must not be sent to the model.
        elif word.startswith("/") and not word.startswith("//"):
            _print_note(HELP)
        # 2. A prompt; empty lines are ignored.
        elif line.strip():
            prompt = line.rstrip("\n").replace("//", "/", 1 if word.startswith("//") else 0)
            conditions = {"prompt": prompt, "history": history or None, "stop": tuple(stop) or None}
            request = SampleRequest(seed, conditions, controls or {})
            answer = _answer(model, request, output)
            # 3. A refused or interrupted prompt leaves neither history nor seed changed. The n-th
            # answer uses seed + n, so that the same conversation gives the same answers.
            if answer is not None:
                seed += 1
                history += (Message("user", prompt), Message("assistant", answer))
    return list(history)


def _answer(model: Generative[Any], request: SampleRequest, output: TextIO) -> str | None:
    """Write the answer to `output` while it is generated; return None if refused or stopped."""
    pieces = []
    try:
        model.check(request)
        # Closed, so that after Ctrl-C the generator's clean-up runs before the next answer begins.
        with closing(model.stream(request)) as stream:
            for piece in stream:
                pieces.append(piece)
                output.write(piece)
                output.flush()
    except ModelError as error:
        _print_note(str(error))
        return None
    except KeyboardInterrupt:
        _print_note("\nstopped; this prompt is not part of the conversation")
        return None
    output.write("\n")
    output.flush()
    return "".join(pieces)


def _print_note(text: str) -> None:
    # To standard error: standard output holds the answers alone, for pipes.
    sys.stderr.write(f"{text}\n")


def typed_lines() -> Iterator[str]:
    """Yield lines from standard input, with a prompt at a terminal; lines not UTF-8 are skipped."""
    # Bytes, so that one line that is not UTF-8 does not end the others.
    if not sys.stdin.isatty():
        for number, line in enumerate(sys.stdin.buffer, start=1):
            try:
                yield line.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                _print_note(
                    f"line {number}: not UTF-8 ({error.reason} at byte {error.start}); skipped"
                )
        return
    import readline  # noqa: F401 - gives input() its history and editing

    _print_note(HELP)
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
        except UnicodeDecodeError as error:
            _print_note(f"not UTF-8 ({error.reason} at byte {error.start}); skipped")
        except KeyboardInterrupt:
            _print_note("\n/quit or Ctrl-D ends the chat")
