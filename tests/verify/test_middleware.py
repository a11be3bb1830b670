from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.verify import CallTokenMiddleware, CallVerifier, InvalidCall, VerifiedCall
from agentgw.verify.calls import request_window
from tests.verify.gateway import MESSAGE, NOW, FakeGateway

pytestmark = pytest.mark.anyio
BODY = json.dumps(MESSAGE).encode()


class Counting(ThreadPoolExecutor):
    """An executor that notes what it is given."""

    def __init__(self, given: list[Any]) -> None:
        super().__init__(1)
        self.given = given

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.given.append(fn)
        return super().submit(fn, *args, **kwargs)


class ToolServer:
    """An ASGI app that remembers the calls it saw, and looks at each token a second time."""

    def __init__(self) -> None:
        self.calls: list[VerifiedCall] = []
        self.bodies: list[bytes] = []
        self.verifier: CallVerifier | None = None
        self.again: list[VerifiedCall] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(scope["agentgw.call"])
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        if self.verifier is not None:
            token = dict(scope["headers"])[b"authorization"].decode().partition(" ")[2]
            self.again.append(await self.verifier.verify(token, body))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})


class House:
    def __init__(self, folder: Path) -> None:
        self.gateway = FakeGateway(folder)
        self.server = ToolServer()
        self.verifier = self.gateway.verifier()
        app: Any = CallTokenMiddleware(self.server, self.verifier, body_limit=10_000)
        self.app = app
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="https://tickets.example.com"
        )

    async def post(self, token: str | None, body: bytes = BODY) -> httpx2.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.client.post("/mcp", content=body, headers=headers)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    async with made.client, made.gateway.client:
        yield made


async def test_the_app_gets_the_call_and_the_whole_body(house: House) -> None:
    assert (await house.post(house.gateway.token())).text == "ok"
    assert house.server.calls[0].tool == "close_ticket"
    assert house.server.bodies == [BODY]


async def test_a_request_without_token_is_told_how(house: House) -> None:
    answer = await house.post(None)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert house.server.calls == []


@pytest.mark.parametrize("authorization", ["Basic abc", "Bearer", "Bearer \xff", "Bearer a.b.c"])
async def test_a_request_with_a_bad_token_never_reaches_the_app(
    house: House, authorization: str
) -> None:
    answer = await house.client.post(
        "/mcp", content=BODY, headers={b"Authorization": authorization.encode("latin-1")}
    )
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert house.server.calls == []


async def test_a_stolen_token_is_worth_nothing_the_second_time(house: House) -> None:
    token = house.gateway.token()
    assert (await house.post(token)).status_code == 200
    assert (await house.post(token)).status_code == 401
    assert len(house.server.calls) == 1


async def test_an_altered_body_never_reaches_the_app(house: House) -> None:
    answer = await house.post(house.gateway.token(), BODY.replace(b"42", b"43"))
    assert answer.status_code == 401 and house.server.calls == []


async def test_a_body_over_the_limit_is_refused(house: House) -> None:
    answer = await house.post(house.gateway.token(), b" " * 10_001)
    assert answer.status_code == 413 and house.server.calls == []


async def test_a_batch_is_refused(house: House) -> None:
    answer = await house.post(house.gateway.token(), b"[" + BODY + b"]")
    assert answer.status_code == 400 and house.server.calls == []


