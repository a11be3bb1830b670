"""A gateway before a tool server of every auth mode, era and transport, and all that it says or keeps."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from typer.testing import CliRunner

from agentgw.cli import app
from tests.door import HANDSHAKE, Answered, Door
from tests.external_as import ExternalAs
from tests.harness import (
    ROOT,
    allow_all,
    faulty_server,
    gateway,
    modern_call,
    modern_headers,
)
from tests.saas import SECRET, Saas, UserBrowser

STATIC = "static-secret-of-the-operator-77"
LOCAL_KEY = "local-key-of-the-operator-77"
GATEWAYS_OWN = "secret-of-the-gateways-environment-77"
KINDS = {
    "token": "token", "bound": "token", "header": "header", "exchange": "exchange", "grant": "exchange",
    "own": "client_credentials", "none": "none",
}  # fmt: skip
ERAS = ("modern", "handshake")
HTTP = tuple(f"{kind}-{era}" for kind in KINDS for era in ERAS)
STDIO = tuple(f"local-{era}" for era in ERAS)
SERVERS = (*HTTP, *STDIO, "saas")
SECRETS = (
    STATIC, LOCAL_KEY, GATEWAYS_OWN, SECRET, "gateway-secret",
    "planner-secret-for-tests", "coder-secret-for-tests", "PRIVATE KEY",
)  # fmt: skip
"""What the operator wrote down, and must never see again."""


@dataclass
class CanaryHouse(Door):
    """A Door whose servers are SERVERS; `saas` takes tokens of alice's own account there."""

    saas: Saas = field(default_factory=Saas)
    sessions: dict[str, str] = field(default_factory=dict)

    def stdio(self) -> list[dict[str, Any]]:
        """Every message that came over standard input, and what the processes were started with."""
        files = [
            self.canary.parent / f"{name}{end}" for name in STDIO for end in (".jsonl", ".env")
        ]
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def reached(self) -> list[Any]:
        """All that any tool server was sent, however."""
        return [*self.seen(), *self.stdio(), *self.saas.seen]

    def called(self, server: str) -> int:
        """How many calls of a tool reached a server."""
        if server == "saas":
            return len([1 for method, _, _ in self.saas.seen if method == "tools/call"])
        if server in STDIO:
            lines = (self.canary.parent / f"{server}.jsonl").read_text().splitlines()
            return len([1 for line in lines if '"method": "tools/call"' in line])
        return len([1 for call in self.calls() if call["query"]["as"] == server])

    def ask(
        self,
        server: str,
        agent_era: str,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        *,
        token: str | None = None,
        union: bool = False,
    ) -> httpx2.Response:
        """Call the tool of `server` as an agent of that era, with more headers."""
        token = self.gw.token() if token is None else token
        name = "notes" if server == "saas" else "echo"
        message = modern_call(f"{server}__{name}" if union else name, {"text": "x"})
        full = modern_headers(message, token)
        if agent_era == "handshake":
            del message["params"]["_meta"]
            del full["Mcp-Method"], full["Mcp-Name"]
            path = "/mcp" if union else f"/mcp/{server}"
            if "Mcp-Session-Id" not in (headers or {}):
                full["Mcp-Session-Id"] = self.handshake(path, token)
            full["MCP-Protocol-Version"] = HANDSHAKE
        with self.gw.client() as client:
            path = "/mcp" if union else f"/mcp/{server}"
            answer = client.post(
                f"{path}{query}", json=message, headers={**full, **(headers or {})}
            )
        self.said.append(f"{answer.headers}\n{answer.text}".encode())
        return answer

    def ask_for_session(
        self, server: str, token: str, headers: Mapping[str, str]
    ) -> dict[str, str]:
        """The header that names a session which these headers opened."""
        message = {
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {"protocolVersion": HANDSHAKE, "capabilities": {}, "clientInfo": {"name": "t"}},
        }  # fmt: skip
        full = {**modern_headers(message, token), **headers}
        del full["MCP-Protocol-Version"], full["Mcp-Method"]
        with self.gw.client() as client:
            answer = client.post(f"/mcp/{server}", json=message, headers=full)
        assert answer.status_code == 200, answer.text
        return {"Mcp-Session-Id": answer.headers["mcp-session-id"]}

    def ask_in_bytes(
        self,
        server: str,
        agent_era: str,
        changes: Mapping[str, Any],
        words: Mapping[str, str],
        token: str,
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        """Call as `ask` does, `changes` laid over the message and words of it replaced as it is sent."""
        name = "notes" if server == "saas" else "echo"
        message = modern_call(name, {"text": "x"})
        full = modern_headers(message, token)
        if agent_era == "handshake":
            del message["params"]["_meta"]
            del full["Mcp-Method"], full["Mcp-Name"]
            full |= {"Mcp-Session-Id": self.session(server), "MCP-Protocol-Version": HANDSHAKE}
        _lay_over(message, changes)
        body = json.dumps(message)
        for word, put in words.items():
            assert word in body
            body = body.replace(word, put)
        full |= headers or {}
        return self.request("POST", f"/mcp/{server}", full, body.encode())

    def session(self, server: str) -> str:
        """A session of alice's through planner at a server, opened once."""
        if server not in self.sessions:
            self.sessions[server] = self.handshake(f"/mcp/{server}")
        return self.sessions[server]

    def command(self, *arguments: str) -> str:
        """What `agentgw` says to somebody at the machine."""
        file = str(self.gw.file)
        done = CliRunner().invoke(app, [*arguments, "--config", file], env=self.gw.env)
        assert done.exit_code == 0, (arguments, done.output)
        self.said.append(done.output.encode())
        return done.stdout

    def pages(self) -> dict[str, str]:
        """What alice's browser shows, and a stranger's."""
        browser = UserBrowser(self.gw, "alice")
        try:
            found = {"/account": browser.open(f"{self.gw.url}/account").text}
        finally:
            browser.close()
        with self.gw.client() as client:
            for path in ("/errors", "/oauth/authorize?client_id=nobody", "/oauth/connect/saas"):
                found[path] = client.get(path).text
        self.said += [page.encode() for page in found.values()]
        return found

    def kept(self) -> dict[str, bytes]:
        """All that is written down, but for the keys: the log, the databases, and standard error."""
        files = [f for f in self.gw.state.rglob("*") if f.is_file() and f.parent.name != "keys"]
        return {
            **{str(file.relative_to(self.gw.state)): file.read_bytes() for file in files},
            "stderr": self.gw.output.encode(),
        }

    def credentials(self) -> set[str]:
        """The parts by which anybody could use a credential that was ever shown on either side."""
        bearers = {str(r["headers"].get("authorization", "")) for r in self.seen()}
        tokens = {line.rpartition(" ")[2] for line in bearers | self.saas.bearers()}
        tokens |= {*self.issuer.issued, *self.saas.grants, *self.saas.refresh, *SECRETS}
        return {token.rpartition(".")[2] for token in tokens if len(token) > 8}


@contextlib.contextmanager
def canary_house(folder: Path) -> Iterator[CanaryHouse]:
    """The house at its most talkative, alice's account at `saas` connected."""
    canary = folder / "canary.jsonl"
    canary.touch()
    issuer, saas = ExternalAs(), Saas()
    issuer.start()
    saas.start()
    env = {"AGENTGW_LOG_LEVEL": "DEBUG", "STATIC": STATIC, "LOCAL_KEY": LOCAL_KEY,
           "GATEWAYS_OWN_SECRET": GATEWAYS_OWN, "SAAS_SECRET": SECRET}  # fmt: skip
    try:
        with faulty_server("--record", str(canary)) as url:
            servers = {**_http_servers(url), **_stdio_servers(folder)}
            account = {
                "issuer": saas.url,
                "client_id": "gateway",
                "client_secret": "${env:SAAS_SECRET}",
            }
            servers["saas"] = {"url": saas.mcp, "auth": {"mode": "oauth", "oauth": account}}
            with gateway(folder, issuer, _config(issuer, servers), env=env) as gw:
                issuer.trusts[gw.url] = f"{gw.url}/oauth/jwks.json"
                gw.config["agents"]["coder"]["clients"] = [
                    {"issuer": "laptop", "client_id": "coder", "confidential": True}
                ]
                gw.reload()
                house = CanaryHouse(gw, issuer, canary, saas=saas)
                _connect(house)
                yield house
    finally:
        saas.stop()
        issuer.stop()


def _config(issuer: ExternalAs, servers: Mapping[str, Any]) -> dict[str, Any]:
    acme = {"issuer": issuer.url, "client_id": "gateway", "client_secret": "gateway-secret"}
    return {
        "authorization_servers": {"acme": acme},
        "servers": servers,
        "grants": allow_all(*servers),
        "login": {"issuer": "laptop", "client_id": "agentgw"},
    }


def _http_servers(url: str) -> dict[str, Any]:
    servers: dict[str, Any] = {}
    for kind, mode in KINDS.items():
        for era in ERAS:
            name = f"{kind}-{era}"
            auth: dict[str, Any] = {"mode": mode}
            if mode == "header":
                auth["headers"] = {"X-Static": "${env:STATIC}"}
            elif mode in ("exchange", "client_credentials"):
                auth[mode] = {"authorization_server": "acme", "audience": name, "scope": "use"}
            if kind == "grant":
                auth[mode] |= {"grant": "jwt-bearer", "subject": "gateway"}
            servers[name] = {"url": f"{url}/mcp/ok?as={name}", "era": era, "auth": auth}
        if kind == "bound":
            for era in ERAS:
                servers[f"{kind}-{era}"]["token"] = {"actor_mode": "gateway"}
    return servers


def _stdio_servers(folder: Path) -> dict[str, Any]:
    script = str(ROOT / "tools" / "servers" / "stdio_echo.py")
    return {
        f"local-{era}": {
            "command": sys.executable,
            "args": [script, "--era", era, "--record", str(folder / f"local-{era}.jsonl"),
                     "--environ", str(folder / f"local-{era}.env")],
            "env": {"LOCAL_KEY": "${env:LOCAL_KEY}"},
        }
        for era in ERAS
    }  # fmt: skip


def _lay_over(message: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(message.get(name), dict):
            _lay_over(message[name], value)
        else:
            message[name] = value


def _connect(house: CanaryHouse) -> None:
    """Let alice connect her account at `saas`."""
    refused = house.ask("saas", "modern").json()["error"]
    browser = UserBrowser(house.gw, "alice")
    try:
        answer = browser.connect(str(refused["data"]["url"]), "alice@saas")
    finally:
        browser.close()
    assert "is connected" in answer.text, answer.text
