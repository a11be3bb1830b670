"""A gateway to attack: its front door, a canary behind it, and everything it ever said."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tests.harness import (
    Gateway,
    Issuer,
    faulty_server,
    gateway,
    modern_call,
    modern_headers,
    modern_message,
)

JSON_TYPE = "application/json"
HANDSHAKE = "2025-11-25"
TOOLS = ("echo", "fail", "progress", "structured", "slow")


@dataclass
class Answered:
    """One HTTP answer as it came over a socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> int | None:
        """The JSON-RPC error code, None where there is none."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return int(json.loads(self.body)["error"]["code"])
        return None


@dataclass
class Door:
    """The gateway, its issuer, and the file in which the tool servers write whatever reaches them."""

    gw: Gateway
    issuer: Issuer
    canary: Path
    said: list[bytes] = field(default_factory=list)

    @property
    def port(self) -> int:
        """Where the gateway listens."""
        port = urlsplit(self.gw.url).port
        assert port is not None
        return port

    def seen(self) -> list[dict[str, Any]]:
        """Every request that reached a tool server."""
        lines = self.canary.read_bytes().splitlines()
        return [request for request in map(json.loads, lines) if "headers" in request]

    def calls(self) -> list[dict[str, Any]]:
        """The tool calls among them, their bodies parsed as `message`."""
        found = []
        for request in self.seen():
            message = json.loads(request["body"]) if request["body"] else {}
            if message.get("method") == "tools/call":
                found.append({**request, "message": message})
        return found

    def post(
        self,
        message: Any,
        headers: Mapping[str, str] | None = None,
        *,
        path: str = "/mcp",
        token: str | None = None,
        drop: tuple[str, ...] = (),
    ) -> Answered:
        """Post a message (bytes as they are) with the headers of a 2026-07-28 client, changed at will."""
        shape = message if isinstance(message, dict) else modern_call("time__echo", {})
        full = {
            **modern_headers(shape, self.gw.token() if token is None else token),
            **(headers or {}),
        }
        lines = {name: value for name, value in full.items() if name not in drop}
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.request("POST", path, lines, body)

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Answered:
        """One request on a connection of its own."""
        lines = {"Host": f"127.0.0.1:{self.port}", **headers}
        if "Transfer-Encoding" not in headers:
            lines["Content-Length"] = str(len(body))
        head = f"{method} {path} HTTP/1.1\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        answers = self.raw(head.encode("latin-1") + b"\r\n" + body, method=method)
        assert len(answers) == 1, answers
        return answers[0]

    def raw(self, data: bytes, want: int = 1, method: str = "POST") -> list[Answered]:
        """Send bytes; read `want` answers, fewer where the gateway closes before."""
        with self.connect() as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(data)
            return self.read(sock, want, method)

    def connect(self) -> socket.socket:
        """A connection to the door."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def read(self, sock: socket.socket, want: int = 1, method: str = "POST") -> list[Answered]:
        """The next `want` answers on a connection, fewer where it is closed before."""
        wire = _Wire(sock)
        answers: list[Answered] = []
        while len(answers) < want and (answer := wire.answer(method)) is not None:
            answers.append(answer)
        self.said.append(bytes(wire.all))
        return answers

    def handshake(
        self, path: str = "/mcp/time", token: str | None = None, version: str = HANDSHAKE
    ) -> str:
        """Open a session of a 2025 agent; its id."""
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "t"}}
        message = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
        answer = self.in_session(message, None, path=path, token=token, version=None)
        assert answer.status == 200, answer
        return answer.headers["mcp-session-id"]

    def in_session(
        self,
        message: Mapping[str, Any],
        session: str | None,
        *,
        path: str = "/mcp/time",
        token: str | None = None,
        version: str | None = HANDSHAKE,
    ) -> Answered:
        """Post a message as a 2025 agent."""
        headers = {
            "Authorization": f"Bearer {self.gw.token() if token is None else token}",
            "Content-Type": JSON_TYPE,
            "Accept": "application/json, text/event-stream",
        }
        if version is not None:
            headers["MCP-Protocol-Version"] = version
        if session is not None:
            headers["Mcp-Session-Id"] = session
        return self.request("POST", path, headers, json.dumps(message).encode())

    def exchange(self, resource: str, agent: str = "planner") -> str:
        """A token of the gateway's own for one of its resources, by token exchange."""
        answer = httpx2.post(
            f"{self.gw.url}/oauth/token",
            data={
                "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
                "subject_token": self.gw.token(),
                "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "resource": resource,
            },
            auth=(agent, f"{agent}-secret-for-tests"),
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        self.issuer.issued.append(token)
        return token

    def honest(self) -> None:
        """The next honest call works."""
        answer = self.post(modern_call("time__echo", {"text": "honest"}))
        assert answer.status == 200, answer
        assert b"honest" in answer.body

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Nothing done inside reaches a tool, breaks the gateway, or spoils the next honest call."""
        before, said = len(self.calls()), len(self.said)
        yield
        assert len(self.calls()) == before, "a tool was called"
        for answer in self.said[said:]:
            assert not re.match(rb"HTTP/1.1 5", answer), answer[:200]
        assert self.gw.process is not None and self.gw.process.poll() is None
        self.honest()

    def secrets(self) -> set[str]:
        """Every token that was ever used on either side."""
        bearers = [request["headers"].get("authorization", "") for request in self.seen()]
        return {value.partition(" ")[2] for value in bearers} | set(self.issuer.issued)

    def leaks(self) -> list[str]:
        """Where a secret, or a token's claims or signature, shows: in stderr, log or answers."""
        log = [file for file in (self.gw.state / "log").rglob("*") if file.is_file()]
        texts = {
            "stderr": self.gw.output.encode(),
            "answers": b"\n".join(self.said),
            "log": b"".join(file.read_bytes() for file in log),
        }
        fixed = [b"planner-secret-for-tests", b"coder-secret-for-tests", b"PRIVATE KEY"]
        parts = {part.encode() for secret in self.secrets() for part in secret.split(".")[1:]}
        found = []
        for place, text in texts.items():
            runs = set(re.findall(rb"[A-Za-z0-9_-]{21,}", text))
            found += [(place, secret) for secret in fixed if secret in text]
            found += [(place, secret) for secret in parts & runs]
        return [f"{place}: {secret[:8]!r}…" for place, secret in found]


class _Wire:
    """Reads HTTP/1.1 answers off a socket, one after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.all = bytearray()

    def _more(self) -> bool:
        try:
            data = self._sock.recv(65536)
        except ConnectionError:
            data = b""
        self._buffer += data
        self.all += data
        return bool(data)

    def _until(self, mark: bytes) -> bytes | None:
        while mark not in self._buffer:
            if not self._more():
                return None
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            if not self._more():
                break
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def answer(self, method: str) -> Answered | None:
        """The next answer, None at the end."""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        body = b""
        if method != "HEAD":
            body = self._body(headers)
        return Answered(int(first.split(" ")[1]), headers, body)

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") != "chunked":
            return self._take(int(headers.get("content-length", "0")))
        body = b""
        while size := int(self._until(b"\r\n") or b"0", 16):
            body += self._take(size)
            self._take(2)
        self._take(2)
        return body


@contextlib.contextmanager
def door(folder: Path, **changes: Any) -> Iterator[Door]:
    """A gateway with short patience, four servers over one canary, and a talkative log."""
    canary = folder / "canary.jsonl"
    canary.touch()
    issuer = Issuer().start()
    try:
        with faulty_server("--record", str(canary)) as url:
            config = {**door_config(url), **changes}
            debug = {"AGENTGW_LOG_LEVEL": "DEBUG"}
            with gateway(folder, issuer, config, env=debug) as running:
                yield Door(running, issuer, canary)
    finally:
        issuer.stop()


def door_config(url: str) -> dict[str, Any]:
    """`time` and `other` speak 2026-07-28, `old` a handshake; `hidden` nobody may use."""
    return {
        "limits": {"header_deadline": 1, "body_deadline": 1},
        "servers": {
            "time": {
                "url": f"{url}/mcp/ok?as=time",
                "tools": {"fail": {"scope": "tickets.admin"}, "structured": {"approve": True}},
            },
            "other": {"url": f"{url}/mcp/ok?as=other"},
            "old": {"url": f"{url}/mcp/ok?as=old", "era": "handshake"},
            "hidden": {"url": f"{url}/mcp/ok?as=hidden"},
        },
        "grants": [
            {"users": ["*"], "tools": ["time/*", "old/*", "other/echo"]},
            {"agents": ["planner"], "tools": ["time/*", "old/*", "other/*"]},
            {"users": ["*"], "tools": ["time/slow"], "when": "args.seconds < 0", "deny": True},
        ],
    }


def listed(door: Door, path: str = "/mcp", token: str | None = None) -> list[str]:
    """The names of the tools a caller sees."""
    answer = door.post(modern_message("tools/list", {}), path=path, token=token)
    assert answer.status == 200, answer
    return [tool["name"] for tool in json.loads(answer.body)["result"]["tools"]]


def closed(sock: socket.socket, seconds: float = 5) -> bool:
    """Whether the other side closes the connection within `seconds`."""
    sock.settimeout(seconds)
    until = time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            if not sock.recv(65536):
                return True
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return False
