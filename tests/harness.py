"""Real processes for tests: a laptop issuer, a gateway, a tool server, all on loopback."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests import launched

ROOT = Path(__file__).parent.parent
MODERN = "2026-07-28"
START_SECONDS = 20.0

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody. Each client would else read all authorities of the system, which takes longest."""


def free_port() -> int:
    """A port of loopback that stays ours over a restart: none that the kernel gives to others by itself."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Issuer:
    """An OpenID Connect issuer in a thread of the test: discovery, keys, and tokens at will."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.fetches = 0
        self.issued: list[str] = []
        self.known: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        routes = [
            Route("/.well-known/openid-configuration", self._discovery),
            Route("/jwks", self._jwks),
            Route("/introspect", self._introspect, methods=["POST"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), port=self.port, log_config=None, lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> Issuer:
        """Listen; returns itself once it answers."""
        self._thread.start()
        wait_for(lambda: self._server.started, "the issuer to listen")
        return self

    def stop(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        self._thread.join(10)

    def _discovery(self, request: Request) -> JSONResponse:
        return JSONResponse(
            {
                "issuer": self.url,
                "jwks_uri": f"{self.url}/jwks",
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "introspection_endpoint": f"{self.url}/introspect",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
            }
        )

    def _jwks(self, request: Request) -> JSONResponse:
        self.fetches += 1
        member = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        return JSONResponse({"keys": [{**member, "kid": "k1", "alg": "ES256", "use": "sig"}]})

    async def _introspect(self, request: Request) -> JSONResponse:
        """What it says of a token (RFC 7662), to the client gateway only."""
        expected = base64.b64encode(b"gateway:gateway-secret").decode()
        if request.headers.get("authorization") != f"Basic {expected}":
            return JSONResponse({"error": "invalid_client"}, 401)
        token = parse_qs((await request.body()).decode())["token"][0]
        self.asked.append(token)
        said = self.known.get(token)
        return JSONResponse({"active": said is not None, **(said or {})})

    def opaque(self, audience: str, **claims: Any) -> str:
        """A token that only `/introspect` can tell about, with claims as those of `token`."""
        self.issued.append(f"opaque-{time.monotonic_ns()}~{len(self.issued)}")
        said = {**self._claims(audience), "token_type": "Bearer", **claims}
        self.known[self.issued[-1]] = {k: v for k, v in said.items() if v is not None}
        return self.issued[-1]

    def token(self, audience: str, **claims: Any) -> str:
        """An access token of alice through planner for `audience`; `claims` add, replace, or (None) drop."""
        payload = {k: v for k, v in {**self._claims(audience), **claims}.items() if v is not None}
        headers = {"kid": "k1", "typ": "at+jwt"}
        self.issued.append(jwt.encode(payload, self.key, "ES256", headers=headers))
        return self.issued[-1]

    def _claims(self, audience: str) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.url, "sub": "alice", "aud": audience, "azp": "planner",
            "scope": "tickets.read tickets.write", "groups": ["support"],
            "iat": now, "exp": now + 900, "jti": f"idp-{time.monotonic_ns()}",
        }  # fmt: skip


def wait_for(condition: Any, what: str, seconds: float = START_SECONDS) -> None:
    """Wait until `condition()` is true; fails the test with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.01)


def stay_within_an_hour() -> None:
    """Wait where an hour is about to turn: some bounds count by it."""
    wait_for(lambda: time.time() % 3600 < 3570, "the hour to turn", 40)


def base_config(issuer: Issuer, url: str, folder: Path) -> dict[str, Any]:
    """A configuration with alice, planner and coder, and no servers or grants."""
    return {
        "version": 1,
        "public_url": url,
        "listen": url.removeprefix("http://"),
        "state_dir": str(folder / "state"),
        "dev": True,
        "issuers": {
            "laptop": {
                "issuer": issuer.url,
                "audiences": [f"{url}/mcp"],
                "groups_claim": "groups",
            }
        },
        "agents": {
            "planner": {
                "clients": [{"issuer": "laptop", "client_id": "planner", "confidential": True}],
                "may_hand_to": ["coder"],
                "auth": {"secret": "planner-secret-for-tests"},
            },
            "coder": {"auth": {"secret": "coder-secret-for-tests"}},
        },
        "servers": {},
        "grants": [],
    }


def allow_all(*servers: str) -> list[dict[str, Any]]:
    """Grants that let everybody do everything with these servers."""
    kinds = {
        kind: [f"{server}/*" for server in servers]
        for kind in ("tools", "resources", "prompts", "methods")
    }
    return [{"users": ["*"], **kinds}, {"agents": ["*"], **kinds}]


@dataclass
class Gateway:
    """A gateway as a process of its own. `config` may be changed between `write` and `reload`."""

    folder: Path
    issuer: Issuer
    config: dict[str, Any]
    process: subprocess.Popen[bytes] | launched.Forked | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    transport: Callable[[], httpx2.BaseTransport] = lambda: httpx2.HTTPTransport(verify=NO_TLS)
    preexec: Callable[[], None] | None = None

    @property
    def url(self) -> str:
        """Its public URL."""
        return str(self.config["public_url"])

    @property
    def file(self) -> Path:
        """Its configuration file."""
        return self.folder / "agentgw.yaml"

    @property
    def state(self) -> Path:
        """Its state directory."""
        return Path(self.config["state_dir"])

    @property
    def output(self) -> str:
        """What it has said on stderr so far."""
        return (self.folder / "stderr.txt").read_text(errors="replace")

    def write(self) -> None:
        """Write the configuration file, readable by its owner only; nobody ever reads half of it."""
        new = self.file.with_suffix(".new")
        new.touch(mode=0o600)
        new.write_text(json.dumps(self.config, indent=1))
        new.replace(self.file)

    def start(self, ready: bool = True) -> Gateway:
        """Start the process; by default returns once it is ready and has asked all servers."""
        self.write()
        said = self.folder / "stderr.txt"
        arguments = ("serve", "--config", str(self.file), *self.arguments)
        env = {**os.environ, "PYTHONPATH": str(ROOT), **self.env}
        if self.arguments or self.preexec:
            with said.open("ab") as stderr:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "agentgw", *arguments],
                    cwd=self.folder,
                    stderr=stderr,
                    env=env,
                    preexec_fn=self.preexec,
                )
        else:
            self.process = launched.Forked(arguments, self.folder, said, env)
        if ready:
            wait_for(self.is_ready, "the gateway to be ready")
        return self

    def is_ready(self) -> bool:
        """Whether /readyz says so."""
        assert self.process is None or self.process.poll() is None, self.output
        listen = str(self.config["listen"])
        if listen.startswith("unix:") and not Path(listen.removeprefix("unix:")).is_socket():
            return False  # the client leaks a socket for each failed attempt
        with contextlib.suppress(httpx2.HTTPError), self.client() as client:
            return client.get("/readyz").status_code == 200
        return False

    def client(self, token: str | None = None) -> httpx2.Client:
        """A client of it, as whoever holds `token`."""
        return httpx2.Client(
            base_url=self.url,
            transport=self.transport(),
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=30,
        )

    def call(self, name: str, token: str | None = None, **arguments: Any) -> httpx2.Response:
        """Call a tool on `/mcp`, as alice through planner unless `token` says else."""
        message = modern_call(name, arguments)
        with self.client() as client:
            headers = modern_headers(message, token or self.token())
            return client.post("/mcp", json=message, headers=headers)

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `agentgw WORDS... --config FILE` with its file; it must succeed."""
        done = launched.run(*words, "--config", self.file, env={**os.environ, **self.env})
        assert done.returncode == 0, done.stderr
        return done

    def reload(self) -> None:
        """Write the configuration and make it reload; returns once all workers say they did, or refused."""
        self.write()
        due = self._reloads() + int(self.config.get("workers", 1))
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        wait_for(lambda: self._reloads() >= due, "the reload")

    def _reloads(self) -> int:
        """How often a worker has said what became of a reload."""
        said = self.output
        return said.count("reloaded: ") + said.count("reload refused, ")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it with a signal; returns the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self) -> None:
        """End it at once, if it is still there."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def records(self) -> list[dict[str, Any]]:
        """All records of all its logs; a line that is being written is none yet."""
        files = sorted((self.state / "log").glob("*/*.jsonl"))
        lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
        return [json.loads(line) for line in lines if line.endswith(b"\n")]

    def token(self, **claims: Any) -> str:
        """A token of its issuer for its /mcp."""
        return self.issuer.token(f"{self.url}/mcp", **claims)


@contextlib.contextmanager
def gateway(
    folder: Path,
    issuer: Issuer,
    changes: Mapping[str, Any],
    ready: bool = True,
    env: Mapping[str, str] | None = None,
) -> Iterator[Gateway]:
    """A running gateway with `changes` laid over `base_config`; killed at the end if still there."""
    url = f"http://127.0.0.1:{free_port()}"
    config = {**base_config(issuer, url, folder), **changes}
    running = Gateway(folder, issuer, config, env=env or {})
    try:
        yield running.start(ready)
    finally:
        running.kill()


@contextlib.contextmanager
def faulty_server(*arguments: str) -> Iterator[str]:
    """tools/servers/faulty.py on a free port; yields its base URL."""
    command = [sys.executable, str(ROOT / "tools/servers/faulty.py"), "--port", "0", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.kill()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


def modern_call(
    name: str, arguments: Mapping[str, Any], request_id: int | str = 1
) -> dict[str, Any]:
    """A 2026-07-28 tools/call message."""
    return modern_message("tools/call", {"name": name, "arguments": dict(arguments)}, request_id)


def modern_message(
    method: str, params: Mapping[str, Any], request_id: int | str = 1
) -> dict[str, Any]:
    """A 2026-07-28 request with its envelope."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
    }
    return {
        "jsonrpc": "2.0", "id": request_id, "method": method,
        "params": {**params, "_meta": {**meta, **params.get("_meta", {})}},
    }  # fmt: skip


def modern_headers(message: Mapping[str, Any], token: str | None) -> dict[str, str]:
    """The headers a 2026-07-28 client sends with `message`."""
    headers = {
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": str(message["method"]),
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
    }
    params = message.get("params", {})
    name = params.get("name", params.get("uri"))
    if isinstance(name, str):
        headers["Mcp-Name"] = name
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return headers
