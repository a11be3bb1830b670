"""Processes, sockets and signals around the application."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
import uvloop

from agentgw.app.composition import App, build
from agentgw.config.model import Config
from agentgw.errors import AgentgwError, ConfigError
from agentgw.http.connection import limited

DRAIN_SECONDS = 30
BACKLOG = 2048
RESTART_SECONDS = 1.0

_log = logging.getLogger("agentgw")


def serve(load: Callable[[], Config]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads. `load` reads the configuration, now and then.

    Raises ConfigError for a wrong configuration and OSError where the address cannot be had.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("AGENTGW_LOG_LEVEL", "INFO").upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    config = load()
    listener = _listen(config)
    if config.workers == 1:
        _run(load, config, listener, 1)
    else:
        _Parent(load, config, listener).run()


def _listen(config: Config) -> socket.socket:
    address = config.address
    if isinstance(address, Path):
        with contextlib.suppress(FileNotFoundError):
            if address.is_socket():
                address.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(address))
        address.chmod(0o660)
    else:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _run(load: Callable[[], Config], config: Config, listener: socket.socket, worker: int) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(load, config, listener, worker))


async def _serve(
    load: Callable[[], Config], config: Config, listener: socket.socket, worker: int
) -> None:
    app = await build(config, worker)
    server = _Server(_uvicorn_config(config, app))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, server, app)
    reloads: set[asyncio.Task[None]] = set()

    def on_hangup() -> None:
        task = loop.create_task(_reload(app, load))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    warm_up = loop.create_task(app.warm_up())
    _announce(config, worker)
    try:
        await server.serve(sockets=[listener])
    finally:
        warm_up.cancel()
        await app.close()


def _stop(server: _Server, app: App) -> None:
    server.should_exit = True
    app.end_streams()


async def _reload(app: App, load: Callable[[], Config]) -> None:
    try:
        config = await asyncio.to_thread(load)
        left = await app.reload(config)
    except (AgentgwError, OSError) as error:
        _log.error("reload refused, the last good configuration stays: %s", error)
        return
    _log.info("reloaded: %s is applied", app.policy.version)
    if left:
        _log.warning("these need a restart and stay as they were: %s", ", ".join(left))


def _announce(config: Config, worker: int) -> None:
    if worker == 1:
        scheme = "https" if config.tls else "http"
        _log.info("listening on %s (%s), public URL %s", config.listen, scheme, config.public_url)


class _Server(uvicorn.Server):
    """uvicorn's server, with our own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(config: Config, app: App) -> uvicorn.Config:
    limits = config.limits
    return uvicorn.Config(
        app.site,
        http=limited(limits.headers, limits.header_count, limits.header_deadline),
        ws="none",
        lifespan="off",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        backlog=BACKLOG,
        ssl_certfile=str(config.tls.cert) if config.tls else None,
        ssl_keyfile=str(config.tls.key) if config.tls else None,
    )


class _Parent:
    """Keeps `workers` processes on one listening socket; passes signals on, replaces the fallen."""

    def __init__(self, load: Callable[[], Config], config: Config, listener: socket.socket) -> None:
        self._load = load
        self._config = config
        self._listener = listener
        self._children: dict[int, int] = {}
        self._stopping = False

    def run(self) -> None:
        """Return once every worker has drained."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._tell(signal.SIGHUP))
        for worker in range(1, self._config.workers + 1):
            self._start(worker)
        while self._children:
            try:
                pid, status = os.wait()
            except InterruptedError:
                continue
            worker_number = self._children.pop(pid, None)
            if worker_number is None or self._stopping:
                continue
            _log.error("worker %d ended with status %d; starting it again", worker_number, status)
            time.sleep(RESTART_SECONDS)
            self._start(worker_number)

    def _start(self, worker: int) -> None:
        pid = os.fork()
        if pid:
            self._children[pid] = worker
            return
        code = 1
        try:
            _run(self._load, self._config, self._listener, worker)
            code = 0
        except ConfigError as error:
            _log.error("worker %d: %s", worker, error)
            code = 3
        except Exception:
            _log.exception("worker %d failed", worker)
        finally:
            os._exit(code)

    def _stop(self) -> None:
        self._stopping = True
        self._tell(signal.SIGTERM)

    def _tell(self, number: int) -> None:
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
