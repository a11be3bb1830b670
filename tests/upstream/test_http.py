"""The connection pool against honest, slow, broken and hostile servers."""

from __future__ import annotations

import asyncio
import datetime
import gc
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentgw.errors import UpstreamFailed
from agentgw.upstream.connection import MAX_REPEATED_HEADERS
from agentgw.upstream.http import HttpOrigin, UpstreamResponse
from agentgw.upstream.response import HIGH_WATER

pytestmark = pytest.mark.anyio

JSON = b"Content-Type: application/json\r\n"
MAX_BODY = 1 << 20
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both event loops a gateway may run on."""
    return "asyncio", {"use_uvloop": request.param}


class Listener:
    """A server in this process; `accepted` counts connections."""

    def __init__(self, handler: Handler) -> None:
        self.accepted = 0
        self.url = ""
        self._handler = handler
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def listening(
    handler: Handler, *, tls: ssl.SSLContext | None = None, name: str = "127.0.0.1"
) -> AsyncIterator[Listener]:
    listener = Listener(handler)
    server = await asyncio.start_server(listener, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    listener.url = f"{'https' if tls else 'http'}://{name}:{port}/mcp"
    try:
        yield listener
    finally:
        server.close()
        await listener.stop()


@asynccontextmanager
async def pool(url: str, **options: object) -> AsyncIterator[HttpOrigin]:
    origin = HttpOrigin(url, **options)  # type: ignore[arg-type]
    try:
        yield origin
    finally:
        await origin.close()
        assert origin.connections == 0


async def post(
    origin: HttpOrigin,
    body: bytes = b"{}",
    *,
    seconds: float = 5.0,
    max_body: int = MAX_BODY,
    method: bytes = b"POST",
    target: bytes | None = None,
) -> UpstreamResponse:
    deadline = asyncio.get_running_loop().time() + seconds
    where = origin.target if target is None else target
    return await origin.open(method, where, JSON, body, deadline=deadline, max_body=max_body)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return head + await reader.readexactly(int(line[15:]))
    return head


def answering(*pieces: bytes, hang_up: bool = False) -> Handler:
    """Answers each request with the same bytes, in as many writes as there are pieces."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if hang_up:
                return

    return handle


def ok(body: bytes = b'{"ok":1}', *headers: bytes) -> bytes:
    lines = b"".join(line + b"\r\n" for line in headers)
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)


async def refused(handler: Handler, **options: object) -> str:
    """The reason with which a request to such a server fails; the pool must be empty after it."""
    async with listening(handler) as server, pool(server.url) as origin:
        with pytest.raises(UpstreamFailed) as caught:
            await post(origin, **options)  # type: ignore[arg-type]
        while origin.connections:
            await asyncio.sleep(0)
        return caught.value.reason


# Honest servers


async def test_sends_what_it_was_given_and_reads_the_answer() -> None:
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(ok(b'{"a":1}', b"X-One: 1", b"x-one: 2"))
        await reader.read()

    async with listening(handle) as server, pool(server.url + "?v=1") as origin:
        answer = await post(origin, b'{"id":1}')
    host = server.url.removeprefix("http://").removesuffix("/mcp").encode()
    assert seen == [
        b"POST /mcp?v=1 HTTP/1.1\r\nHost: " + host + b"\r\n" + JSON + b"Content-Length: 8\r\n\r\n"
        b'{"id":1}'
    ]
    assert (answer.status, answer.complete) == (200, b'{"a":1}')
    assert answer.headers == {b"x-one": b"1, 2", b"content-length": b"7"}


async def test_uses_one_connection_for_requests_in_a_row_and_the_last_one_freed_first() -> None:
    async with listening(answering(ok())) as server, pool(server.url) as origin:
        await asyncio.gather(*(post(origin) for _ in range(4)))
        assert server.accepted == 4
        for _ in range(20):
            await post(origin)
        assert (server.accepted, origin.connections) == (4, 4)


async def test_reads_a_body_that_comes_in_chunks_and_ignores_trailers() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = (head, b"3\r\nabc\r\n", b"2;x=y\r\nde\r\n0\r\nX-Late: 1\r\n\r\n")
    async with listening(answering(*parts)) as server, pool(server.url) as origin:
        for _ in range(2):
            answer = await post(origin)
            assert answer.complete == b"abcde"
            assert b"x-late" not in answer.headers
        assert server.accepted == 1


