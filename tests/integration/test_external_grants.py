"""The other ways to a credential: on-behalf-of, grants over two servers, keys, and tokens nobody can read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.external_as import EXCHANGE, JWT_BEARER, PATIENCE, TYPES, ExternalAs, House
from tests.external_as import house as run_house


def claims_of(token: str) -> dict[str, Any]:
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


@pytest.fixture(scope="module")
def other() -> Iterator[ExternalAs]:
    """The tool server's own authorization server, which takes grants of the users' issuer."""
    running = ExternalAs()
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, other: ExternalAs) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("grants")
    with run_house(folder) as running:
        other.trusts |= {
            running.server.url: f"{running.server.url}/jwks",
            running.gw.url: f"{running.gw.url}/oauth/jwks.json",
        }
        running.gw.config["authorization_servers"]["other"] = {
            "issuer": other.url, "client_id": "gateway", "client_secret": "gateway-secret",
            "timeout": PATIENCE,
        }  # fmt: skip
        yield running


def configure(house: House, **exchange: Any) -> None:
    wanted = {"authorization_server": "acme", "audience": "tickets", "scope": "tickets.use"}
    house.gw.config["servers"]["tickets"]["auth"]["exchange"] = {**wanted, **exchange}
    house.gw.reload()


def test_on_behalf_of_sends_the_callers_token_as_assertion(house: House) -> None:
    configure(house, grant="on-behalf-of", subject_claim="oid")
    house.server.twist = lambda claims, answer: claims.update(aud="tickets", sub="pairwise")
    try:
        token = house.gw.token(oid="user-object")
        assert "hello" in house.call(token).text
        asked = house.server.exchanges[-1]
        assert (asked["grant_type"], asked["assertion"]) == (JWT_BEARER, token)
        assert asked["requested_token_use"] == "on_behalf_of" and "audience" not in asked
        house.server.twist = lambda claims, answer: claims.update(aud="tickets", oid="another")
        assert house.difference(house.refused(house.gw.token(oid="user-object")))["member"] == "oid"
    finally:
        house.server.reset()


def test_an_identity_assertion_of_the_users_issuer_is_redeemed_at_the_tool_servers(
    house: House, other: ExternalAs
) -> None:
    resource = "https://tickets.example/mcp"
    configure(house, grant="id-jag", via="acme", authorization_server="other", resource=resource)
    other.twist = lambda claims, answer: claims.update(aud="tickets")
    token = house.gw.token()
    assert "hello" in house.call(token).text
    first, second = house.server.exchanges[-1], other.exchanges[-1]
    assert (first["grant_type"], first["subject_token"]) == (EXCHANGE, token)
    assert first["requested_token_type"] == f"{TYPES}id-jag"
    assert (first["audience"], first["resource"]) == (other.url, resource)
    assert second["grant_type"] == JWT_BEARER
    assert jwt.get_unverified_header(second["assertion"])["typ"] == "oauth-id-jag+jwt"
    sent = claims_of(house.bearer())
    assert (sent["iss"], sent["sub"], sent["aud"]) == (other.url, "alice", "tickets")


@pytest.mark.parametrize(
    ("lie", "member"),
    [
        ({"sub": "bob"}, "sub"),
        ({"aud": "https://evil.example"}, "aud"),
        ({"client_id": "another"}, "client_id"),
        ({"scope": "tickets.use tickets.admin"}, "scope"),
        ({"act": {"sub": "somebody"}}, "act"),
    ],
)
def test_a_grant_that_differs_is_never_redeemed(
    house: House, other: ExternalAs, lie: dict[str, Any], member: str
) -> None:
    configure(house, grant="id-jag", via="acme", authorization_server="other")
    house.server.twist = lambda claims, answer: claims.update(lie)
    redeemed = len(other.exchanges)
    try:
        assert house.difference(house.refused())["member"] == member
    finally:
        house.server.reset()
    assert len(other.exchanges) == redeemed


def test_a_chain_of_domains_redeems_any_grant_and_keeps_the_user(
    house: House, other: ExternalAs
) -> None:
    configure(house, grant="identity-chaining", via="acme", authorization_server="other")
    assert "hello" in house.call().text
    assert house.server.exchanges[-1]["requested_token_type"] == f"{TYPES}jwt"
    assert claims_of(house.bearer())["iss"] == other.url
    other.twist = lambda claims, answer: claims.update(sub="bob")
    try:
        assert house.difference(house.refused())["member"] == "sub"
    finally:
        other.reset()


def test_our_own_grant_is_redeemed_where_the_gateway_is_trusted_as_a_domain(
    house: House, other: ExternalAs
) -> None:
    configure(house, grant="jwt-bearer", subject="gateway", authorization_server="other")
    other.twist = lambda claims, answer: claims.update(sub="laptop|alice")
    try:
        assert "hello" in house.call().text
    finally:
        other.reset()
    sent = claims_of(house.bearer())
    assert sent["act"]["sub"] == f"{house.gw.url}/a2a/planner"
    other.twist = lambda claims, answer: claims.update(sub="laptop|alice", act=None)
    try:
        assert house.difference(house.refused())["member"] == "act"
    finally:
        other.reset()


def test_an_opaque_answer_is_asked_about_where_the_operator_says_so(
    house: House, other: ExternalAs
) -> None:
    account = house.gw.config["authorization_servers"]["other"]
    account["tokens"] = "introspection"
    other.opaque_tokens = True
    configure(house, grant="identity-chaining", via="acme", authorization_server="other")
    try:
        assert "hello" in house.call().text
        assert house.bearer() in other.asked
        other.twist = lambda claims, answer: claims.update(sub="bob")
        assert house.difference(house.refused())["member"] == "sub"
        other.twist = lambda claims, answer: answer.update(access_token="nobody-knows-it")
        assert house.difference(house.refused())["member"] == "access_token"
    finally:
        other.reset()
        other.opaque_tokens = False
        account["tokens"] = "jwt"


def test_an_answer_nobody_can_read_passes_only_where_the_operator_says_so_and_the_record_too(
    house: House, other: ExternalAs
) -> None:
    account = house.gw.config["authorization_servers"]["other"]
    other.opaque_tokens = True
    try:
        configure(house, grant="identity-chaining", via="acme", authorization_server="other")
        assert house.difference(house.refused())["member"] == "access_token"
        account["tokens"] = "opaque"
        configure(house, grant="identity-chaining", via="acme", authorization_server="other")
        event = house.call().headers["agentgw-event-id"]
        made = [r for r in house.gw.records() if r["event_id"] == event and r["issued"]]
        assert made[0]["chain_assurance"] == "audit-only"
        assert made[0]["issued"]["jti_hash"] is None
    finally:
        other.opaque_tokens = False
        account["tokens"] = "jwt"


def test_the_gateway_proves_itself_by_a_key_of_its_own(house: House, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    file = tmp_path / "key.pem"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    account = house.gw.config["authorization_servers"]["acme"]
    del account["client_secret"]
    account |= {"client_key": str(file), "client_key_id": "gw-1"}
    house.server.client_key = key
    configure(house)
    assert "hello" in house.call().text
    asked = house.server.exchanges[-1]
    assert asked["client_id"] == "gateway" and "client_secret" not in asked
    assert jwt.get_unverified_header(asked["client_assertion"])["kid"] == "gw-1"
    file.write_text("no key")
    house.gw.write()
    said = house.gw.output.count("client_key cannot be used")
    house.gw.reload()
    assert house.gw.output.count("client_key cannot be used") == said + 1
    assert "hello" in house.call().text
