"""Two readings of one byte stream: whatever is ambiguous is refused, and the connection ends."""

from __future__ import annotations

import contextlib
import json

import pytest

from tests.door import Door, closed
from tests.harness import modern_call, modern_headers

MESSAGE = json.dumps(modern_call("time__echo", {"text": "smuggled"})).encode()
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(MESSAGE), MESSAGE)
LENGTH = b"Content-Length: %d\r\n" % len(MESSAGE)
TE = b"Transfer-Encoding: chunked\r\n"


def head(door: Door, first: bytes = b"POST /mcp HTTP/1.1") -> bytes:
    headers = modern_headers(modern_call("time__echo", {}), door.gw.token())
    headers["Host"] = f"127.0.0.1:{door.port}"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return first + b"\r\n" + lines.encode()


def anonymous(door: Door) -> bytes:
    return head(door).replace(b"Authorization: ", b"X-Nothing: ")


AMBIGUOUS = {
    "length then chunked": LENGTH + TE + b"\r\n" + CHUNKED,
    "chunked then length": TE + LENGTH + b"\r\n" + CHUNKED,
    "two lengths": LENGTH + b"Content-Length: 4\r\n\r\n" + MESSAGE,
    "the same length twice": LENGTH + LENGTH + b"\r\n" + MESSAGE,
    "a list of lengths": b"Content-Length: 4, 4\r\n\r\n" + MESSAGE,
    "a signed length": b"Content-Length: +%d\r\n\r\n" % len(MESSAGE) + MESSAGE,
    "a negative length": b"Content-Length: -1\r\n\r\n" + MESSAGE,
    "a hexadecimal length": b"Content-Length: 0x10\r\n\r\n" + MESSAGE,
    "a length beyond 64 bits": b"Content-Length: 99999999999999999999999\r\n\r\n" + MESSAGE,
    "xchunked": b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKED,
    "identity": b"Transfer-Encoding: identity\r\n\r\n" + CHUNKED,
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKED,
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKED,
    "chunked twice": TE + TE + b"\r\n" + CHUNKED,
    "a vertical tab": b"Transfer-Encoding:\x0bchunked\r\n\r\n" + CHUNKED,
    "a space before the colon": b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKED,
    "a folded line": b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKED,
    "a folded header": LENGTH + b"X-A: a\r\n b\r\n\r\n" + MESSAGE,
    "a bare CR": b"X-A: a\rContent-Length: 3\r\n" + LENGTH + b"\r\n" + MESSAGE,
    "a bare LF": LENGTH + b"X-A: a\nX-B: b\r\n\r\n" + MESSAGE,
    "a NUL": LENGTH + b"X-A: a\0b\r\n\r\n" + MESSAGE,
    "a chunk of no size": TE + b"\r\nzz\r\n",
    "a chunk with a bare LF": TE + b"\r\n%x\n%b\r\n0\r\n\r\n" % (len(MESSAGE), MESSAGE),
    "a negative chunk": TE + b"\r\n-1\r\n",
    "a chunk beyond 64 bits": TE + b"\r\nfffffffffffffffff\r\n",
    "an upgrade": LENGTH + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + MESSAGE,
    "another upgrade": LENGTH + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n" + MESSAGE,
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_refuses_ambiguous_framing_once_and_closes(door: Door, kind: str) -> None:
    with door.untouched():
        # Where the refused bytes held another request, a second answer would show it.
        answers = door.raw(
            head(door) + AMBIGUOUS[kind] + head(door) + LENGTH + b"\r\n" + MESSAGE, 3
        )
        assert [answer.status for answer in answers] == [400]


@pytest.mark.parametrize(
    "first",
    [
        b"POST http://evil.example/mcp HTTP/1.1", b"CONNECT 127.0.0.1:1 HTTP/1.1",
        b"POST mcp HTTP/1.1", b"post /mcp HTTP/1.1", b"POST /mcp HTTP/9.9",
        b"POST /mcp\tHTTP/1.1", b"POST /mcp HTTP/1.1 HTTP/1.1", b"PRI * HTTP/2.0", b"\x16\x03\x01\x02",
    ],
)  # fmt: skip
def test_refuses_an_odd_request_line_and_closes(door: Door, first: bytes) -> None:
    with door.untouched():
        answers = door.raw(head(door, first) + LENGTH + b"\r\n" + MESSAGE, 2)
        assert [answer.status for answer in answers] == [400]


def test_refuses_chunks_in_a_version_that_has_none(door: Door) -> None:
    with door.untouched():
        answers = door.raw(head(door, b"POST /mcp HTTP/1.0") + TE + b"\r\n" + CHUNKED, 2)
        assert [answer.status for answer in answers] == [400]


def test_a_trailer_is_no_header(door: Door) -> None:
    bare = anonymous(door)
    token = door.gw.token().encode()
    trailer = CHUNKED[:-2] + b"Authorization: Bearer " + token + b"\r\n\r\n"
    with door.untouched():
        assert [a.status for a in door.raw(bare + TE + b"\r\n" + trailer)] == [401]


def test_a_trailer_cannot_undo_a_header(door: Door) -> None:
    trailer = CHUNKED[:-2] + b"Mcp-Name: other__echo\r\nHost: evil.example\r\n\r\n"
    answers = door.raw(head(door) + TE + b"\r\n" + trailer)
    assert [a.status for a in answers] == [200]


def test_what_follows_a_last_request_is_not_read(door: Door) -> None:
    last = head(door) + LENGTH + b"Connection: close\r\n\r\n" + MESSAGE
    before = len(door.calls())
    assert [a.status for a in door.raw(last + last, 2)] == [200]
    assert len(door.calls()) == before + 1


def test_a_refused_body_is_not_taken_for_a_request(door: Door) -> None:
    inner = head(door) + LENGTH + b"\r\n" + MESSAGE
    outer = head(door).replace(b"application/json\r\n", b"text/plain\r\n")
    with door.untouched():
        answers = door.raw(
            outer + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(inner) + inner, 2
        )
        assert [a.status for a in answers] == [415]


def test_a_trailer_without_end_is_cut_off(door: Door) -> None:
    with door.untouched(), door.connect() as sock:
        sock.sendall(head(door) + TE + b"\r\n0\r\nX: ")
        with pytest.raises(ConnectionError):
            for _ in range(128):
                sock.sendall(b"a" * 65536)


def test_a_trailer_without_end_behind_an_answer_brings_no_second_one(door: Door) -> None:
    with door.untouched(), door.connect() as sock:
        sock.sendall(anonymous(door) + TE + b"\r\n0\r\nX: ")
        assert [a.status for a in door.read(sock)] == [401]
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"a" * 100_000)
        assert door.read(sock) == []


def test_a_broken_body_behind_an_answer_brings_no_second_one(door: Door) -> None:
    with door.untouched(), door.connect() as sock:
        sock.sendall(anonymous(door) + TE + b"\r\n")
        assert [a.status for a in door.read(sock)] == [401]
        sock.sendall(b"zz\r\n")
        assert door.read(sock) == []


def test_a_body_that_was_never_asked_for_is_not_waited_for(door: Door) -> None:
    with door.untouched(), door.connect() as sock:
        sock.sendall(anonymous(door) + b"Expect: 100-continue\r\nContent-Length: 40\r\n\r\n")
        [answer] = door.read(sock)
        assert (answer.status, answer.headers.get("connection")) == (401, "close")
        assert closed(sock, 0.5)
