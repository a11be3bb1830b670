"""The gateway as the conformance suite's client under test, and those who use it.

For each scenario the operator configures a gateway for the suite's server, alice's agent calls its one tool,
and alice follows the links that it is refused with.
"""

from __future__ import annotations

import http.server
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from agentgw.core.upstream_oauth import read_challenge
from tests.harness import ROOT, allow_all, modern_headers, modern_message
from tests.login import web
from tests.npm import installed
from tests.people import Place, Visitor

LINKS = 4
"""How often alice follows a link before she gives up: the suite allows three authorization requests."""

BY_DOCUMENT = ("auth/basic-cimd", "auth/offline-access-scope")
"""Scenarios whose authorization server takes client metadata documents: the gateway needs no client_id."""

PATIENCE = 120

Config = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """What came of a scenario: the suite's `checks`, and what the gateway `said`."""

    checks: list[dict[str, Any]]
    said: dict[str, Any]

    @property
    def failed(self) -> set[str]:
        """The checks that failed, or that the suite warns of."""
        return {one["id"] for one in self.checks if one["status"] in ("FAILURE", "WARNING")}

    @property
    def told(self) -> str:
        """The gateway's last words to the agent, and all of its pages to the user."""
        answer = self.said["answer"]
        last = answer.get("error", {}).get("message") or f"HTTP {answer.get('status')}"
        return "\n".join([last, *self.said["pages"]])


