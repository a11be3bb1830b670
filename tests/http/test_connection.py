"""The connection itself: slow, broken, greedy and impatient clients."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time

import pytest

from tests.door import Door, closed
from tests.harness import modern_call, modern_headers, wait_for

LINGER = 4.0
"""Seconds in which a connection with deadlines of one second must be gone."""


def request(door: Door, request_id: int = 1, name: str = "echo", **arguments: object) -> bytes:
    message = modern_call(f"time__{name}", arguments, request_id)
    headers = modern_headers(message, door.gw.token())
    body = json.dumps(message).encode()
    headers |= {"Host": f"127.0.0.1:{door.port}", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /mcp HTTP/1.1\r\n{lines}\r\n".encode() + body


def test_closes_on_a_client_that_says_nothing(door: Door) -> None:
    with door.untouched(), door.connect() as sock:
        assert closed(sock, LINGER)


def test_closes_on_a_head_that_drips(door: Door) -> None:
    with door.untouched(), door.connect() as sock:
        started = time.monotonic()
        with pytest.raises(ConnectionError):
            for byte in request(door):
                sock.sendall(bytes([byte]))
                time.sleep(0.05)  # the drip is the attack
                assert time.monotonic() - started < LINGER


@pytest.mark.parametrize("nothing", [b"\r\n", b"\r\n\r\n\r\n"])
def test_empty_lines_do_not_keep_an_idle_connection(door: Door, nothing: bytes) -> None:
    with door.connect() as sock:
        sock.sendall(request(door))
        assert [a.status for a in door.read(sock)] == [200]
        sock.sendall(nothing)
        assert closed(sock, LINGER)


def test_answers_a_slow_body_with_408(door: Door) -> None:
    whole = request(door)
    with door.connect() as sock:
        before = len(door.calls())
        sock.sendall(whole[:-5])
        assert [a.status for a in door.read(sock)] == [408]
        assert closed(sock, LINGER)
        assert len(door.calls()) == before
    door.honest()


def test_closes_where_the_rest_of_a_refused_body_never_comes(door: Door) -> None:
    with door.untouched(), door.connect() as sock:
        head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nContent-Length: 9999\r\n\r\nx"
        sock.sendall(head.encode())
        assert [a.status for a in door.read(sock)] == [401]
        assert closed(sock, LINGER)


def test_keeps_a_connection_whose_refused_body_came_late(door: Door) -> None:
    with door.connect() as sock:
        head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nContent-Length: 4\r\n\r\nab"
        sock.sendall(head.encode())
        assert [a.status for a in door.read(sock)] == [401]
        sock.sendall(b"cd" + request(door))
        assert [a.status for a in door.read(sock)] == [200]


def test_answers_pipelined_requests_in_order(door: Door) -> None:
    many = request(door, 1, "slow", seconds=0.2)
    many += b"".join(request(door, n, text="x" * 10_000) for n in range(2, 20))
    answers = door.raw(many, 19)
    assert [a.status for a in answers] == [200] * 19
    assert [json.loads(a.body)["id"] for a in answers] == list(range(1, 20))


def test_garbage_behind_a_request_never_passes_for_its_answer(door: Door) -> None:
    answers = door.raw(request(door, 1, "slow", seconds=0.3) + b"\x00garbage\r\n\r\n", 2)
    assert answers == []
    door.honest()


def test_a_client_that_goes_away_ends_its_call(door: Door) -> None:
    with door.connect() as sock:
        before = len(door.calls())
        sock.sendall(request(door, 1, "slow", seconds=30))
        wait_for(lambda: len(door.calls()) > before, "the call to reach the tool")
    wait_for(
        lambda: any(r.get("outcome") == "cancelled" for r in door.gw.records()),
        "the outcome on record",
        5,
    )
    door.honest()


def test_a_half_closed_client_harms_nobody(door: Door) -> None:
    with door.connect() as sock:
        sock.sendall(request(door))
        sock.shutdown(1)
        assert closed(sock, LINGER)
    with door.connect() as sock:
        sock.sendall(request(door)[:-3])
        sock.shutdown(1)
        assert closed(sock, LINGER)
    door.honest()


def test_a_thousand_garbage_connections_leave_it_healthy(door: Door) -> None:
    kinds = [
        b"", b"\r\n", b"\x16\x03\x01" + bytes(100), b"GET", b"GET / HTTP/1.1\r\n",
        os.urandom(200), request(door)[:200], b"POST /mcp HTTP/1.1\r\nHost: x\r\n\r\n", b"\0" * 50,
        b"A" * 3000,
    ]  # fmt: skip
    with door.untouched():
        for _ in range(10):
            socks = [door.connect() for _ in range(100)]
            for number, sock in enumerate(socks):
                sock.sendall(kinds[number % len(kinds)])
            for number, sock in enumerate(socks):
                if number % 3 == 0:
                    with contextlib.suppress(OSError):
                        sock.shutdown(2)
                sock.close()


def test_hundreds_of_mutated_requests_bring_no_failure_of_ours(door: Door) -> None:
    chance = random.Random(46001)
    honest = request(door, text="mutant")
    statuses: set[int] = set()
    failures = door.gw.output.count("Traceback")
    for _ in range(300):
        mutant = bytearray(honest)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(mutant))
            match chance.randrange(4):
                case 0:
                    mutant[at] = chance.randrange(256)
                case 1:
                    del mutant[at : at + chance.randint(1, 20)]
                case 2:
                    mutant[at:at] = chance.choice(
                        [b"\r\n", b'"', b"{", b"\0", b"\xff", b": ", b"a"]
                    )
                case 3:
                    mutant[at:at] = mutant[at : at + chance.randint(1, 40)]
        with door.connect() as sock:
            sock.sendall(mutant)
            sock.shutdown(1)
            statuses |= {answer.status for answer in door.read(sock)}
    assert statuses
    assert max(statuses) < 500
    assert door.gw.output.count("Traceback") == failures
    door.honest()
