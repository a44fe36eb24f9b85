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
    "/reset forgets the conversation, /seed N sets the seed, /quit ends it; a line that begins "
    "with // is sent as one that begins with /"
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
    """Answer each line as it comes, piece by piece; the conversation since the last reset.

    The n-th answer since a seed was set is drawn with seed + n, so equal conversations are
    answered equally. An interrupt stops an answer, which is then forgotten with its line.
    """
    if not model.can_stream:
        unit = find_modality(model.modality).unit
        raise ModelError(f"this model draws {unit}; aigc-ops sample draws them into a folder")
    opening: tuple[Message, ...] = (Message("system", system),) if system else ()
    history = opening
    for line in lines:
        word, _, value = line.strip().partition(" ")
        if word == "/quit":
            break
        if word == "/reset":
            history = opening
            _tell("the conversation is forgotten")
        elif word == "/seed" and value.isdecimal():
            seed = int(value)
            _tell(f"the next answer is drawn with seed {seed}")
        elif word.startswith("/") and not word.startswith("//"):
            _tell(HELP)
        elif line.strip():
            said = line.rstrip("\n").replace("//", "/", 1 if word.startswith("//") else 0)
            request = SampleRequest(
                seed, prompt=said, controls=controls or {}, history=history, stop=tuple(stop)
            )
            answer = _answer(model, request, output)
            if answer is not None:
                seed += 1
                history += (Message("user", said), Message("assistant", answer))
    return list(history)


def _answer(model: Generative[Any], request: SampleRequest, output: TextIO) -> str | None:
    """The answer, written as it comes; None when it was refused or interrupted."""
    pieces = []
    try:
        model.check(request)
        with closing(model.stream(request)) as stream:
            for piece in stream:
                pieces.append(piece)
                output.write(piece)
                output.flush()
    except ModelError as error:
        _tell(str(error))
        return None
    except KeyboardInterrupt:
        _tell("\nstopped; the line is forgotten")
        return None
    output.write("\n")
    output.flush()
    return "".join(pieces)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def typed_lines() -> Iterator[str]:
    """Lines from standard input, asked for where a person types them; each is UTF-8."""
    if not sys.stdin.isatty():
        for number, line in enumerate(sys.stdin.buffer, start=1):
            try:
                yield line.decode().removesuffix("\n").removesuffix("\r")
            except UnicodeDecodeError as error:
                _tell(f"line {number}: not UTF-8 ({error.reason} at byte {error.start}); left out")
        return
    import readline  # noqa: F401 - gives input() its history and editing

    _tell(HELP)
    while True:
        try:
            yield input("> ")
        except EOFError:
            return
        except UnicodeDecodeError as error:
            _tell(f"not UTF-8 ({error.reason} at byte {error.start}); left out")
        except KeyboardInterrupt:
            _tell("\n/quit or Ctrl-D ends the conversation")