async def test_reads_a_body_that_ends_with_the_connection() -> None:
    handler = answering(b"HTTP/1.1 200 OK\r\n\r\n", b"all ", b"of it", hang_up=True)
    async with listening(handler) as server, pool(server.url) as origin:
        assert (await post(origin)).complete == b"all of it"


async def test_skips_interim_answers() -> None:
    parts = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        ok(b"final"),
    )
    async with listening(answering(*parts)) as server, pool(server.url) as origin:
        answer = await post(origin)
    assert (answer.status, answer.complete) == (200, b"final")
    assert b"link" not in answer.headers


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_expects_no_body_after_a_status_that_has_none(status: bytes) -> None:
    handler = answering(b"HTTP/1.1 " + status + b"\r\n\r\n")
    async with listening(handler) as server, pool(server.url) as origin:
        assert [(await post(origin)).complete for _ in range(2)] == [b"", b""]
        assert server.accepted == 1


async def test_expects_no_body_after_head() -> None:
    handler = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
    async with listening(handler) as server, pool(server.url) as origin:
        assert (await post(origin, b"", method=b"HEAD")).complete == b""


async def test_gives_a_redirect_back_and_does_not_follow_it() -> None:
    handler = answering(b"HTTP/1.1 307 X\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
    async with listening(handler) as server, pool(server.url) as origin:
        answer = await post(origin)
        assert (answer.status, server.accepted) == (307, 1)


# Event streams


async def test_gives_events_as_they_come_and_reuses_the_connection_after_the_last() -> None:
    go_on = asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
            writer.write(b"3\r\none\r\n")
            await go_on.wait()
            go_on.clear()
            writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async with listening(handle) as server, pool(server.url) as origin:
        for _ in range(2):
            answer = await post(origin)
            assert answer.complete is None
            assert await anext(answer) == b"one"
            go_on.set()
            assert [chunk async for chunk in answer] == [b"two"]
        assert server.accepted == 1


async def test_a_short_event_stream_that_is_all_here_is_complete() -> None:
    handler = answering(ok(b"data: {}\n\n", b"Content-Type: text/event-stream"))
    async with listening(handler) as server, pool(server.url) as origin:
        answer = await post(origin)
        assert answer.complete == b"data: {}\n\n"
        assert [chunk async for chunk in answer] == [b"data: {}\n\n"]


def endless(sent: list[int]) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            writer.write(b":" * 10000)
            await writer.drain()
            sent[0] += 10000

    return handle


async def test_stops_reading_while_the_reader_of_a_stream_is_slow() -> None:
    sent = [0]
    async with listening(endless(sent)) as server, pool(server.url) as origin:
        answer = await post(origin)
        before = -1
        while sent[0] != before:  # until the socket's buffers are full and the server stands still
            before = sent[0]
            await asyncio.sleep(0.05)
        held = len(await anext(answer))
        assert HIGH_WATER < held < HIGH_WATER + 300_000
        for _ in range(100):
            held += len(await anext(answer))
        assert held > before
        answer.abort()


async def test_a_stream_that_breaks_off_says_so_after_what_came(faulty_url: str) -> None:
    async with pool(faulty_url + "sse-cut") as origin:
        answer = await post(origin)
        assert await anext(answer) == b": ping\r\n\r\n"
        with pytest.raises(UpstreamFailed, match="in the middle of its answer"):
            await anext(answer)


@pytest.mark.parametrize("how", ["abort", "cancel"])
async def test_leaving_a_stream_closes_its_connection(how: str) -> None:
    closed = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await reader.read()
        closed.set()

    async with listening(handle) as server, pool(server.url) as origin:
        answer = await post(origin)
        if how == "abort":
            answer.abort()
        else:
            reading = asyncio.ensure_future(anext(answer))
            await asyncio.sleep(0)
            reading.cancel()
            await asyncio.wait([reading])
        await asyncio.wait_for(closed.wait(), 5)
        with pytest.raises(UpstreamFailed, match="cut off by the gateway"):
            await anext(answer)


async def test_aborting_a_finished_answer_leaves_the_connection_to_the_next_request() -> None:
    handler = answering(ok(b"data\n\n", b"Content-Type: text/event-stream"))
    async with listening(handler) as server, pool(server.url) as origin:
        first = await post(origin)
        second = asyncio.ensure_future(post(origin))
        await asyncio.sleep(0)
        first.abort()
        assert (await second).complete == b"data\n\n"
        assert server.accepted == 1


# Broken and hostile servers


async def test_a_server_that_hangs_fails_at_the_deadline_and_holds_up_nobody(
    faulty_url: str,
) -> None:
    async with pool(faulty_url + "hang") as origin:
        with pytest.raises(UpstreamFailed, match=r"^gave no answer within 0\.[12]\d* s$"):
            await post(origin, seconds=0.2)


async def test_many_requests_to_a_hanging_server_each_fail_at_their_own_deadline(
    faulty_url: str,
) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def ended_after(seconds: float) -> float:
        with pytest.raises(UpstreamFailed):
            await post(origin, seconds=seconds)
        return loop.time() - began

    async with pool(faulty_url + "hang") as origin:
        wanted = [0.3, 0.1, 0.2, 0.1]
        taken = await asyncio.gather(*map(ended_after, wanted))
    assert [round(seconds, 1) for seconds in taken] == wanted


async def test_a_slow_drip_fails_at_the_deadline(faulty_url: str) -> None:
    async with pool(faulty_url + "drip?seconds=0.01") as origin:
        with pytest.raises(UpstreamFailed, match="no answer within"):
            await post(origin, seconds=0.2)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("close", "^closed the connection before it answered$"),
        ("die", "^closed the connection in the middle of its answer$"),
        ("huge", "^answered with more than 1048576 bytes$"),
        ("huge?chunked=1", "^answered with more than 1048576 bytes$"),
        ("garbage", "^broke HTTP: "),
        ("headers", "^sent more than 65536 bytes of headers$"),
        ("gzip", "^compressed its answer although"),
    ],
)
async def test_a_fault_fails_its_own_request_only(faulty_url: str, fault: str, reason: str) -> None:
    async with pool(faulty_url + "ok") as origin:
        ping = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}'
        other = asyncio.ensure_future(post(origin, ping))
        with pytest.raises(UpstreamFailed, match=reason):
            await post(origin, target=b"/mcp/" + fault.encode())
        assert (await other).status == 200
        assert json.loads((await post(origin, ping)).complete or b"")["id"] == 1


