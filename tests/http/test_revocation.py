from __future__ import annotations

import pytest

from agentgw.core.exchange import ExchangeAgent
from agentgw.errors import InvalidToken, UnverifiableToken
from tests.sts.sts_under_test import (
    GATEWAY,
    MCP,
    NOW,
    TIME,
    StsUnderTest,
    agent_id,
    claims_of,
    exchange_rules,
    subject_form,
    with_assertion,
)

pytestmark = pytest.mark.anyio


async def dead(service: StsUnderTest, token: str) -> bool:
    try:
        await service.verifier.verify_subject_token(token.encode(), service.clock())
    except InvalidToken as error:
        return error.reason == "the token was revoked"
    return False


async def test_a_client_revokes_what_it_was_issued(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    answer = await service.revoke(token)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["cache-control"] == "no-store" and answer.headers["agentgw-event-id"]
    assert await dead(service, token)
    record = service.records[-1]
    assert (record["method"], record["decision"]) == ("oauth/revoke", "allow")
    assert record["event_id"] == answer.headers["agentgw-event-id"]
    assert record["inbound"]["jti"] == claims_of(token)["jti"]  # type: ignore[index]
    assert record["detail"] == {
        "client_auth": "client_secret_basic", "effect": "revoked", "descendants": 0,
    }  # fmt: skip


async def test_an_agent_revokes_what_was_handed_to_it_or_what_it_handed_on(
    service: StsUnderTest,
) -> None:
    for agent in ("planner", "coder"):
        handed = await service.token(service.idp_token(), agent_id("coder"))
        assert (await service.revoke(handed, agent)).status_code == 200
        assert await dead(service, handed)


async def test_revoking_the_users_token_kills_all_that_came_of_it(service: StsUnderTest) -> None:
    users = service.idp_token()
    sibling = await service.token(users, TIME)
    handed = await service.token(users, agent_id("coder"))
    coders = await service.token(handed, MCP, "coder")
    service.rules = exchange_rules(tester=ExchangeAgent("tester", agent_id("tester")))
    handed_on = await service.token(coders, agent_id("tester"), "coder", scope="tickets.read")
    testers = await service.token(handed_on, MCP, "tester")
    others = await service.token(service.idp_token(jti="idp-2"), MCP)
    assert (await service.revoke(users)).status_code == 200
    for token in (users, sibling, handed, coders, testers):
        assert await dead(service, token)
    assert not await dead(service, others)
    assert service.records[-1]["detail"]["descendants"] == 5  # type: ignore[index]
    assert (await service.exchange(users, MCP)).json()["error"] == "invalid_request"


async def test_a_token_without_jti_dies_by_what_was_signed(service: StsUnderTest) -> None:
    users = service.idp_token(jti=None)
    child = await service.token(users, MCP)
    assert (await service.revoke(users)).status_code == 200
    assert await dead(service, users) and await dead(service, child)
    assert not await dead(service, service.idp_token(jti=None, sub="bob"))


@pytest.mark.parametrize("token", ["unknown", "a.b.c", "expired", "revoked before", "foreign"])
async def test_what_is_not_there_is_revoked_already(service: StsUnderTest, token: str) -> None:
    if token == "expired":
        token = service.idp_token(iat=NOW - 900, exp=NOW - 10)
    elif token == "foreign":
        token = service.idp_token(iss="https://elsewhere.example.com")
    elif token == "revoked before":
        token = await service.token(service.idp_token(), MCP)
        assert (await service.revoke(token)).status_code == 200
    before = service.revocations.since(0)
    assert (await service.revoke(token)).status_code == 200
    assert service.revocations.since(0) == before
    assert service.records[-1]["detail"]["effect"] == "none"  # type: ignore[index]


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense"])
async def test_a_hint_changes_nothing(service: StsUnderTest, hint: str) -> None:
    token = await service.token(service.idp_token(), MCP)
    assert (await service.revoke(token, token_type_hint=hint)).status_code == 200
    assert await dead(service, token)


async def test_a_token_for_one_call_is_of_no_kind_that_can_be_revoked(
    service: StsUnderTest,
) -> None:
    answer = await service.revoke(await service.call_token())
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_token_type")


async def test_nothing_is_said_to_be_revoked_while_its_issuer_is_silent(
    service: StsUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(kid: str | None, alg: str) -> None:
        raise UnverifiableToken("no keys")

    monkeypatch.setattr(service.idp, "find", silent)
    answer = await service.revoke(service.idp_token())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_what_cannot_be_recorded_is_not_confirmed(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    service.log_is_full = True
    answer = await service.revoke(token)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert "secret-place" not in answer.text
    assert await dead(service, token)


async def test_a_key_of_its_own_serves_as_well_as_a_secret(service: StsUnderTest) -> None:
    handed = await service.token(service.idp_token(), agent_id("coder"))
    form = with_assertion({"token": handed}, service.assertion())
    answer = await service.post(form, None, "/oauth/revoke")
    assert answer.status_code == 200
    assert await dead(service, handed)


async def test_an_exchange_for_a_revoked_user_or_agent_is_refused(service: StsUnderTest) -> None:
    for kind, key in (("subject", "acme|alice"), ("agent", agent_id("planner"))):
        service.revocations.revoke_party(kind, key)  # type: ignore[arg-type]
        await service.refresh()
        answer = await service.exchange(service.idp_token(), MCP)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
        assert service.records[-1]["decision"] == "deny"
        assert service.revocations.lift(kind, key, NOW)  # type: ignore[arg-type]
        await service.refresh()
        assert (await service.exchange(service.idp_token(), MCP)).status_code == 200


async def test_the_metadata_names_both_endpoints_and_their_methods(service: StsUnderTest) -> None:
    metadata = (await service.client.get("/.well-known/oauth-authorization-server")).json()
    for name, path in (("revocation", "revoke"), ("introspection", "introspect")):
        assert metadata[f"{name}_endpoint"] == f"{GATEWAY}/oauth/{path}"
        assert (
            metadata[f"{name}_endpoint_auth_methods_supported"]
            == metadata["token_endpoint_auth_methods_supported"]
        )
    assert metadata["introspection_signing_alg_values_supported"] == ["ES256"]


async def test_a_parent_revoked_between_check_and_record_has_no_child(
    service: StsUnderTest,
) -> None:
    parent = await service.token(service.idp_token(), MCP)
    # Another worker's revocation: in the database, not yet known to this one.
    service.revocations.revoke_token(claims_of(parent)["jti"], NOW)
    answer = await service.post(subject_form(parent) | {"resource": TIME})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert (service.records[-1]["decision"], service.records[-1]["issued"]) == ("deny", None)
