"""The load generator: a closed loop of c keep-alive connections, and what the server paid for it.

Runs as a process of its own and prints one JSON object (the fields of `Cell`). No task per request:
each answer sends the next request from the same callback. An answer that is not the canned one, or a
lost connection, is an error. The server's CPU time is read at both ends of the window by this very
process, so that window and reading are the same span.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import cast

import httptools
import uvloop
from processes import cpu_seconds, rss_bytes
from wire import CALL_ANSWER, AnswerParser, is_expected

_OK = b"HTTP/1.1 200"
_WARM_SECONDS = 0.3
_MAX_ERRORS = 200


@dataclass(frozen=True, slots=True)
class Cell:
    """One measured window. `cpu_us` is user+system time of the server's process tree per request;
    `busy` that time per second of wall time (1.0 is one core)."""

    requests: int
    errors: int
    first_error: str
    rps: float
    cpu_us: float
    busy: float
    p50_ms: float
    p99_ms: float
    rss_mib: float


class Run:
    """What the connections of one cell share.

    `right` judges a body. `interval` is the seconds between two requests of one connection, 0 for as
    fast as the answers come; a request that goes out late counts from when it was due.
    """

    def __init__(self, request: bytes, right: Callable[[bytes], bool], interval: float) -> None:
        self.request = request
        self.right = right
        self.interval = interval
        self.latencies: array[float] = array("d")
        self.measuring = False
        self.stopped = False
        self.unanswered = 0
        self.errors = 0
        self.first_error = ""
        self.failed = asyncio.Event()

    def error(self, reason: str) -> None:
        """Count one wrong answer; after too many the cell gives up."""
        self.errors += 1
        self.first_error = self.first_error or reason
        if self.errors >= _MAX_ERRORS:
            self.failed.set()


class Different:
    """Judges token answers: each must bring a token that none before it was."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def is_new_token(self, body: bytes) -> bool:
        """Whether `body` is a token endpoint's success with a token of its own."""
        try:
            signature = json.loads(body)["access_token"].rpartition(".")[2]
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
        new = signature not in self._seen
        self._seen.add(signature)
        return new


class Connection(asyncio.Protocol):
    """One connection with one request in flight."""

    def __init__(self, run: Run, reconnect: Callable[[], None]) -> None:
        self._run = run
        self._reconnect = reconnect
        self._started = 0.0
        self._answer: AnswerParser | None = None
        self._answered = False
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._run.unanswered += 1
        self._started = perf_counter()
        self._transport.write(self._run.request)

    def data_received(self, data: bytes) -> None:
        if self._answer is None and data.endswith(CALL_ANSWER) and data.startswith(_OK):
            self._next()
        else:
            self._read_slowly(data)

    def _next(self) -> None:
        run = self._run
        now = perf_counter()
        if run.measuring:
            run.latencies.append(now - self._started)
        if not self._answered:
            self._answered = True
            run.unanswered -= 1
        if run.stopped:
            return
        self._started = max(self._started + run.interval, now if run.interval == 0 else 0.0)
        if self._started <= now:
            self._transport.write(run.request)
        else:
            asyncio.get_running_loop().call_later(self._started - now, self._send)

    def _send(self) -> None:
        if not self._transport.is_closing():
            self._transport.write(self._run.request)

    def _read_slowly(self, data: bytes) -> None:
        """An answer in pieces, chunked, as an event stream, or wrong."""
        answer = self._answer = self._answer or AnswerParser()
        try:
            answer.feed(data)
        except httptools.HttpParserError as error:
            self._run.error(f"not HTTP: {error}")
            self._transport.close()
            return
        if answer.complete:
            self._answer = None
            if answer.status != 200 or not self._run.right(answer.body):
                self._run.error(f"{answer.status}: {answer.body[:200]!r}")
            self._next()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answered:
            self._run.unanswered -= 1
        if not self._run.stopped:
            self._run.error(f"the server closed the connection ({exc or 'no reason'})")
            if not self._run.failed.is_set():
                self._reconnect()


async def measure(
    port: int,
    request: bytes,
    c: int,
    seconds: float,
    pid: int,
    right: Callable[[bytes], bool] = is_expected,
    rate: float = 0,
) -> Cell:
    """Load 127.0.0.1:`port` with `c` connections for `seconds` after a warm-up, with `rate` requests a
    second in all (0: as fast as the answers come).

    The window grows up to five times where the server is too slow for two answers per connection.
    `pid` is the root of the server's process tree. Raises OSError where nothing listens.
    """
    loop = asyncio.get_running_loop()
    run = Run(request, right, c / rate if rate else 0.0)
    pending: set[asyncio.Task[None]] = set()

    async def connect() -> None:
        try:
            await loop.create_connection(lambda: Connection(run, reconnect), "127.0.0.1", port)
        except OSError as error:
            run.error(str(error))
            run.failed.set()

    def reconnect() -> None:
        task = loop.create_task(connect())
        pending.add(task)
        task.add_done_callback(pending.discard)

    for number in range(c):
        await connect()
        if rate and number:
            await asyncio.sleep(1 / rate)
    await _wait(run, _WARM_SECONDS, 5 * seconds + 5, lambda: run.unanswered == 0)
    cpu, started = cpu_seconds(pid), perf_counter()
    run.measuring = True
    await _wait(run, seconds, 5 * seconds, lambda: len(run.latencies) >= 2 * c)
    run.measuring = False
    elapsed, cpu = perf_counter() - started, cpu_seconds(pid) - cpu
    run.stopped = True
    return _cell(run, elapsed, cpu, rss_bytes(pid))


async def _wait(run: Run, least: float, most: float, enough: Callable[[], bool]) -> None:
    """Wait `least` seconds, then until `enough()`, `most` seconds, or the run has failed."""
    started = perf_counter()
    while not run.failed.is_set():
        waited = perf_counter() - started
        left = least - waited
        if left <= 0 and (enough() or waited >= most):
            return
        try:
            await asyncio.wait_for(run.failed.wait(), left if left > 0 else 0.05)
        except TimeoutError:
            continue


def _cell(run: Run, elapsed: float, cpu: float, rss: int) -> Cell:
    done = len(run.latencies)
    if done == 0:
        run.error("no answer within the window")
    ordered = sorted(run.latencies) or [0.0]
    return Cell(
        requests=done,
        errors=run.errors,
        first_error=run.first_error,
        rps=done / elapsed,
        cpu_us=cpu / max(done, 1) * 1e6,
        busy=cpu / elapsed,
        p50_ms=ordered[len(ordered) // 2] * 1e3,
        p99_ms=ordered[int(len(ordered) * 0.99)] * 1e3,
        rss_mib=rss / 2**20,
    )


def main() -> None:
    """Measure one cell and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--request", type=Path, required=True, help="file with the request's bytes")
    parser.add_argument("--c", type=int, required=True, help="connections")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--pid", type=int, required=True, help="root of the server's process tree")
    parser.add_argument("--rate", type=float, default=0, help="requests a second; 0: no limit")
    parser.add_argument("--token", action="store_true", help="a new access_token is the answer")
    given = parser.parse_args()
    request = given.request.read_bytes()
    right = Different().is_new_token if given.token else is_expected
    cell = uvloop.run(
        measure(given.port, request, given.c, given.seconds, given.pid, right, given.rate)
    )
    json.dump(asdict(cell), sys.stdout)


if __name__ == "__main__":
    main()
