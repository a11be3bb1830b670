"""A tool server that gets tokens bound to the gateway's key: what a thief of one may do with it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from agentgw.verify import CallTokenMiddleware, CallVerifier, InvalidCall, VerifiedCall
from tests.dpop import Prover, unsigned
from tests.verify.gateway import CODER, GATEWAY, MESSAGE, NOW, TICKETS, FakeGateway

pytestmark = pytest.mark.anyio
BODY = json.dumps(MESSAGE).encode()


class Bound:
    """The kit around a tool server, and a gateway whose tokens are bound to `prover`'s key."""

    def __init__(self, folder: Path) -> None:
        self.gateway = FakeGateway(folder)
        self.prover = Prover(now=NOW)
        self.calls: list[VerifiedCall] = []
        app: Any = CallTokenMiddleware(self._serve, self.gateway.verifier())
        self.client = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app), base_url="https://tickets.example.com"
        )

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(scope["agentgw.call"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    def token(self, **changes: Any) -> str:
        return self.gateway.sign(self.gateway.claims(jkt=self.prover.jkt) | changes)

    async def post(self, token: str, *proofs: str, scheme: str = "DPoP") -> httpx2.Response:
        lines = [("Authorization", f"{scheme} {token}"), *(("DPoP", p) for p in proofs)]
        headers = [(name.encode(), value.encode("latin-1")) for name, value in lines]
        return await self.client.post("/mcp", content=BODY, headers=headers)

    async def refused(self, token: str, *proofs: str, scheme: str = "DPoP") -> str:
        """The reason; nothing reached the tool, and the token is not used up by it."""
        answer = await self.post(token, *proofs, scheme=scheme)
        assert answer.status_code == 401, answer.text
        assert answer.headers["www-authenticate"].startswith("DPoP error="), answer.headers
        assert self.calls == []
        return str(answer.json()["error_description"])


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Bound]:
    made = Bound(tmp_path)
    async with made.client, made.gateway.client:
        yield made


async def test_a_bound_token_with_its_proof_names_the_agent_behind_the_gateway(
    house: Bound,
) -> None:
    token = house.token()
    answer = await house.post(token, house.prover.proof("POST", TICKETS, token))
    assert answer.status_code == 200, answer.text
    (call,) = house.calls
    assert call.agent == CODER.chain[0].id
    assert call.prior_agents == (CODER.chain[1].id,)
    assert call.claims["act"]["sub"] == GATEWAY
    assert call.claims["cnf"] == house.prover.cnf


async def test_a_stolen_token_without_its_key(house: Bound) -> None:
    token, thief = house.token(), Prover(now=NOW)
    assert "as DPoP" in await house.refused(token, scheme="Bearer")
    proof = house.prover.proof("POST", TICKETS, token)
    assert "as DPoP" in await house.refused(token, proof, scheme="Bearer")
    assert "one DPoP header" in await house.refused(token)
    assert "another key" in await house.refused(token, thief.proof("POST", TICKETS, token))
    borrowed = thief.proof("POST", TICKETS, token, header={"jwk": house.prover.jwk})
    assert "signature" in await house.refused(token, borrowed)
    assert (await house.post(token, proof)).status_code == 200


async def test_a_proof_of_another_request(house: Bound) -> None:
    token, make = house.token(), house.prover.proof
    for proof, word in (
        (make("GET", TICKETS, token), "htm"),
        (make("POST", "https://other.example.com/mcp", token), "htu"),
        (make("POST", f"{TICKETS}/", token), "htu"),
        (make("POST", TICKETS, house.token()), "ath"),
        (make("POST", TICKETS), "ath"),
        (make("POST", TICKETS, token, iat=NOW - 61), "just now"),
        (make("POST", TICKETS, token, iat=NOW + 61), "just now"),
        (make("POST", TICKETS, token, iat="now"), "just now"),
        (make("POST", TICKETS, token, header={"typ": "JWT"}), "typ"),
        (make("POST", TICKETS, token, header={"jwk": house.prover.private_jwk}), "public key"),
        (make("POST", TICKETS, token, header={"jwk": None}), "public key"),
        (make("POST", TICKETS, token, header={"x5c": ["AA"]}), "another key or an extension"),
        (make("POST", TICKETS, token, pad="x" * 9000), "larger than"),
        ("a.b.c", "base64url"),
        ("é", "ASCII"),
    ):
        assert word in await house.refused(token, proof)
    good = make("POST", TICKETS, token)
    assert "one DPoP header" in await house.refused(token, good, good)


async def test_a_proof_by_an_algorithm_nobody_asked_for(house: Bound) -> None:
    token = house.token()
    claims = house.prover.claims("POST", TICKETS, token)
    head = {"typ": "dpop+jwt", "jwk": house.prover.jwk}
    for alg in ("none", "HS256", "RS256", "EdDSA", "ES384", None):
        await house.refused(token, unsigned({**head, "alg": alg}, claims, bytes(64)))
    await house.refused(token, jwt.encode(claims, bytes(32), "HS256", headers=head))


async def test_a_proof_and_its_token_pass_once(house: Bound) -> None:
    token = house.token()
    proof = house.prover.proof("POST", TICKETS, token)
    assert (await house.post(token, proof)).status_code == 200
    again = await house.post(token, proof)
    assert (again.status_code, len(house.calls)) == (401, 1)


async def test_an_unbound_token_or_one_bound_in_another_way(house: Bound) -> None:
    plain = house.gateway.token()
    proof = house.prover.proof("POST", TICKETS, plain)
    assert "as Bearer" in await house.refused(plain, proof)
    others: list[Any] = [{"x5t#S256": "x"}, {"jkt": 1}, {}, [], None]
    for cnf in (*others, {"jkt": house.prover.jkt, "kid": "x"}):
        token = house.token(cnf=cnf)
        assert "bound" in await house.refused(token, house.prover.proof("POST", TICKETS, token))


async def test_the_url_may_differ_from_the_audience_where_the_server_says_so(
    house: Bound,
) -> None:
    url = "http://10.1.2.3:8080/internal"
    verifier: CallVerifier = house.gateway.verifier(url=url)
    token = house.token()
    with pytest.raises(InvalidCall, match="htu"):
        await verifier.verify(token, MESSAGE, house.prover.proof("POST", TICKETS, token))
    call = await verifier.verify(token, MESSAGE, house.prover.proof("POST", f"{url}?x=1", token))
    assert call.tool == "close_ticket"


async def test_openings_are_proven_too(house: Bound) -> None:
    claims = house.gateway.opening_claims("GET") | {"cnf": house.prover.cnf}
    token = house.gateway.sign(claims)
    wrong = {"Authorization": f"DPoP {token}", "DPoP": house.prover.proof("POST", TICKETS, token)}
    assert (await house.client.get("/mcp", headers=wrong)).status_code == 401
    right = {**wrong, "DPoP": house.prover.proof("GET", TICKETS, token)}
    assert (await house.client.get("/mcp", headers=right)).status_code == 200