async def test_an_error_status_is_an_answer(faulty_url: str) -> None:
    async with pool(faulty_url + "500") as origin:
        answer = await post(origin)
    assert (answer.status, answer.complete) == (500, b"<h1>Oops</h1>")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", "broke HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "broke HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx", "other than chunked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\nxx", "other than chunked"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broke HTTP"),
        (b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nxx", "switched protocols"),
        (b"HTTP/1.1 200 OK\r\n folded: 1\r\n\r\n", "broke HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * (MAX_REPEATED_HEADERS + 3), "too often"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, "bytes of headers"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000, "bytes of headers"),
        (ok(b"", b"X: " + b"x" * 70000), "bytes of headers"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: "
            + b"x" * 170000,
            "bytes of headers",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 170000,
            "bytes of headers",
        ),
    ],
)
async def test_refuses_an_answer_that_two_parsers_may_read_differently_or_that_never_ends(
    answer: bytes, reason: str
) -> None:
    # in small pieces too: limits must not depend on how the bytes happen to arrive
    pieces = [answer[n : n + 30000] for n in range(0, len(answer), 30000)]
    assert reason in await refused(answering(*pieces))


async def test_bytes_after_an_answer_never_become_the_answer_to_somebody_else() -> None:
    handler = answering(ok(b"mine") + ok(b"planted"))
    async with listening(handler) as server, pool(server.url) as origin:
        assert [(await post(origin)).complete for _ in range(3)] == [b"mine"] * 3
        assert server.accepted == 3


async def test_unasked_bytes_on_an_idle_connection_close_it() -> None:
    release = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_request(reader)
            writer.write(ok(b"mine"))
            await release.wait()
            writer.write(ok(b"planted"))

    async with listening(handle) as server, pool(server.url) as origin:
        await post(origin)
        release.set()
        while origin.connections:
            await asyncio.sleep(0)
        assert (await post(origin)).complete == b"mine"
        assert server.accepted == 2


