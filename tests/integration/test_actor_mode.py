"""Servers with `actor_mode: gateway`: bound tokens and our proofs, checked by a real tool server."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from agentgw.verify import CallTokenMiddleware, CallVerifier, VerifiedCall
from tests.dpop import b64
from tests.harness import Gateway, Issuer, allow_all, base_config, free_port, gateway
from tests.integration.toolserver import Document, Recording, Scripted, Sent, serving, tool


def parts(compact: str) -> tuple[Document, Document]:
    """Header and claims of a JWT, unverified."""
    found = [
        json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        for part in compact.split(".")[:2]
    ]
    return found[0], found[1]


class Wall:
    """Lets a request through only with its nonce in the proof."""

    def __init__(self, inner: ASGIApp) -> None:
        self._inner = inner
        self.nonce = "first"
        self.fickle = False
        self.refused = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode() for name, value in scope["headers"]}
        _, claims = parts(headers[b"dpop"])
        if claims.get("nonce") == self.nonce and not self.fickle:
            await self._inner(scope, receive, send)
            return
        self.refused += 1
        if self.fickle:
            self.nonce = f"never-{self.refused}"
        lines = [
            (b"www-authenticate", b'DPoP error="use_dpop_nonce"'),
            (b"dpop-nonce", self.nonce.encode()),
            (b"content-length", b"0"),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": lines})
        await send({"type": "http.response.body", "body": b""})


class Tickets:
    """A tool server with the kit around it, and what it was told."""

    def __init__(self, issuer: str, audience: str) -> None:
        self.calls: list[VerifiedCall] = []
        self._server = Scripted([tool("close")])
        self.verifier = CallVerifier(issuer, audience)
        kit: Any = CallTokenMiddleware(self._serve, self.verifier)
        self.wall = Wall(kit)
        self.wall_is_up = False
        self._kit = kit
        self.recording = Recording(self._enter)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.wall if self.wall_is_up else self._kit)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls.append(scope["agentgw.call"])
        await self._server(scope, receive, send)

    def sent(self, method: str) -> list[Sent]:
        return self.recording.of(method)


class House:
    """The gateway and its tickets."""

    def __init__(self, gw: Gateway, tickets: Tickets, url: str) -> None:
        self.gw = gw
        self.tickets = tickets
        self.url = url


@contextmanager
def opened(folder: Path, issuer: Issuer, nonces: bool = False) -> Iterator[House]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    late: list[Tickets] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await late[0].recording(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await late[0].verifier.close()
        await send({"type": "lifespan.shutdown.complete"})

    with serving(app, lifespan=True) as base:
        late.append(tickets := Tickets(url, f"{base}/mcp"))
        tickets.wall_is_up = nonces
        server = {
            "url": f"{base}/mcp?tenant=1",
            "auth": {"mode": "token", "audience": f"{base}/mcp"},
            "token": {"actor_mode": "gateway"},
            "tools": {"close": {"scope": "tickets.write"}},
        }
        changes = {"servers": {"tickets": server}, "grants": allow_all("tickets")}
        gw = Gateway(folder, issuer, {**base_config(issuer, url, folder), **changes})
        try:
            yield House(gw.start(), tickets, f"{base}/mcp")
        finally:
            gw.stop()


def credentials(sent: Sent) -> tuple[str, Document, Document, Document]:
    """Token, its claims, and header and claims of the proof of a request that a server got."""
    scheme, _, token = sent.headers["authorization"].partition(" ")
    assert scheme == "DPoP"
    return token, parts(token)[1], *parts(sent.headers["dpop"])


def thumbprint(jwk: Document) -> str:
    text = json.dumps(jwk, sort_keys=True, separators=(",", ":"))
    return b64(hashlib.sha256(text.encode()).digest())


def test_each_request_carries_a_bound_token_and_a_proof_of_its_own(
    tmp_path: Path, issuer: Issuer
) -> None:
    with opened(tmp_path, issuer) as house:
        for _ in range(2):
            answer = house.gw.call("tickets__close")
            assert answer.status_code == 200 and "result" in answer.json(), answer.text
        every = house.tickets.recording.requests
        seen = set()
        for sent in every:
            token, claims, header, proof = credentials(sent)
            assert claims["cnf"] == {"jkt": thumbprint(header["jwk"])}
            assert header.keys() == {"typ", "alg", "jwk"} and "d" not in header["jwk"]
            assert (proof["htm"], proof["htu"]) == ("POST", house.url)
            seen |= {proof["jti"], token}
        assert len(seen) == 2 * len(every)
        first, _ = house.tickets.sent("tools/call")
        _, claims, _, _ = credentials(first)
        url = house.gw.url
        agent = {"iss": url, "sub": f"{url}/a2a/planner", "sub_profile": "ai_agent"}
        assert claims["act"] == {"iss": url, "sub": url, "sub_profile": "service", "act": agent}
        called = [call for call in house.tickets.calls if call.method == "tools/call"]
        assert [call.agent for call in called] == [f"{url}/a2a/planner"] * 2
        own = credentials(house.tickets.sent("tools/list")[0])[1]
        assert own["sub"] == url and "act" not in own
        before = claims["cnf"]
        assert house.gw.stop() == 0
        chains = [
            r["chain"] for r in house.gw.records() if r["method"] == "tools/call" and "chain" in r
        ]
        assert all(hop["id"] != url for chain in chains for hop in chain)
        house.gw.start()
        assert house.gw.call("tickets__close").status_code == 200
        assert credentials(house.tickets.sent("tools/call")[-1])[1]["cnf"] == before


def test_what_a_server_refused_for_want_of_a_nonce_is_sent_again_with_a_token_of_its_own(
    tmp_path: Path, issuer: Issuer
) -> None:
    with opened(tmp_path, issuer, nonces=True) as house:
        answer = house.gw.call("tickets__close")
        assert "result" in answer.json(), answer.text
        refused = house.tickets.wall.refused
        assert refused >= 1
        for _ in range(3):
            assert "result" in house.gw.call("tickets__close").json()
        assert house.tickets.wall.refused == refused, "the nonce was remembered"


def test_a_new_nonce_costs_a_new_token_for_the_same_call(tmp_path: Path, issuer: Issuer) -> None:
    with opened(tmp_path, issuer, nonces=True) as house:
        assert "result" in house.gw.call("tickets__close").json()
        before = len(house.tickets.sent("tools/call"))
        house.tickets.wall.nonce = "second"
        answer = house.gw.call("tickets__close")
        assert "result" in answer.json(), answer.text
        tried = house.tickets.sent("tools/call")[before:]
        assert len(tried) == 2
        (_, first, _, _), (_, second, _, _) = map(credentials, tried)
        assert first["jti"] != second["jti"]
        for name in ("sub", "act", "aud", "scope", "cnf"):
            assert first[name] == second[name], name
        one, other = first["authorization_details"][0], second["authorization_details"][0]
        assert one == other and one["tool_digest"]
        assert house.gw.stop() == 0
        issued = [r["issued"]["jti"] for r in house.gw.records() if r.get("issued")]
        assert {first["jti"], second["jti"]} <= set(issued)


def test_a_server_that_always_wants_another_nonce_is_given_up(
    tmp_path: Path, issuer: Issuer
) -> None:
    with opened(tmp_path, issuer) as house:
        assert "result" in house.gw.call("tickets__close").json()
        house.tickets.wall.fickle = house.tickets.wall_is_up = True
        before = len(house.tickets.sent("tools/call"))
        answer = house.gw.call("tickets__close").json()
        assert answer["error"]["code"] == 46005, answer
        assert len(house.tickets.sent("tools/call")) - before == 2


@pytest.mark.parametrize("era", ["handshake"])
def test_nothing_changes_for_other_servers(
    tmp_path: Path, issuer: Issuer, faulty: str, era: str
) -> None:
    servers = {"ok": {"url": f"{faulty}/mcp/ok", "era": era}}
    with gateway(tmp_path, issuer, {"servers": servers, "grants": allow_all("ok")}) as gw:
        assert gw.call("ok__echo", text="hello").status_code == 200
        assert not (gw.state / "keys" / "dpop.json").exists()
