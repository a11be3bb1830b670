"""The laptop installation: issuer, tickets and the gateway, from an agentgw.yaml, for as long as it is open.

The stories of `examples/agents` stand on the same stage. Their agentgw.yaml gets what differs from run
to run (ports, folders, fresh secrets) through `${env:...}`; see `Stage.environment`.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agentgw.demo.issuer import Issuer, public_jwk
from agentgw.demo.processes import Processes, free_port, is_open, owner_only


class Stage:
    """Opens everything on loopback; closes it, processes and files, whatever happens.

    `configuration(stage)` gives the text of agentgw.yaml once ports and folders are known. `port` is
    the gateway's, any free one by default. `with_thief` lets tickets copy its last call to `leak`.
    """

    def __init__(
        self,
        configuration: Callable[[Stage], str],
        *,
        port: int | None = None,
        with_thief: bool = False,
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="agentgw-"))
        self.issuer = Issuer()
        self.listen = f"127.0.0.1:{port or free_port()}"
        self.gateway = f"http://{self.listen}"
        self.tickets_port = free_port()
        self.tickets = f"http://127.0.0.1:{self.tickets_port}/mcp"
        self.leak = self.folder / "stolen.json"
        self.config = self.folder / "agentgw.yaml"
        self.state = self.folder / "state"
        self.planner_secret = secrets.token_urlsafe(32)
        self._coder = ec.generate_private_key(ec.SECP256R1())
        self._configuration = configuration
        self._leaking = ["--leak-to", str(self.leak)] if with_thief else []
        # Settings that the user made for a gateway of their own do not belong here.
        own = {name: value for name, value in os.environ.items() if not name.startswith("AGENTGW_")}
        self._environment = {**own, **self.environment}
        self._processes = Processes(self.folder, self._environment)
        self._handlers: dict[signal.Signals, Any] = {}

    @property
    def coder_key(self) -> str:
        """The private key of the agent coder, in PEM; the gateway knows the public one only."""
        key = self._coder.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key.decode("ascii")

    @property
    def environment(self) -> dict[str, str]:
        """What an agentgw.yaml may refer to as `${env:...}`."""
        return {
            "GATEWAY": self.gateway,
            "LISTEN": self.listen,
            "STATE": str(self.state),
            "ISSUER": self.issuer.url,
            "TICKETS": self.tickets,
            "PLANNER_SECRET": self.planner_secret,
            "CODER_JWKS": str(self.folder / "coder.jwks.json"),
        }

    def __enter__(self) -> Stage:
        self._handlers = _end_like_an_interrupt()
        try:
            self._open()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._processes.close()
        self.issuer.__exit__(kind, error, trace)
        for signum, handler in self._handlers.items():
            signal.signal(signum, handler)

    def _open(self) -> None:
        self.issuer.__enter__()
        keys = {"keys": [public_jwk(self._coder, "coder-1")]}
        owner_only(self.folder / "coder.jwks.json", json.dumps(keys))
        owner_only(self.folder / "planner.secret", self.planner_secret)
        login = self.issuer.register("agentgw", f"{self.gateway}/oauth/callback")
        owner_only(self.folder / "login.secret", login)
        owner_only(self.config, self._configuration(self))
        start, wait = self._processes.start, self._processes.wait_until
        tickets = ["--port", str(self.tickets_port), "--issuer", self.gateway]
        start("tickets", ["-m", "agentgw.demo.tickets", *tickets, *self._leaking])
        # First the tools: the gateway remembers for a while that a server was not there.
        wait(lambda: is_open(self.tickets_port), "tickets")
        start("gateway", ["-m", "agentgw", "serve", "--config", str(self.config)])
        wait(self._is_ready, "gateway")

    @property
    def gateway_pid(self) -> int:
        """The process to send SIGHUP to."""
        return self._processes.pid("gateway")

    def check(self) -> None:
        """Raises AgentgwError if one of the processes has ended."""
        self._processes.check()

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `agentgw ARGUMENTS` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "agentgw", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env=self._environment,
        )

    def _is_ready(self) -> bool:
        try:
            return httpx2.get(f"{self.gateway}/readyz", trust_env=False).status_code == 200
        except httpx2.HTTPError:
            return False


def _end_like_an_interrupt() -> dict[signal.Signals, Any]:
    """Let SIGTERM and SIGHUP unwind the stack as SIGINT does, so that everything is closed.

    Returns the handlers there were before.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    ends = (signal.SIGTERM, signal.SIGHUP)
    return {signum: signal.signal(signum, interrupt) for signum in ends}
