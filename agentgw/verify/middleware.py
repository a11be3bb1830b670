"""The ASGI middleware that lets a request through only with a token made for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from agentgw.verify.calls import CallVerifier, Seen, VerifiedCall, request_window
from agentgw.verify.request import InvalidCall

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_LIMIT = 4 * 1024 * 1024
BODY_DEADLINE = 30.0


class CallTokenMiddleware:
    """Wraps the MCP endpoint of a tool server.

    The VerifiedCall stands in `scope["agentgw.call"]`. `body_limit` is in bytes,
    `body_deadline` in seconds; no body is read before its token's signature holds. GET and DELETE
    need a token made for opening; websockets are refused.
    """

    def __init__(
        self,
        app: App,
        verifier: CallVerifier,
        *,
        body_limit: int = BODY_LIMIT,
        body_deadline: float = BODY_DEADLINE,
    ) -> None:
        self._app = app
        self._verifier = verifier
        self._body_limit = body_limit
        self._body_deadline = body_deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        window: Seen = {}
        outside = request_window.set(window)
        try:
            await self._serve(scope, receive, send)
        finally:
            # Tasks started in this request may outlive it and carry the window on: leave it empty.
            window.clear()
            request_window.reset(outside)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            token, proof = _credentials(scope)
            if token is None:
                await _refuse(send, InvalidCall("no token"), with_error=False)
                return
            body = b""
            if scope["method"] == "POST":
                claims = await self._verifier.check_token(token, proof)
                body = await self._read_in_time(receive)
                call = await self._verifier.verify_message(token, claims, body)
            else:
                call = await self._verifier.verify_opening(token, scope["method"], proof)
        except InvalidCall as error:
            await _refuse(send, error)
            return
        await self._app(_with_call(scope, call), _again(body, receive), send)

    async def _read_in_time(self, receive: Receive) -> bytes:
        try:
            async with asyncio.timeout(self._body_deadline):
                return await self._read(receive)
        except TimeoutError:
            raise InvalidCall("the body did not arrive in time", 408) from None

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise InvalidCall("the body did not arrive", 400)
            body += message.get("body", b"")
            if len(body) > self._body_limit:
                raise InvalidCall(f"the body is larger than {self._body_limit} bytes", 413)
            if not message.get("more_body", False):
                return bytes(body)


def _with_call(scope: Scope, call: VerifiedCall) -> Scope:
    return {**scope, "agentgw.call": call}


def _credentials(scope: Scope) -> tuple[str | None, str | None]:
    """The token, and the proof that came with it where the scheme is DPoP."""
    values = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
    if not values:
        return None, None
    scheme, _, token = values[0].partition(b" ")
    if len(values) > 1 or scheme.lower() not in (b"bearer", b"dpop"):
        raise InvalidCall("send one Authorization header with a Bearer or DPoP token")
    if scheme.lower() == b"bearer":
        return _ascii(token.strip()), None
    proofs = [value for name, value in scope["headers"] if name.lower() == b"dpop"]
    if len(proofs) != 1:
        raise InvalidCall("send one DPoP header", by_proof=True)
    return _ascii(token.strip()), _ascii(proofs[0], by_proof=True)


def _ascii(value: bytes, *, by_proof: bool = False) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        what = "proof" if by_proof else "token"
        raise InvalidCall(f"the {what} is no ASCII", by_proof=by_proof) from None


def _again(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(send: Send, error: InvalidCall, *, with_error: bool = True) -> None:
    kind = "invalid_token" if error.status == 401 else "invalid_request"
    kind = "invalid_dpop_proof" if error.by_proof else kind
    body = json.dumps({"error": kind, "error_description": error.reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if error.status == 401:
        scheme = "DPoP" if error.by_proof else "Bearer"
        challenge = f'{scheme} error="{kind}"' if with_error else scheme
        headers.append((b"www-authenticate", challenge.encode()))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