async def test_two_authorization_headers_are_refused(house: House) -> None:
    headers = [("Authorization", f"Bearer {house.gateway.token()}")] * 2
    answer = await house.client.post("/mcp", content=BODY, headers=headers)
    assert answer.status_code == 401 and house.server.calls == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_opening_needs_a_token_made_for_opening(house: House, method: str) -> None:
    opening = house.gateway.sign(house.gateway.opening_claims(method))
    for token, status in ((house.gateway.token(), 401), (opening, 200), (opening, 401)):
        answer = await house.client.request(
            method, "/mcp", headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == status
    assert [call.method for call in house.server.calls] == [method]


async def test_an_opening_token_makes_no_call(house: House) -> None:
    token = house.gateway.sign(house.gateway.opening_claims("GET"))
    assert (await house.post(token)).status_code == 401


async def test_a_second_look_within_one_request_gives_the_same_answer(house: House) -> None:
    house.server.verifier = house.verifier
    assert (await house.post(house.gateway.token())).status_code == 200
    assert house.server.again == house.server.calls


async def test_a_second_look_at_another_message_is_refused(house: House) -> None:
    token = house.gateway.token()
    house.server.verifier = None
    seen: list[str] = []

    async def curious(scope: Any, receive: Any, send: Any) -> None:
        try:
            await house.verifier.verify(token, MESSAGE | {"method": "tools/list"})
        except InvalidCall as error:
            seen.append(error.reason)
        await house.server(scope, receive, send)

    house.app._app = curious
    assert (await house.post(token)).status_code == 200
    assert seen == ["the token was made for another method"]


async def test_nothing_of_a_request_outlives_it(house: House) -> None:
    kept: list[Any] = []

    async def keeping(scope: Any, receive: Any, send: Any) -> None:
        kept.append(request_window.get())
        assert kept[0]
        await house.server(scope, receive, send)

    house.app._app = keeping
    await house.post(house.gateway.token())
    assert kept == [{}] and request_window.get() is None


class Unread:
    """A body that must not be asked for."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    async def receive(self) -> Any:
        raise AssertionError("the body was asked for")

    async def send(self, message: Any) -> None:
        self.sent.append(message)


def posted(token: str) -> dict[str, Any]:
    headers = [(b"authorization", f"Bearer {token}".encode())]
    return {"type": "http", "method": "POST", "headers": headers}


@pytest.mark.parametrize("flaw", ["shape", "signature", "exp", "aud"])
async def test_no_body_is_read_before_the_token_holds(house: House, flaw: str) -> None:
    claims = house.gateway.claims()
    changes: dict[str, dict[str, Any]] = {
        "exp": {"exp": NOW - 5}, "aud": {"aud": "https://other.example.com"},
    }  # fmt: skip
    token = "x" if flaw == "shape" else house.gateway.sign(claims | changes.get(flaw, {}))
    if flaw == "signature":
        token = token[:-86] + "A" * 86
    unread = Unread()
    await house.app(posted(token), unread.receive, unread.send)
    assert unread.sent[0]["status"] == 401


async def test_a_body_that_does_not_arrive_is_given_up(house: House) -> None:
    unread = Unread()
    app = CallTokenMiddleware(house.server, house.verifier, body_deadline=0.01)

    async def never() -> Any:
        await asyncio.Event().wait()

    await app(posted(house.gateway.token()), never, unread.send)
    assert unread.sent[0]["status"] == 408 and house.server.calls == []


async def test_a_token_that_expires_while_its_body_arrives_is_refused(house: House) -> None:
    unread = Unread()

    async def late() -> Any:
        house.gateway.clock.now += 120
        return {"type": "http.request", "body": BODY}

    await house.app(posted(house.gateway.token()), late, unread.send)
    assert unread.sent[0]["status"] == 401 and house.server.calls == []


async def test_a_large_body_leaves_the_event_loop_free(house: House) -> None:
    message = MESSAGE | {"params": MESSAGE["params"] | {"arguments": {"a": [[]] * 300_000}}}
    threads: list[Any] = []
    asyncio.get_running_loop().set_default_executor(Counting(threads))
    call = await house.verifier.verify(house.gateway.token(message), json.dumps(message).encode())
    assert call.tool == "close_ticket" and len(threads) == 1
    await house.verifier.verify(house.gateway.token(), BODY)
    assert len(threads) == 1


async def test_websockets_are_refused_and_lifespan_passes(house: House) -> None:
    sent: list[Any] = []
    passed: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        passed.append(scope["type"])

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    middleware = CallTokenMiddleware(app, house.verifier)
    await middleware({"type": "websocket", "headers": []}, receive, send)
    await middleware({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}] and passed == ["lifespan"]
