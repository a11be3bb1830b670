"""Several processes on one listening socket: the parent that starts, tells and replaces them."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable

from agentgw.app.listener import Listener
from agentgw.app.restart import keep_until_restart
from agentgw.config.model import Config
from agentgw.errors import AgentgwError, ConfigError

FAILED, BAD_CONFIG = 1, 3
RESTART_SECONDS = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Run = Callable[[Config, Listener, int, int], None]
"""Runs one worker to its end: configuration, socket, number, and a pipe that ends with its parent."""

_log = logging.getLogger("agentgw")


class Workers:
    """Keeps `config.workers` processes running. `load` reads the configuration anew."""

    def __init__(
        self, load: Callable[[], Config], config: Config, listener: Listener, run: Run
    ) -> None:
        self._load = load
        self._config = config
        self._listener = listener
        self._run = run
        self._children: dict[int, int] = {}
        self._stopping = False
        self._exit_code = 0
        # Each worker reads it: that end closes with this process, however that may die.
        self._life, self._hold = os.pipe()

    def run(self) -> int:
        """Return the exit code once every worker has drained."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        signal.signal(signal.SIGHUP, lambda *_: self._reload())
        for worker in range(1, self._config.workers + 1):
            self._start(worker)
        replaced: set[int] = set()
        while self._children:
            pid, status = os.wait()
            worker_number = self._children.pop(pid, None)
            if worker_number is None or self._stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code == BAD_CONFIG and worker_number not in replaced:
                # It never served: what is wrong for one at the start is wrong for all.
                self._exit_code = code
                self._stop()
                continue
            how = f"was ended by signal {-code}" if code < 0 else f"exited with code {code}"
            _log.error("worker %d %s; it is started again", worker_number, how)
            time.sleep(RESTART_SECONDS)
            replaced.add(worker_number)
            if not self._stopping:
                self._start(worker_number)
        return self._exit_code

    def _start(self, worker: int) -> None:
        # A signal between fork and the worker's own handlers waits instead of reaching ours.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            pid = os.fork()
            if pid == 0:
                self._become(worker)
            self._children[pid] = worker
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def _become(self, worker: int) -> None:
        """The worker's whole life, in the forked process."""
        code = FAILED
        try:
            os.close(self._hold)
            logging.getLogger().handlers[0].setFormatter(
                logging.Formatter(
                    f"%(asctime)s %(levelname)s worker {worker} %(name)s: %(message)s"
                )
            )
            self._run(self._config, self._listener, worker, self._life)
            code = 0
        except ConfigError as error:
            _log.error("%s", error)
            code = BAD_CONFIG
        except AgentgwError as error:
            _log.error("%s", error)
        except BaseException:
            _log.exception("failed")
        finally:
            os._exit(code)

    def _reload(self) -> None:
        """Tell all; workers started from now on begin with what these have then."""
        try:
            self._config, _ = keep_until_restart(self._config, self._load())
        except Exception as error:
            # Each worker reads for itself and says so; here it only means to keep the last good one.
            _log.debug("not taken for later workers: %s", error)
        self._tell(signal.SIGHUP)

    def _stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._listener.close()
        self._tell(signal.SIGTERM)

    def _tell(self, number: int) -> None:
        for pid in list(self._children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