async def test_connection_close_is_honoured() -> None:
    handler = answering(ok(b"x", b"Connection: close"))
    async with listening(handler) as server, pool(server.url) as origin:
        for _ in range(3):
            await post(origin)
        assert server.accepted == 3


# The life of connections


async def test_a_kept_connection_that_the_server_closed_is_replaced_without_a_failed_call() -> None:
    async with (
        listening(answering(ok(), hang_up=True)) as server,
        pool(server.url) as origin,
    ):
        for _ in range(3):
            assert (await post(origin)).status == 200
            while origin.connections:
                await asyncio.sleep(0)
        assert server.accepted == 3


async def test_a_request_whose_bytes_left_us_is_never_sent_twice() -> None:
    requests: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(ok())
        requests.append(await read_request(reader))  # and hang up without an answer

    async with listening(handle) as server, pool(server.url) as origin:
        await post(origin, b"first")
        with pytest.raises(UpstreamFailed, match="before it answered"):
            await post(origin, b"second")
        assert (len(requests), server.accepted) == (2, 1)


async def test_an_idle_connection_is_dropped_after_idle_seconds() -> None:
    async with (
        listening(answering(ok())) as server,
        pool(server.url, idle_seconds=0.1) as origin,
    ):
        await post(origin)
        assert origin.connections == 1
        async with asyncio.timeout(5):
            while origin.connections:
                await asyncio.sleep(0.01)
        await post(origin)
        assert server.accepted == 2


async def test_keeps_no_more_idle_connections_than_told_and_none_after_retiring() -> None:
    async with (
        listening(answering(ok())) as server,
        pool(server.url, max_idle=2) as origin,
    ):
        await asyncio.gather(*(post(origin) for _ in range(5)))
        while origin.connections > 2:
            await asyncio.sleep(0)
        origin.retire()
        assert (await post(origin)).status == 200
        while origin.connections:
            await asyncio.sleep(0)


async def test_requests_beyond_max_connections_wait_their_turn() -> None:
    async with (
        listening(answering(ok())) as server,
        pool(server.url, max_connections=3) as origin,
    ):
        answers = await asyncio.gather(*(post(origin) for _ in range(30)))
        assert [answer.status for answer in answers] == [200] * 30
        assert server.accepted == 3


