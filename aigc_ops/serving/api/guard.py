"""The door of the service: what reaches BentoML at all, and with its body whole.

BentoML keeps figures for every path it sees, and takes a place in its queue before a body
is read. So unknown paths end here, and a call enters once its body lies here.
"""

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

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
MAX_BYTES_HELD = 64_000_000
"""Of all bodies that have begun to come."""
BODY_SECONDS = 10


class Door:
    """Lets known paths in, and the bodies of calls once they are whole."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.num_held = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await WebSocketClose()(scope, receive, send)
        if scope["path"] not in PATHS:
            return await JSONResponse({"error": "Not Found"}, 404)(scope, receive, send)
        if (scope["method"], scope["path"]) == ("POST", "/generate"):
            try:
                receive = await self._with_body(scope, receive)
            except ClientDisconnect:
                return None
        return await self.app(scope, receive, send)

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """A receive that gives the whole body, or raises for the endpoint why there is none."""
        refusal, unread = None, [b""]
        try:
            with anyio.fail_after(BODY_SECONDS):
                unread = [await self._read(Request(scope, receive))]
        except TimeoutError:
            reason = f"the body did not come within {BODY_SECONDS} seconds"
            refusal = HTTPException(408, reason, headers={"Connection": "close"})
        except HTTPException as error:
            refusal = error

        async def give() -> Message:
            if refusal is not None:
                raise refusal
            if unread:
                return {"type": "http.request", "body": unread.pop()}
            return await receive()

        return give

    async def _read(self, request: Request) -> bytes:
        """The body, refused as soon as it is known to be too long."""
        too_long = HTTPException(413, f"the body may have at most {MAX_BODY_BYTES} bytes")
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
            raise too_long
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                self.num_held += len(chunk)
                if len(body) > MAX_BODY_BYTES:
                    raise too_long
                if self.num_held > MAX_BYTES_HELD:
                    raise HTTPException(429, "too many calls are coming in; try again later")
            return bytes(body)
        finally:
            self.num_held -= len(body)
