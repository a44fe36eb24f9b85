"""`POST /generate`: what may be asked of a served model, and what is refused.

Nothing here imports torch: BentoML's supervising process and its build read this module
too, and only the worker needs a model.
"""

import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import anyio
from anyio.to_thread import run_sync
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from aigc_ops.core.errors import ModelError
from aigc_ops.interfaces.request import SampleRequest
from aigc_ops.serving.api.schema import INDEX_PAGE, of_controls, openapi

if TYPE_CHECKING:
    from aigc_ops.interfaces.request import Control

MAX_ERROR_CHARACTERS = 2000
ABSENT: tuple[Any, ...] = (None, [], {})


class Call(BaseModel):
    """What a client may ask for; JSON of any other shape is refused.

    `call_type` adds the fields of the served model's modality.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    num: int = Field(default=1, ge=1, description="Samples to draw.")
    seed: int = Field(
        default_factory=lambda: secrets.randbits(53),
        ge=0,
        description="Seed of the first sample; a random one when left out.",
    )
    stream: bool = Field(
        default=False, description="Send one text piece by piece, as it is written."
    )
    controls: dict[str, float] = Field(
        default={}, description="What else the model can be asked for: a number by name."
    )

    @model_validator(mode="after")
    def _one_stream(self) -> Self:
        if self.stream and self.num != 1:
            raise ValueError("one text at a time can be streamed; leave num out")
        return self


def read_call(kind: type[Call], body: bytes) -> Call:
    """Return the call in a body; raises ValidationError.

    Fields of other modalities that ask for nothing are dropped, for clients send them to any model.
    """
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        if any(p["type"] != "extra_forbidden" or p["input"] not in ABSENT for p in problems):
            raise
        absent = {problem["loc"][0] for problem in problems}
        values = {name: value for name, value in json.loads(body).items() if name not in absent}
        return kind.model_validate_json(json.dumps(values))


def call_type(fields: type[BaseModel]) -> type[Call]:
    """Return the type of a call to a model of the modality that adds these fields."""
    make: Any = create_model  # whose types allow one base
    kind: type[Call] = make("Call", __base__=(Call, fields), __doc__=Call.__doc__)
    return kind


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

    @property
    def call_type(self) -> type[Call]:
        """The type of a call to this model."""

    @property
    def media_type(self) -> str:
        """The media type of one sample."""

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
    served: Served = request.app.state.served
    call = read_call(served.call_type, await request.body())
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
    schema = served.call_type.model_json_schema()
    schema["properties"]["num"]["maximum"] = served.max_num
    schema["properties"]["controls"] |= of_controls(served.controls)
    described = openapi(
        schema, title=served.name, version=served.version, media_type=served.media_type
    )
    return JSONResponse(described)


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
    if problem["type"] == "extra_forbidden":
        return f"{place}: this model takes no {place}; see /docs.json for what it takes"
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])


async def _broken(_: Request, __: Exception) -> Response:
    return _error("the model could not answer; see the server's log", 500)


def _error(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a call that failed; what a client sent is not sent back at length."""
    if len(message) > MAX_ERROR_CHARACTERS:
        half = MAX_ERROR_CHARACTERS // 2
        message = f"{message[:half]} … {message[-half:]}"
    return JSONResponse({"error": message}, status, headers)