async def test_a_wait_for_a_connection_ends_at_the_deadline_and_costs_no_slot(
    faulty_url: str,
) -> None:
    async with pool(faulty_url + "hang", max_connections=1) as origin:
        blocker = asyncio.ensure_future(post(origin, seconds=30))
        while not origin.connections:
            await asyncio.sleep(0)
        with pytest.raises(UpstreamFailed, match=r"no connection free .* 1 are in use"):
            await post(origin, seconds=0.1)
        waiting = [asyncio.ensure_future(post(origin, target=b"/mcp/500")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        blocker.cancel()
        done = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(done[0], asyncio.CancelledError)
        assert [getattr(answer, "status", answer) for answer in done[1:]] == [500, 500]


async def test_a_cancelled_call_closes_its_connection_and_no_other() -> None:
    arrived, closed = asyncio.Event(), asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await read_request(reader):
            if request.endswith(b"wait"):
                arrived.set()
                await reader.read()
                closed.set()
                return
            writer.write(ok())

    async with listening(handle) as server, pool(server.url) as origin:
        await post(origin)
        call = asyncio.ensure_future(post(origin, b"wait"))
        await arrived.wait()
        other = asyncio.ensure_future(post(origin))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(closed.wait(), 5)
        assert (await other).status == 200
        assert origin.connections == 1


async def test_closing_the_pool_fails_what_is_running() -> None:
    async with listening(answering(b"")) as server:
        origin = HttpOrigin(server.url, max_connections=1)
        calls = [asyncio.ensure_future(post(origin)) for _ in range(2)]
        while not server.accepted:
            await asyncio.sleep(0)
        await origin.close()
        for call in calls:
            with pytest.raises(UpstreamFailed, match="closed by the gateway"):
                await call
        with pytest.raises(UpstreamFailed, match="closed by the gateway"):
            await post(origin)
        assert origin.connections == 0


async def test_a_failure_nobody_waits_for_leaves_no_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with listening(answering(b"nonsense")) as server, pool(server.url) as origin:
        call = asyncio.ensure_future(post(origin))
        while not server.accepted:
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait([call])
        del call
    gc.collect()
    assert caplog.text == ""


# Connecting


async def test_nobody_listening_is_a_refused_connection() -> None:
    async with listening(answering()) as server:
        url = server.url
    async with pool(url) as origin:
        with pytest.raises(UpstreamFailed, match=r"^refused the connection$"):
            await post(origin)


async def test_a_name_that_does_not_resolve_is_said_to_be_one() -> None:
    async with pool("http://nobody.invalid/mcp") as origin:
        with pytest.raises(UpstreamFailed, match="does not resolve"):
            await post(origin)


async def test_a_server_that_takes_no_connection_fails_within_the_connect_timeout() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with listening(silent) as server:
        url = server.url.replace("http:", "https:")
        async with pool(url, connect_timeout=0.2) as origin:
            with pytest.raises(UpstreamFailed, match=r"took no connection within 0\.2 s"):
                await post(origin, seconds=30)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "http:///path",
        "http://user:secret@host/",
        "http://host/a b",
        "http://host/\N{SNOWMAN}",
        "mcp-server",
    ],
)
async def test_refuses_a_url_it_cannot_serve_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="upstream URL") as caught:
        HttpOrigin(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        (b"GET /x HTTP/1.1\r\n", b"/", b""),
        (b"GET", b"/ HTTP/1.1\r\nX: y", b""),
        (b"GET", b"", b""),
        (b"GET", b"/", b"X: y\r\n\r\nGET / HTTP/1.1\r\n"),
        (b"GET", b"/", b"X: y"),
    ],
)
async def test_refuses_to_write_a_request_that_is_two(
    method: bytes, target: bytes, headers: bytes
) -> None:
    origin = HttpOrigin("http://127.0.0.1:1/")
    with pytest.raises(ValueError, match="hold"):
        await origin.open(method, target, headers, b"", deadline=0, max_body=1)


# TLS


def usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )


def issue(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server named `name` and of a client that trusts its issuer."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test issuer")])

    def build(
        subject: x509.Name, public: ec.EllipticCurvePublicKey, is_ca: bool
    ) -> x509.Certificate:
        alternative: list[x509.GeneralName] = [x509.DNSName(name)]
        if name[0].isdigit():
            alternative = [x509.IPAddress(ipaddress.ip_address(name))]
        ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            # Python 3.13 checks strictly: an empty subject needs a critical alternative name.
            .add_extension(x509.SubjectAlternativeName(alternative), critical=not is_ca)
            .add_extension(usage(is_ca), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )

    pem = serialization.Encoding.PEM
    leaf = build(x509.Name([]), key.public_key(), False)
    (folder / "cert.pem").write_bytes(leaf.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    ca = build(ca_name, ca_key.public_key(), True).public_bytes(pem).decode()
    return server, ssl.create_default_context(cadata=ca)


async def test_speaks_tls_to_a_server_it_trusts_and_keeps_the_connection(tmp_path: Path) -> None:
    tls, trusting = issue(tmp_path, "127.0.0.1")
    async with (
        listening(answering(ok(b"sealed")), tls=tls) as server,
        pool(server.url, ssl_context=trusting) as origin,
    ):
        assert [(await post(origin)).complete for _ in range(3)] == [b"sealed"] * 3
        assert server.accepted == 1


async def test_refuses_a_certificate_of_an_unknown_issuer(tmp_path: Path) -> None:
    tls, _ = issue(tmp_path, "127.0.0.1")
    async with listening(answering(ok()), tls=tls) as server, pool(server.url) as origin:
        with pytest.raises(UpstreamFailed, match="a TLS certificate we do not trust"):
            await post(origin)


async def test_refuses_a_certificate_of_another_name(tmp_path: Path) -> None:
    tls, trusting = issue(tmp_path, "other.example")
    async with (
        listening(answering(ok()), tls=tls) as server,
        pool(server.url, ssl_context=trusting) as origin,
    ):
        with pytest.raises(UpstreamFailed, match=r"do not trust: .*mismatch"):
            await post(origin)
