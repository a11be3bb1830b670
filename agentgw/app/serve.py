"""One process of the gateway: its event loop, its signals, its way out."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import uvicorn
import uvloop

from agentgw.app.composition import App
from agentgw.app.listener import BACKLOG, Listener, check_tls
from agentgw.app.opening import build
from agentgw.app.workers import Workers
from agentgw.config.model import Config
from agentgw.errors import AgentgwError, ConfigError
from agentgw.http.client_certificate import request_certificates
from agentgw.http.connection import Limits, connections

IMPATIENT_SECONDS = 1.0
"""From then on a second signal means that somebody will not wait; before, it came by two ways."""

_log = logging.getLogger("agentgw")

Load = Callable[[], Config]


def serve(load: Load) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads. `load` reads the configuration, now and then.

    Returns the exit code. Raises ConfigError for a wrong configuration, AgentgwError where the address
    or the state directory cannot be had.
    """
    _set_up_logging()
    config = load()
    check_tls(config)
    listener = Listener(config)
    try:
        if config.workers > 1:
            return Workers(load, config, listener, lambda *given: _Worker(load, *given).run()).run()
        _Worker(load, config, listener, 1).run()
        return 0
    finally:
        listener.close()


def _set_up_logging() -> None:
    level = os.environ.get("AGENTGW_LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(
            "AGENTGW_LOG_LEVEL", 0, "is no level", "use DEBUG, INFO, WARNING or ERROR"
        )
    logging.basicConfig(
        stream=sys.stderr,
        level=level,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


class _Worker:
    """Runs one gateway on `listener`. `parent` is a pipe that ends when the parent process does."""

    def __init__(
        self,
        load: Load,
        config: Config,
        listener: Listener,
        number: int = 1,
        parent: int | None = None,
    ) -> None:
        self._load = load
        self._config = config
        self._listener = listener
        self._number = number
        self._parent = parent
        self._app: App | None = None
        self._server: _Server | None = None
        self._stopped_at: float | None = None
        self._hung_up = asyncio.Event()

    def run(self) -> None:
        """Return once drained. Raises what `build` raises."""
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._listen_to_signals(loop)
        app = self._app = await build(self._config, self._number)
        _spare_the_collector()
        tasks = [loop.create_task(app.warm_up()), loop.create_task(self._reload_when_told())]
        try:
            if self._stopped_at is None:
                self._server = _Server(_uvicorn_config(self._config, app))
                self._request_certificates()
                app.on_new_anchors = self._request_certificates
                self._announce()
                await self._server.serve(sockets=[self._listener.socket])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await app.close()

    def _listen_to_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hung_up.set)
        if self._parent is None:
            loop.add_signal_handler(signal.SIGINT, self._stop)
        else:
            # Ctrl-C reaches the whole group; the parent passes it on, once.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGHUP))
            loop.add_reader(self._parent, self._orphaned, loop)

    def _orphaned(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._parent is not None
        loop.remove_reader(self._parent)
        _log.error("the parent process is gone; stopping")
        self._stop()

    def _stop(self) -> None:
        """Drain at the first signal; at a later one give up what is still in flight."""
        now = time.monotonic()
        if self._stopped_at is not None:
            if now - self._stopped_at > IMPATIENT_SECONDS and self._server is not None:
                _log.warning("told to stop again: calls in flight are given up")
                self._server.give_up()
            return
        self._stopped_at = now
        if self._app is None or self._server is None:
            return
        # A call takes at most its server's time-out, so all of them come to their end.
        config = self._app.config
        timeouts = [config.call_timeout(server) for server in config.servers.values()]
        seconds = self._server.config.timeout_graceful_shutdown = int(max(timeouts, default=0)) + 2
        _log.info("stopping: calls in flight have %d s to finish", seconds)
        self._server.should_exit = True
        self._app.end_streams()

    async def _reload_when_told(self) -> None:
        """One reload at a time; signals that come meanwhile make one more."""
        while True:
            await self._hung_up.wait()
            self._hung_up.clear()
            await self._reload()

    async def _reload(self) -> None:
        assert self._app is not None
        try:
            config = await asyncio.to_thread(self._load)
            check_tls(self._config)
            left = await self._app.reload(config)
        except (AgentgwError, OSError) as error:
            _log.error("reload refused, the last good configuration stays: %s", error)
            return
        except Exception:
            _log.exception("reload refused, the last good configuration stays")
            return
        if self._config.tls is not None and self._server is not None and self._server.config.ssl:
            # A renewed certificate stands under the old name; new connections get it.
            self._server.config.ssl.load_cert_chain(self._config.tls.cert, self._config.tls.key)
            self._request_certificates()
        _log.info("reloaded: %s is applied", self._app.policy.version)
        if left:
            _log.warning("these need a restart and stay as they were: %s", ", ".join(left))

    def _request_certificates(self) -> None:
        """Ask new connections for a client certificate where one could prove an agent."""
        assert self._server is not None and self._app is not None
        if not self._server.config.loaded:
            self._server.config.load()
        anchors = self._app.credentials.anchors_pem
        if self._server.config.ssl is not None and anchors:
            request_certificates(self._server.config.ssl, anchors)

    def _announce(self) -> None:
        if self._number == 1:
            config, scheme = self._config, "https" if self._config.tls else "http"
            where, url = config.listen, config.public_url
            _log.info("listening on %s (%s), public URL %s", where, scheme, url)


def _spare_the_collector() -> None:
    """Take what start-up made out of the garbage collector's sight, and call it less often.

    A call makes short-lived objects and hardly a cycle; looking through everything the imports left,
    over and over, was a good part of its cost (ADR 10).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


class _Server(uvicorn.Server):
    """uvicorn's server, with our own signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def give_up(self) -> None:
        """Cancel what is in flight; its outcome is recorded as that."""
        for task in list(self.server_state.tasks):
            task.cancel()
        self.force_exit = True


def _uvicorn_config(config: Config, app: App) -> uvicorn.Config:
    limits = config.limits
    within = Limits(limits.headers, limits.header_count, limits.header_deadline)
    return uvicorn.Config(
        app.site,
        http=cast(Any, connections(app.site, within)),
        ws="none",
        lifespan="off",
        loop="uvloop",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        ssl_certfile=str(config.tls.cert) if config.tls else None,
        ssl_keyfile=str(config.tls.key) if config.tls else None,
    )