class ClientRole:
    """Listens for be_the_client.py and plays the scenario it was started for, at the gateway of `here`."""

    def __init__(self, here: Place, alice: Visitor) -> None:
        self._here = here
        self._alice = alice
        self._names = (f"suite{number}" for number in itertools.count())
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> ClientRole:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def gateway_url(self) -> str:
        """The gateway's public URL."""
        return self._here.url

    def run(self, scenario: str, revision: str, folder: Path) -> Run:
        """Let the suite test a scenario with the wire of `revision`; its files lie in `folder`."""
        packages = installed(ROOT / "tests" / "conformance" / "package.json")
        script = ROOT / "tests" / "conformance" / "be_the_client.py"
        command = f"{sys.executable} -I {script} {self._server.server_port}"
        wanted = ("--scenario", scenario, "--spec-version", revision, "--force")
        limits = ("--timeout", str(PATIENCE * 1000), "--output-dir", str(folder))
        suite = subprocess.run(
            [
                str(packages / "node_modules" / ".bin" / "conformance"),
                "client",
                *("--command", command),
                *wanted,
                *limits,
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE + 30,
            check=False,
            env={**os.environ, "NO_COLOR": "1"},
        )
        found = list(folder.glob("**/checks.json"))
        assert len(found) == 1, suite.stdout + suite.stderr
        said = (found[0].parent / "stdout.txt").read_text()
        assert said, (found[0].parent / "stderr.txt").read_text()
        return Run(json.loads(found[0].read_text()), json.loads(said))

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        role = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                body = json.dumps(role._play(**told)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler

    def _play(self, url: str, scenario: str, context: dict[str, str]) -> dict[str, Any]:
        """Configure the server, then call its tool until it answers, or no link helps any more."""
        here = self._here
        name = next(self._names)  # a server of its own: nothing known of another is known of it
        config, laptop = here.gateway.config, here.gateway.config["issuers"]["laptop"]
        changes = config_for(scenario, context, url, here.gateway.folder)
        config["servers"] = {name: {"url": url, "auth": changes["auth"]}}
        config["grants"] = allow_all(name)
        config["issuers"] = {"laptop": laptop, **changes.get("issuers", {})}
        config["authorization_servers"] = changes.get("authorization_servers", {})
        here.gateway.reload()
        assert "reload refused" not in here.gateway.output, here.gateway.output
        own = here.issuer.token("alice", "planner", f"{here.url}/mcp")
        token = context.get("idp_id_token", own)
        pages: list[str] = []
        answer: dict[str, Any] = {}
        for _ in range(LINKS):
            answer = self._ask(token, "tools/call", name=f"{name}__test-tool", arguments={})
            link = answer.get("error", {}).get("data", {}).get("url")
            if link is None:
                break
            pages.append(self._connect(link))
            if "is connected" not in pages[-1]:
                break
        listed = self._ask(token, "tools/list")
        return {"called": "result" in answer, "answer": answer, "listed": listed, "pages": pages}

    def _ask(self, token: str, method: str, **params: Any) -> dict[str, Any]:
        """What the gateway answers to alice's agent."""
        message = modern_message(method, params)
        with self._here.gateway.client() as client:
            answer = client.post("/mcp", json=message, headers=modern_headers(message, token))
        if answer.status_code != 200:
            return {"status": answer.status_code}
        found: dict[str, Any] = answer.json()
        return found

    def _connect(self, link: str) -> str:
        """Follow a link to its end, as alice; what the last page says."""
        alice, issuer = self._alice, self._here.issuer
        page = alice.open(link)
        if page.url.startswith(issuer.url):
            signed = {"user": "alice", "password": issuer.passwords["alice"]}
            page = alice.submit(page, page.form("/authorize"), **signed)
        if page.forms:
            page = alice.submit(page, page.form(urlsplit(link).path))
        return page.words


def config_for(scenario: str, context: Mapping[str, str], url: str, folder: Path) -> Config:
    """What an operator would write for the server at `url`: its `auth`, and what else that needs."""
    if scenario in BY_DOCUMENT:
        return {"auth": {"mode": "oauth", "oauth": {}}}
    issuer = authorization_server_of(url)
    if scenario.startswith("auth/client-credentials"):
        return own_account(context, issuer, url, folder)
    if scenario == "auth/enterprise-managed-authorization":
        return cross_app(context, issuer, url)
    if scenario == "auth/wif-jwt-bearer":
        exchange = {"grant": "jwt-bearer", "subject": "gateway", "resource": url}
        workload = {"client_id": context["client_id"], "client_secret": "no-secret-is-asked-for"}
        return exchanged(exchange, {"as": {"issuer": issuer, "tokens": "opaque", **workload}})
    client = {"client_id": context.get("client_id", "agentgw"), "issuer": issuer}
    if not scenario.endswith("-none"):
        client["client_secret"] = context.get("client_secret", "secret-of-the-gateway")
    if scenario.endswith("-post"):
        client["client_auth"] = "client_secret_post"
    if scenario == "auth/metadata-var2":
        client["resource"] = origin_of(url)
    return {"auth": {"mode": "oauth", "oauth": client}}


def own_account(context: Mapping[str, str], issuer: str, url: str, folder: Path) -> Config:
    """One account for all: by a secret, or by a key."""
    server = {"issuer": issuer, "client_id": context["client_id"], "tokens": "opaque"}
    if "private_key_pem" in context:
        key = folder / "client.pem"
        key.touch(mode=0o600)
        key.write_text(context["private_key_pem"])
        server["client_key"] = str(key)
    else:
        server["client_secret"] = context["client_secret"]
    account = {"authorization_server": "as", "resource": url}
    return {
        "auth": {"mode": "client_credentials", "client_credentials": account},
        "authorization_servers": {"as": server},
    }


def cross_app(context: Mapping[str, str], issuer: str, url: str) -> Config:
    """An ID-JAG of the users' identity provider, redeemed at the server's authorization server."""
    provider = {"issuer": context["idp_issuer"], "client_id": context["idp_client_id"]}
    client = {"client_id": context["client_id"], "client_secret": context["client_secret"]}
    servers = {
        "idp": {**provider, "client_secret": "secret-at-the-provider"},
        "as": {"issuer": issuer, "tokens": "opaque", **client},
    }
    users = {"issuer": context["idp_issuer"], "audiences": [context["idp_client_id"]]}
    exchange = {"grant": "id-jag", "via": "idp", "resource": url}
    return {**exchanged(exchange, servers), "issuers": {"idp": users}}


def exchanged(exchange: dict[str, Any], servers: dict[str, Any]) -> Config:
    """A credential of the authorization server `as`; lists without any."""
    wanted = {"authorization_server": "as", "lists": "none", **exchange}
    return {"auth": {"mode": "exchange", "exchange": wanted}, "authorization_servers": servers}


def authorization_server_of(url: str) -> str:
    """Whom the operator asks for a client: whoever the server's metadata names, else the server itself."""
    known = f"{origin_of(url)}/.well-known/oauth-protected-resource"
    with web() as client:
        refused = client.post(url, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
        named = read_challenge(refused.headers.get("www-authenticate")).metadata
        for place in (named,) if named else (known + urlsplit(url).path, known):
            answer = client.get(place)
            if answer.status_code == httpx2.codes.OK:
                return str(answer.json()["authorization_servers"][0])
    return origin_of(url)


def origin_of(url: str) -> str:
    """Scheme and authority."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
