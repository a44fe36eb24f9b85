"""ASGI middleware in front of BentoML: path allow-list, limits on body size and time."""

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

# BentoML keeps a Prometheus series for every path that it sees, so unknown paths would fill its
# memory. The Swagger files are named one by one for the same reason.
PATHS = frozenset(
    {
        "/",
        "/docs.json",
        "/generate",
        "/healthz",
        "/livez",
        "/metrics",
        "/readyz",
        "/schema.json",
        "/static_content/swagger-ui-bundle.js",
        "/static_content/swagger-ui.css",
    }
)
MAX_BODY_BYTES = 1_000_000
MAX_BUFFERED_BYTES = 64_000_000
"""Limit on the total size of the request bodies in memory."""
BODY_SECONDS = 10
"""Time limit in seconds for a whole request body."""


class RequestGuard:
    """ASGI middleware that passes on known paths, and calls whose whole body has arrived."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.num_buffered_bytes = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await WebSocketClose()(scope, receive, send)
        if scope["path"] not in PATHS:
            return await JSONResponse({"error": "Not Found"}, 404)(scope, receive, send)
        if (scope["method"], scope["path"]) == ("POST", "/generate"):
            # BentoML counts a call against max_concurrency before its body is read. So a body is
            # read here first: 32 clients that send half a body would else block all others.
            try:
                receive = await self._with_body(scope, receive)
            except ClientDisconnect:
                return None
        return await self.app(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """Return a receive callable that gives the whole body or raises its HTTPException."""
        # The exception is not answered here: raised inside the endpoint, it passes through the
        # app's own exception handler and BentoML's access log like every other error.
        refusal, unread = None, [b""]
        try:
            with anyio.fail_after(BODY_SECONDS):
                unread = [await self._read(Request(scope, receive))]
        except TimeoutError:
            reason = f"the body did not arrive within {BODY_SECONDS} seconds"
            # The rest of the body may still arrive; it must not be read as the next request.
            refusal = HTTPException(408, reason, headers={"Connection": "close"})
        except HTTPException as error:
            refusal = error

        async def receive_body() -> Message:
            if refusal is not None:
                raise refusal
            if unread:
                return {"type": "http.request", "body": unread.pop()}
            return await receive()  # later messages, such as the disconnect of the client

        return receive_body

    async def _read(self, request: Request) -> bytes:
        """Return the body; raises HTTPException as soon as it is known to be too long."""
        too_long = HTTPException(413, f"the body may have at most {MAX_BODY_BYTES} bytes")
        # The declared length is a shortcut: a chunked body declares none, so chunks are counted.
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
            raise too_long
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self.num_buffered_bytes += len(chunk)
                if len(body) > MAX_BODY_BYTES:
                    raise too_long
                if self.num_buffered_bytes > MAX_BUFFERED_BYTES:
                    raise HTTPException(429, "too many calls are arriving; try again later")
            return bytes(body)
        finally:
            self.num_buffered_bytes -= len(body)
