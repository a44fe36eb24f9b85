"""`POST /generate`: what may be asked of a served model, and what is refused.

Nothing here imports torch: BentoML's supervising process and its build read this module
too, and only the worker needs a model.
"""

import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio
from anyio.to_thread import run_sync
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aigc_ops.errors import ModelError
from aigc_ops.sample_request import Role, SampleRequest
from aigc_ops.serving.description import INDEX_PAGE, of_controls, openapi

if TYPE_CHECKING:
    from aigc_ops.sample_request import Control

MAX_PROMPT_CHARACTERS = 10_000
MAX_ERROR_CHARACTERS = 2000


class Turn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Role
    content: str = Field(max_length=MAX_PROMPT_CHARACTERS)


class Call(BaseModel):
    """What a client may ask for; JSON of any other shape is refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    num: int = Field(default=1, ge=1, description="Samples to draw.")
    seed: int = Field(
        default_factory=lambda: secrets.randbits(53),
        ge=0,
        description="Seed of the first sample; a random one when left out.",
    )
    label: int | None = Field(
        default=None,
        ge=0,
        description="Class to draw; a conditional image model goes round its classes without it.",
    )
    prompt: str | None = Field(
        default=None, max_length=MAX_PROMPT_CHARACTERS, description="Text to answer or continue."
    )
    messages: list[Turn] = Field(
        default=[],
        max_length=1000,
        description="A conversation to answer, in place of a prompt; its last turn is the user's.",
    )
    stop: list[str] = Field(
        default=[], max_length=16, description="A text ends before the first of these."
    )
    stream: bool = Field(
        default=False, description="Send one text piece by piece, as it is written."
    )
    controls: dict[str, float] = Field(
        default={}, description="What else the model can be asked for: a number by name."
    )

    @model_validator(mode="after")
    def _one_question(self) -> Self:
        if self.messages and self.prompt is not None:
            raise ValueError("give messages or a prompt, not both")
        if self.messages and self.messages[-1].role != "user":
            raise ValueError("the last of the messages is answered already; end with the user's")
        if self.stream and self.num != 1:
            raise ValueError("one text at a time can be streamed; leave num out")
        return self


class Served(Protocol):
    """A loaded model with the name, version and limit under which it answers."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def max_num(self) -> int: ...

    @property
    def controls(self) -> "Mapping[str, Control]": ...

    def asked(self, call: Call) -> Sequence[SampleRequest]:
        """The samples of one call; raises ModelError for what it cannot serve."""

    def answer(self, asked: Sequence[SampleRequest]) -> Response:
        """The samples of one call, encoded."""

    def stream(self, asked: Sequence[SampleRequest]) -> tuple[Iterator[str], Mapping[str, str]]:
        """The pieces of one text and the answer's headers; ModelError for other models."""


def create_app() -> Starlette:
    """The ASGI app of the service; `app.state.served` is set once the model is loaded."""
    app = Starlette(
        routes=[
            Route("/generate", _generate, methods=["POST"]),
            Route("/docs.json", _describe),
            Route("/", _index),
        ],
        exception_handlers={
            HTTPException: _refused,
            ModelError: _unserviceable,
            ValidationError: _invalid,
            Exception: _broken,
        },
    )
    # The model draws for one call at a time, each with all threads; the event loop stays
    # free to answer /livez and to refuse what is too much.
    app.state.drawing = anyio.CapacityLimiter(1)
    return app


async def _generate(request: Request) -> Response:
    call = Call.model_validate_json(await request.body() or b"{}")
    served: Served = request.app.state.served
    # What cannot be served is refused at once, whatever is being drawn.
    asked = await run_sync(served.asked, call)
    if not call.stream:
        return await run_sync(served.answer, asked, limiter=request.app.state.drawing)
    pieces, headers = served.stream(asked)
    told = _told(pieces, request.app.state.drawing)
    return StreamingResponse(told, headers=headers, media_type="text/plain; charset=utf-8")


async def _told(pieces: Iterator[str], limiter: anyio.CapacityLimiter) -> AsyncIterator[str]:
    """Each piece as it is drawn; a client that goes away ends the drawing."""
    async with limiter:
        while (piece := await run_sync(next, pieces, None)) is not None:
            yield piece


async def _describe(request: Request) -> Response:
    served: Served = request.app.state.served
    schema = Call.model_json_schema()
    schema["properties"]["num"]["maximum"] = served.max_num
    schema["properties"]["controls"] |= of_controls(served.controls)
    return JSONResponse(openapi(schema, title=served.name, version=served.version))


async def _index(_: Request) -> Response:
    return HTMLResponse(INDEX_PAGE)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), error
    return _error(error.detail, error.status_code, error.headers)


async def _unserviceable(_: Request, error: Exception) -> Response:
    return _error(str(error), 422)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError), error
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    not_json = any(problem["type"] == "json_invalid" for problem in problems)
    return _error("; ".join(map(_sentence, problems)), 400 if not_json else 422)


def _sentence(problem: Any) -> str:
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])


async def _broken(_: Request, __: Exception) -> Response:
    return _error("the model could not answer; see the server's log", 500)


def _error(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a call that failed; what a client sent is not sent back at length."""
    if len(message) > MAX_ERROR_CHARACTERS:
        half = MAX_ERROR_CHARACTERS // 2
        message = f"{message[:half]} … {message[-half:]}"
    return JSONResponse({"error": message}, status, headers)
