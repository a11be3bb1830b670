from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from agentgw.core.authorization_details import TOOL_DETAILS
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.errors import InvalidToken
from tests.sts.sts_under_test import (
    GATEWAY,
    IDP,
    MCP,
    NOW,
    SECRETS,
    TIME,
    StsUnderTest,
    agent_id,
    basic,
    claims_of,
    subject_form,
    with_assertion,
)

pytestmark = pytest.mark.anyio
FORM_TYPE = {"Content-Type": "application/x-www-form-urlencoded"}


async def test_the_story_comes_true_to_the_letter(service: StsUnderTest) -> None:
    answer = await service.exchange(service.idp_token(), agent_id("coder"), scope="tickets.write")
    hand_over = answer.json().pop("access_token")
    assert answer.json() | {"access_token": ""} == {
        "access_token": "",
        "issued_token_type": ACCESS_TOKEN,
        "token_type": "Bearer",
        "expires_in": 300,
        "scope": "tickets.write",
    }
    claims = claims_of(hand_over)
    assert claims == {
        "iss": GATEWAY,
        "client_id": GATEWAY,
        "aud": agent_id("coder"),
        "sub": "acme|alice",
        "act": {"iss": GATEWAY, "sub": agent_id("planner"), "sub_profile": "ai_agent"},
        "may_act": {"iss": GATEWAY, "sub": agent_id("coder")},
        "scope": "tickets.write",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 300,
        "jti": claims["jti"],
        "txn": claims["txn"],
    }
    assert list(claims) == [
        "iss", "client_id", "aud", "sub", "act", "may_act", "scope", "iat", "nbf", "exp", "jti", "txn",
    ]  # fmt: skip

    service.clock.now = NOW + 2
    form = subject_form(hand_over) | {"resource": MCP}
    taken = await service.post(with_assertion(form, service.assertion()), agent=None)
    assert taken.status_code == 200, taken.text
    coder = claims_of(taken.json()["access_token"])
    assert coder == {
        "iss": GATEWAY,
        "client_id": GATEWAY,
        "aud": MCP,
        "sub": "acme|alice",
        "act": {
            "iss": GATEWAY,
            "sub": agent_id("coder"),
            "sub_profile": "ai_agent",
            "act": {"iss": GATEWAY, "sub": agent_id("planner"), "sub_profile": "ai_agent"},
        },
        "scope": "tickets.write",
        "iat": NOW + 2,
        "nbf": NOW + 2,
        "exp": NOW + 300,
        "jti": coder["jti"],
        "txn": claims["txn"],
    }
    caller = await service.verifier.authenticate(
        taken.json()["access_token"].encode(), service.clock()
    )
    assert [(hop.id, hop.evidence) for hop in caller.chain] == [
        (agent_id("coder"), "exchange"),
        (agent_id("planner"), "client-auth"),
    ]
    with pytest.raises(InvalidToken, match="hand-over"):
        await service.verifier.authenticate(hand_over.encode(), service.clock())


async def test_an_issued_token_verifies_against_the_published_keys(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), MCP)
    answer = await service.client.get("/oauth/jwks.json")
    keys = jwt.PyJWKSet.from_dict(answer.json())
    header = jwt.get_unverified_header(token)
    assert (header["typ"], header["alg"]) == ("at+jwt", "ES256")
    claims = jwt.decode(
        token, keys[header["kid"]], ["ES256"], audience=MCP, options={"verify_exp": False}
    )
    assert claims["sub"] == "acme|alice"


async def test_answers_to_tokens_are_never_stored(service: StsUnderTest) -> None:
    allowed = await service.exchange(service.idp_token(), MCP)
    denied = await service.exchange(service.idp_token(), "https://elsewhere.example.com")
    unknown = await service.post({}, agent=None)
    for answer in (allowed, denied, unknown):
        assert answer.headers["cache-control"] == "no-store"
    assert allowed.headers["agentgw-event-id"] and denied.headers["agentgw-event-id"]
    assert "agentgw-event-id" not in unknown.headers


