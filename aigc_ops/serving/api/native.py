"""`POST /generate` and its errors, as an ASGI app."""

# Nothing here may import torch: BentoML's supervising process and its build import this module
# too, and only the worker needs a model.

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
from aigc_ops.serving.api.schema import INDEX_PAGE, controls_schema, openapi

if TYPE_CHECKING:
    from aigc_ops.interfaces.request import Control

MAX_ERROR_CHARACTERS = 2000
ABSENT: tuple[Any, ...] = (None, [], {})
"""Values that request nothing, so that a field with one can be dropped."""


class Call(BaseModel):
    """Body of a call; unknown fields and values of other types are refused.

    `call_type` adds the fields of the served model's modality.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    num: int = Field(default=1, ge=1, description="Number of samples.")
    # 53 bits: a JavaScript client must be able to repeat the seed of an answer exactly.
    seed: int = Field(
        default_factory=lambda: secrets.randbits(53),
        ge=0,
        description="Seed of the first sample; default: random.",
    )
    stream: bool = Field(
        default=False, description="Send a single text in pieces while it is generated."
    )
    controls: dict[str, float] = Field(
        default={}, description="Values of the model's controls, by name."
    )

    @model_validator(mode="after")
    def _one_stream(self) -> Self:
        if self.stream and self.num != 1:
            raise ValueError("only one text can be streamed; leave num out")
        return self


def read_call(kind: type[Call], body: bytes) -> Call:
    """Return the call of a request body; raises ValidationError.

    Unknown fields are dropped if their value is null or empty.
    """
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        # Clients written for several modalities send `"prompt": null` to image models too. Any
        # other unknown field is an error: its author expects an effect.
        problems = error.errors(include_url=False, include_context=False)
        if any(p["type"] != "extra_forbidden" or p["input"] not in ABSENT for p in problems):
            raise
        absent = {problem["loc"][0] for problem in problems}
        values = {name: value for name, value in json.loads(body).items() if name not in absent}
        return kind.model_validate_json(json.dumps(values))


def call_type(fields: type[BaseModel]) -> type[Call]:
    """Return the call type that includes the fields of a modality."""
    make: Any = create_model  # its annotations allow a single base only
    kind: type[Call] = make("Call", __base__=(Call, fields), __doc__=Call.__doc__)
    return kind


class Served(Protocol):
    """A loaded model with its name, version and limits, as this module uses it."""

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
        """Type of a call to this model."""

    @property
    def media_type(self) -> str:
        """Media type of a sample."""

    def build_requests(self, call: Call) -> Sequence[SampleRequest]:
        """Return the requests of a call; raises ModelError if the model cannot serve one."""

    def respond(self, requests: Sequence[SampleRequest]) -> Response:
        """Generate the samples and return the HTTP response."""

    def stream(self, requests: Sequence[SampleRequest]) -> tuple[Iterator[str], Mapping[str, str]]:
        """Return the pieces of one text and the headers; raises ModelError for other models."""


def create_app() -> Starlette:
    """Return the ASGI app; the worker sets `app.state.served` when the model is loaded."""
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
    # One call at a time generates, with all threads. It runs in a thread, so that the event loop
    # can answer /livez and refuse calls meanwhile.
    app.state.generation_limiter = anyio.CapacityLimiter(1)
    return app


async def _generate(request: Request) -> Response:
    served: Served = request.app.state.served
    call = read_call(served.call_type, await request.body())
    # Outside the limiter: an invalid call is refused at once, also while another one generates.
    requests = await run_sync(served.build_requests, call)
    if not call.stream:
        limiter = request.app.state.generation_limiter
        return await run_sync(served.respond, requests, limiter=limiter)
    pieces, headers = served.stream(requests)
    content = _stream_pieces(pieces, request.app.state.generation_limiter)
    return StreamingResponse(content, headers=headers, media_type="text/plain; charset=utf-8")


async def _stream_pieces(
    pieces: Iterator[str], limiter: anyio.CapacityLimiter
) -> AsyncIterator[str]:
    """Yield each piece as it is generated; generation ends when the client disconnects."""
    async with limiter:
        while (piece := await run_sync(next, pieces, None)) is not None:
            yield piece


async def _describe(request: Request) -> Response:
    served: Served = request.app.state.served
    schema = served.call_type.model_json_schema()
    # Limits that depend on the loaded model are not in the type.
    schema["properties"]["num"]["maximum"] = served.max_num
    schema["properties"]["controls"] |= controls_schema(served.controls)
    description = openapi(
        schema, title=served.name, version=served.version, media_type=served.media_type
    )
    return JSONResponse(description)


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
    field = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"{field}: this model takes no {field}; /docs.json lists its fields"
    return f"{field}: {problem['msg']}" if field else str(problem["msg"])


async def _broken(_: Request, __: Exception) -> Response:
    # The exception may contain paths of the server, so its text goes to the log only.
    return _error("the model failed to answer; see the server's log", 500)


def _error(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response to a failed call, with a message of bounded length."""
    # Messages quote what the client sent, which may be a body of 1 MB.
    if len(message) > MAX_ERROR_CHARACTERS:
        half = MAX_ERROR_CHARACTERS // 2
        message = f"{message[:half]} … {message[-half:]}"
    return JSONResponse({"error": message}, status, headers)
