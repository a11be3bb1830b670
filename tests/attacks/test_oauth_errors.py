"""The error cases of the RFCs at the OAuth endpoints, one row each, on a whole gateway."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode

import pytest

from agentgw.core.exchange_request import ACCESS_TOKEN
from tests.attacks.oauth_endpoints import (
    FORM,
    MCP,
    Endpoints,
    assert_refusal,
    basic,
    endpoints,
)

pytestmark = pytest.mark.anyio
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
REFRESH_TOKEN = "urn:ietf:params:oauth:token-type:refresh_token"


@dataclass(frozen=True)
class Case:
    """An honest request changed, and the codes it may be refused with.

    A change to None leaves a parameter out; `claims` change the subject_token's; `headers` replace.
    """

    codes: str
    changes: Mapping[str, str | None] = field(default_factory=dict)
    headers: Mapping[str, str | None] = field(default_factory=dict)
    claims: Mapping[str, object] = field(default_factory=dict)
    more: tuple[tuple[str, str], ...] = ()
    method: str = "POST"
    query: str = ""


def changed(codes: str, **changes: str | None) -> Case:
    return Case(codes, changes)


def presented(codes: str, **claims: object) -> Case:
    return Case(codes, claims=claims)


def authorized(value: str | None, codes: str = "invalid_client") -> Case:
    return Case(codes, headers={"Authorization": value})


DETAILS = "invalid_authorization_details"
TOKEN: dict[str, Case] = {
    "6749 5.2 a required parameter is missing": changed("invalid_request", grant_type=None),
    "6749 3.2 a parameter without a value counts as missing": changed("invalid_request", grant_type=""),
    "6749 5.2 a parameter is repeated": Case("invalid_request", more=(("scope", "a"), ("scope", "b"))),
    "6749 5.2 more than one mechanism to authenticate": changed(
        "invalid_request", client_id="planner", client_secret="planner-secret-for-tests"
    ),
    "6749 2.3.1 credentials in the URI": Case(
        "invalid_request", query="client_secret=planner-secret-for-tests"
    ),
    "6749 3.2 a parameter in the URI": Case("invalid_request", query="scope=tickets.read"),
    "6749 3.2 another method than POST": Case("invalid_request", method="GET"),
    "6749 3.2 a body that is JSON": Case(
        "invalid_request", headers={"Content-Type": "application/json"}
    ),
    "6749 3.2 no media type at all": Case("invalid_request", headers={"Content-Type": None}),
    "6749 5.2 no client authentication": authorized(None),
    "6749 5.2 an unknown client": authorized(basic("nobody", "x")),
    "6749 5.2 a wrong secret": authorized(basic("planner", "x")),
    "6749 5.2 an empty secret": authorized(basic("planner", "")),
    "6749 5.2 a scheme that is none of ours": authorized("Bearer planner-secret-for-tests"),
    "6749 5.2 a client without a secret": authorized(basic("coder", "")),
    "6749 2.3.1 a public client": Case(
        "invalid_client", {"client_id": "planner"}, {"Authorization": None}
    ),
    "6749 5.2 an unsupported grant type": changed("unsupported_grant_type", grant_type="password"),
    "6749 5.2 another grant is not fallen through to": changed(
        "unsupported_grant_type", grant_type="authorization_code", code="x"
    ),
    "6749 5.2 a malformed scope": changed("invalid_scope", scope="a  b"),
    "6749 3.3 a scope of characters that it may not have": changed("invalid_scope", scope='"a"'),
    "6749 5.2 a scope beyond what was granted": changed("invalid_scope", scope="tickets.read admin"),
    "8693 2.1 no subject_token": changed("invalid_request", subject_token=None),
    "8693 2.1 no subject_token_type": changed("invalid_request", subject_token_type=None),
    "8693 2.1 an unknown subject_token_type": changed("invalid_request", subject_token_type="x"),
    "8693 3 an ID token as subject": changed("invalid_request", subject_token_type=ID_TOKEN),
    "8693 2.1 an actor_token_type without actor_token": changed(
        "invalid_request", actor_token_type=ACCESS_TOKEN
    ),
    "8693 2.1 an actor_token without its type": changed("invalid_request", actor_token="x"),
    "8693 2.2.1 a refresh token is wanted": changed(
        "invalid_request", requested_token_type=REFRESH_TOKEN
    ),
    "8693 2.2.2 a subject_token that is none": changed("invalid_request", subject_token="opaque"),
    "8693 2.2.2 an expired subject_token": presented(
        "invalid_request invalid_grant", exp=int(time.time()) - 10
    ),
    "8693 2.2.2 a subject_token of an unknown issuer": presented(
        "invalid_request invalid_grant", iss="https://elsewhere.example.com"
    ),
    "8693 2.2.2 a subject_token for another audience": presented(
        "invalid_request invalid_grant", aud="https://elsewhere.example.com"
    ),
    "8693 2.2.2 a subject_token of another agent": presented(
        "invalid_request invalid_grant", azp="coder"
    ),
    "8693 2.2.2 an ID token under another name": presented(
        "invalid_request invalid_grant", nonce="n-0S6"
    ),
    "8693 4.4 may_act names another": presented(
        "invalid_request invalid_grant", may_act={"sub": "somebody"}
    ),
    "8693 4.1 an act that its issuer may not assert": presented(
        "invalid_request invalid_grant", act={"sub": "somebody"}
    ),
    "8693 2.2.2 an unknown audience": changed(
        "invalid_target", resource=None, audience="https://elsewhere.example.com"
    ),
    "8693 2.1 no target": changed("invalid_request invalid_target", resource=None),
    "8707 2 a relative resource": changed("invalid_target", resource="/mcp"),
    "8707 2 a resource with a fragment": changed("invalid_target", resource=f"{MCP}#x"),
    "8707 2 an unknown resource": changed("invalid_target", resource="https://elsewhere.example.com/"),
    "8707 2 two resources": Case("invalid_request invalid_target", more=(("resource", MCP),)),
    "8707 2 resource and another audience": changed("invalid_target", audience=f"{MCP}/x"),
    "9396 5 authorization_details that are no JSON": changed(DETAILS, authorization_details="x"),
    "9396 5 authorization_details that are no array": changed(DETAILS, authorization_details="{}"),
    "9396 5 a detail that is no object": changed(DETAILS, authorization_details="[1]"),
    "9396 2 a detail without a type": changed(DETAILS, authorization_details='[{"actions": []}]'),
    "9396 5 a detail of an unknown type": changed(DETAILS, authorization_details='[{"type": "x"}]'),
}  # fmt: skip

SIMPLE: dict[str, Case] = {
    "no token": changed("invalid_request", token=None),
    "an empty token": changed("invalid_request", token=""),
    "a token twice": Case("invalid_request", more=(("token", "x"),)),
    "no client authentication": authorized(None),
    "a wrong secret": authorized(basic("planner", "x")),
    "an unknown client": authorized(basic("nobody", "x")),
    "a public client": Case("invalid_client", {"client_id": "planner"}, {"Authorization": None}),
    "the token in the URI": Case("invalid_request", {"token": None}, query="token=x"),
    "another method than POST": Case("invalid_request", method="GET"),
    "a body that is JSON": Case("invalid_request", headers={"Content-Type": "application/json"}),
}
"""RFC 7009 section 2.2.1 and RFC 7662 section 2.3: the errors of RFC 6749 section 5.2."""


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoints]:
    async with endpoints(tmp_path_factory.mktemp("oauth")) as found:
        yield found


async def refused(target: Endpoints, endpoint: str, case: Case) -> str:
    """Send the case; the code of the refusal it gets."""
    path = target.listed()[endpoint]
    form: dict[str, str | None] = {**target.form(endpoint)}
    if case.claims:
        form["subject_token"] = target.subject_token(**case.claims)
    pairs = [(key, value) for key, value in {**form, **case.changes}.items() if value is not None]
    headers = {"Content-Type": FORM, "Authorization": basic("planner"), **case.headers}
    answer = await target.client.request(
        case.method,
        path + (f"?{case.query}" if case.query else ""),
        content=urlencode([*pairs, *case.more]).encode(),
        headers={key: value for key, value in headers.items() if value is not None},
    )
    return assert_refusal(answer)


@pytest.mark.parametrize("name", TOKEN)
async def test_the_token_endpoint_refuses_with_the_code_of_the_rfc(
    target: Endpoints, name: str
) -> None:
    case = TOKEN[name]
    codes = case.codes.split()
    if codes == [DETAILS] and "authorization_details_types_supported" not in target.metadata:
        codes = ["invalid_request"]
    assert await refused(target, "token_endpoint", case) in codes
    await target.works()


@pytest.mark.parametrize("endpoint", ["revocation_endpoint", "introspection_endpoint"])
@pytest.mark.parametrize("name", SIMPLE)
async def test_revocation_and_introspection_refuse_with_the_code_of_the_rfc(
    target: Endpoints, endpoint: str, name: str
) -> None:
    if endpoint not in target.metadata:
        pytest.skip(f"this version lists no {endpoint}")
    assert await refused(target, endpoint, SIMPLE[name]) == SIMPLE[name].codes


@pytest.mark.parametrize("token", ["x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", "\u2028", "x" * 9000])
@pytest.mark.parametrize("hint", [None, "access_token", "refresh_token", "nonsense"])
async def test_an_unknown_token_is_revoked_already_and_not_active(
    target: Endpoints, token: str, hint: str | None
) -> None:
    form = {"token": token} | ({} if hint is None else {"token_type_hint": hint})
    for endpoint in ("revocation_endpoint", "introspection_endpoint"):
        if endpoint not in target.metadata:
            pytest.skip(f"this version lists no {endpoint}")
        answer = await target.post(target.listed()[endpoint], form)
        assert answer.status_code == 200, (endpoint, answer.text)
        if endpoint == "introspection_endpoint":
            assert answer.json() == {"active": False}