REFUSED: dict[str, tuple[dict[str, str | None], int, str]] = {
    "no grant_type": ({"grant_type": None}, 400, "invalid_request"),
    "empty grant_type": ({"grant_type": ""}, 400, "invalid_request"),
    "another grant_type": ({"grant_type": "client_credentials"}, 400, "unsupported_grant_type"),
    "grant_type in other case": ({"grant_type": GRANT_TYPE.upper()}, 400, "unsupported_grant_type"),
    "no subject_token": ({"subject_token": None}, 400, "invalid_request"),
    "empty subject_token": ({"subject_token": ""}, 400, "invalid_request"),
    "opaque subject_token": ({"subject_token": "opaque"}, 400, "invalid_request"),
    "no subject_token_type": ({"subject_token_type": None}, 400, "invalid_request"),
    "an ID token": (
        {"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, 400, "invalid_request",
    ),
    "an unknown type": ({"subject_token_type": "x"}, 400, "invalid_request"),
    "a refresh token wanted": (
        {"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        400, "invalid_request",
    ),
    "an actor_token": ({"actor_token": "x", "actor_token_type": ACCESS_TOKEN}, 400, "invalid_request"),
    "an actor_token_type alone": ({"actor_token_type": ACCESS_TOKEN}, 400, "invalid_request"),
    "no authorization_details": (
        {"authorization_details": "[]"}, 400, "invalid_authorization_details",
    ),
    "no target": ({"resource": None}, 400, "invalid_request"),
    "two targets": ({"audience": TIME}, 400, "invalid_target"),
    "a relative target": ({"resource": "/mcp"}, 400, "invalid_target"),
    "a target with fragment": ({"resource": f"{MCP}#x"}, 400, "invalid_target"),
    "a target with empty fragment": ({"resource": f"{MCP}#"}, 400, "invalid_target"),
    "a target with a slash more": ({"resource": f"{MCP}/"}, 400, "invalid_target"),
    "a target in other case": ({"resource": MCP.upper()}, 400, "invalid_target"),
    "a target with userinfo": ({"resource": "https://gw.example.com@evil.test/mcp"}, 400, "invalid_target"),
    "a broken target": ({"resource": "https://[::1/mcp"}, 400, "invalid_target"),
    "the gateway itself": ({"resource": GATEWAY}, 400, "invalid_target"),
    "an upstream": ({"resource": "https://tickets.example.com/mcp"}, 400, "invalid_target"),
    "an unknown agent": ({"resource": agent_id("nobody")}, 400, "invalid_target"),
    "an agent not listed": ({"resource": agent_id("tester")}, 400, "invalid_target"),
    "a disabled agent": ({"resource": agent_id("idle")}, 400, "invalid_target"),
    "more scope": ({"scope": "tickets.read admin"}, 400, "invalid_scope"),
    "scope with two spaces": ({"scope": "tickets.read  tickets.write"}, 400, "invalid_scope"),
    "scope with a quote": ({"scope": 'tickets.read"'}, 400, "invalid_scope"),
    "a client_id of another": ({"client_id": "coder"}, 400, "invalid_request"),
    "a second credential": ({"client_secret": SECRETS["planner"]}, 400, "invalid_request"),
    "a NUL": ({"scope": "tickets.read\0"}, 400, "invalid_request"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_refuses_with_the_code_of_the_rfc(service: StsUnderTest, case: str) -> None:
    changes, status, error = REFUSED[case]
    form = subject_form(service.idp_token()) | {"resource": MCP} | changes
    answer = await service.post({name: text for name, text in form.items() if text is not None})
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert (await service.exchange(service.idp_token(), MCP)).status_code == 200


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "multipart/form-data; boundary=x", "text/plain", ""],
)
async def test_refuses_another_content_type(service: StsUnderTest, content_type: str) -> None:
    form = subject_form(service.idp_token()) | {"resource": MCP}
    answer = await service.client.post(
        "/oauth/token",
        content=json.dumps(form),
        headers={
            "Content-Type": content_type,
            "Authorization": basic("planner", SECRETS["planner"]),
        },
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert service.records == []


@pytest.mark.parametrize(
    "body",
    [
        b"\xff\xfe",
        b"grant_type=%ff",
        b"no-equals-sign",
        b"a=1&&b=2",
        b"&".join([b"a=1"] * 200),
        b"",
    ],
)
async def test_refuses_a_broken_form(service: StsUnderTest, body: bytes) -> None:
    answer = await service.client.post("/oauth/token", content=body, headers=FORM_TYPE)
    expected = (401, "invalid_client") if body == b"" else (400, "invalid_request")
    assert (answer.status_code, answer.json()["error"]) == expected


async def test_refuses_parameters_in_the_url(service: StsUnderTest) -> None:
    answer = await service.client.post(
        "/oauth/token?grant_type=x", content="a=1", headers=FORM_TYPE
    )
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_refuses_other_methods(service: StsUnderTest, method: str) -> None:
    answer = await service.client.request(method, "/oauth/token")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json()["error"] == "invalid_request"


async def test_refuses_a_body_over_the_limit(service: StsUnderTest) -> None:
    answer = await service.post({"scope": "x" * 70_000})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


async def test_an_empty_optional_parameter_counts_as_absent(service: StsUnderTest) -> None:
    answer = await service.exchange(service.idp_token(), MCP, scope="", requested_token_type="")
    assert answer.json()["scope"] == "tickets.read tickets.write"


@pytest.mark.parametrize(
    "authorization",
    [
        basic("planner", "wrong"),
        basic("planner", ""),
        basic("nobody", SECRETS["planner"]),
        basic("", ""),
        "Basic !!!",
        "Basic cGxhbm5lcg==",
        "Bearer abc",
        "Basic",
    ],
)
async def test_refuses_a_client_that_proves_nothing(
    service: StsUnderTest, authorization: str
) -> None:
    form = subject_form(service.idp_token()) | {"resource": MCP}
    answer = await service.client.post(
        "/oauth/token", data=form, headers={"Authorization": authorization}
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert service.records == []
    assert [(source, at) for source, at, _ in service.refused] == [("127.0.0.1", "/oauth/token")]


async def test_a_public_client_gets_no_exchange(service: StsUnderTest) -> None:
    form = subject_form(service.idp_token()) | {"resource": MCP, "client_id": "planner"}
    answer = await service.post(form, agent=None)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_accepts_the_secret_in_the_body(service: StsUnderTest) -> None:
    form = subject_form(service.idp_token()) | {"resource": MCP}
    form |= {"client_id": "planner", "client_secret": SECRETS["planner"]}
    assert (await service.post(form, agent=None)).status_code == 200


async def test_a_disabled_agent_gets_nothing(service: StsUnderTest) -> None:
    answer = await service.exchange(service.idp_token(azp="idle"), MCP, "idle")
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


async def test_every_answer_to_an_authenticated_client_is_recorded_before(
    service: StsUnderTest,
) -> None:
    token = service.idp_token()
    allowed = await service.exchange(token, agent_id("coder"), scope="tickets.write")
    denied = await service.exchange(token, MCP, scope="admin")
    broken = await service.post({"grant_type": "password"})
    first, second, third = service.records
    claims = claims_of(allowed.json()["access_token"])
    assert first["event_id"] == allowed.headers["agentgw-event-id"]
    assert (first["method"], first["decision"], first["name"]) == (
        "oauth/token", "allow", agent_id("coder"),
    )  # fmt: skip
    assert first["subject"] == {"iss": "acme", "sub": "alice"}
    assert first["issued"] == {
        "jti": claims["jti"],
        "aud": agent_id("coder"),
        "scope": "tickets.write",
        "exp": NOW + 300,
    }
    assert first["txn"] == claims["txn"]
    assert first["inbound"]["iss"] == IDP  # type: ignore[index]
    assert (second["decision"], second["reason"], second["issued"]) == (
        "deny",
        "invalid_scope",
        None,
    )
    assert second["event_id"] == denied.headers["agentgw-event-id"]
    assert (third["reason"], third["presenter"]) == ("unsupported_grant_type", agent_id("planner"))
    assert third["event_id"] == broken.headers["agentgw-event-id"]
    written = json.dumps(service.records)
    assert token not in written and allowed.json()["access_token"] not in written
    assert not any(secret in written for secret in SECRETS.values())


async def test_no_record_no_token(service: StsUnderTest) -> None:
    service.log_is_full = True
    for target in (MCP, "https://elsewhere.example.com"):
        answer = await service.exchange(service.idp_token(), target)
        assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
        assert answer.headers["retry-after"]
        assert "secret-place" not in answer.text
    service.log_is_full = False
    assert (await service.exchange(service.idp_token(), MCP)).status_code == 200


async def test_what_is_issued_stands_in_the_ledger(service: StsUnderTest) -> None:
    token = await service.token(service.idp_token(), agent_id("coder"), scope="tickets.write")
    entry = service.ledger.find(claims_of(token)["jti"])
    assert entry is not None
    assert (entry.kind, entry.audience, entry.resources) == (
        "hand-over", agent_id("coder"), frozenset({MCP}),
    )  # fmt: skip
    assert entry.groups == {"acme:group:support"}


async def test_the_metadata_lists_what_exists(service: StsUnderTest) -> None:
    for path in ("oauth-authorization-server", "openid-configuration"):
        answer = await service.client.get(f"/.well-known/{path}")
        metadata = answer.json()
        assert metadata["issuer"] == GATEWAY
        assert metadata["grant_types_supported"] == [GRANT_TYPE]
        assert metadata["authorization_details_types_supported"] == [TOOL_DETAILS]
        for name in (
            "token_endpoint", "jwks_uri", "revocation_endpoint", "introspection_endpoint",
        ):  # fmt: skip
            reached = await service.client.get(metadata[name])
            assert reached.status_code in (200, 405)
        for name in metadata:
            assert name not in (
                "authorization_endpoint",
                "registration_endpoint",
                "scopes_supported",
            )


async def test_public_keys_hold_nothing_private(service: StsUnderTest) -> None:
    keys = (await service.client.get("/oauth/jwks.json")).json()["keys"]
    assert len(keys) == 2
    for key in keys:
        assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert (key["use"], key["alg"]) == ("sig", "ES256")


async def test_too_many_at_once_are_told_to_wait(tmp_path: Path) -> None:
    service = StsUnderTest(tmp_path / "none", max_in_flight=0)
    async with service:
        answer = await service.exchange(service.idp_token(), MCP)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    service = StsUnderTest(tmp_path / "one", max_in_flight=1)
    async with service:
        for _ in range(3):
            assert (await service.exchange(service.idp_token(), MCP)).status_code == 200


async def test_unfinished_bodies_and_strangers_hold_no_place(tmp_path: Path) -> None:
    service = StsUnderTest(tmp_path, max_in_flight=1)
    async with service:
        started = asyncio.Event()

        async def unfinished() -> AsyncIterator[bytes]:
            yield b"grant_type="
            started.set()
            await asyncio.Event().wait()

        async def never() -> Any:
            return await service.app(scope, receive, nothing)

        chunks = unfinished()
        scope = {
            "type": "http", "method": "POST", "path": "/oauth/token", "root_path": "", "query_string": b"",
            "client": ("192.0.2.1", 1),
            "headers": [(b"content-type", FORM_TYPE["Content-Type"].encode())],
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": await anext(chunks), "more_body": True}

        async def nothing(message: Any) -> None:
            raise AssertionError(message)

        waiting = asyncio.create_task(never())
        try:
            await started.wait()
            assert (await service.post({}, agent=None)).status_code == 401
            assert (await service.exchange(service.idp_token(), MCP)).status_code == 200
        finally:
            waiting.cancel()
            await asyncio.wait([waiting])


async def test_the_routes_can_be_mounted(service: StsUnderTest) -> None:
    assert {getattr(route, "path", "") for route in service.app.routes} == {
        "/oauth/token",
        "/oauth/par",
        "/oauth/device_authorization",
        "/oauth/register",
        "/oauth/revoke",
        "/oauth/introspect",
        "/oauth/jwks.json",
        "/.well-known/oauth-authorization-server",
        "/.well-known/openid-configuration",
    }
