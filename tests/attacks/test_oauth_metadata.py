"""Threat: metadata that promises what is not there, or keeps still about what is (RFC 8414).

Every value that the gateway lists is used with success; whatever else an authorization server might
offer is refused. A list this file has no proof for fails the test: add the proof.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentgw.core.exchange_request import GRANT_TYPE
from tests.attacks.oauth_endpoints import (
    FORM,
    HERE,
    KEYS,
    Endpoints,
    assert_refusal,
    assertion,
    endpoints,
    with_assertion,
)
from tests.identity.forge import rsa_key

pytestmark = pytest.mark.anyio

DOCUMENTS = ("oauth-authorization-server", "openid-configuration")
ENDPOINTS = ("authorize", "par", "revoke", "introspect", "register", "device_authorization",
             "userinfo", "logout", "token_info", "ciba", "token")  # fmt: skip
"""Names under /oauth/ where an authorization server may have an endpoint."""

GRANTS = (
    GRANT_TYPE, "authorization_code", "implicit", "password", "client_credentials", "refresh_token",
    "urn:ietf:params:oauth:grant-type:jwt-bearer", "urn:ietf:params:oauth:grant-type:saml2-bearer",
    "urn:ietf:params:oauth:grant-type:device_code", "urn:openid:params:grant-type:ciba",
    "urn:ietf:params:oauth:grant-type:uma-ticket", "none", "*",
)  # fmt: skip
PLAIN = {
    "issuer", "token_endpoint", "jwks_uri", "response_types_supported", "grant_types_supported",
    "token_endpoint_auth_methods_supported", "token_endpoint_auth_signing_alg_values_supported",
}  # fmt: skip
"""What the tests below prove."""

PROVEN_ELSEWHERE: dict[str, str] = {
    f"{name}_endpoint{member}": f"tests/http/test_{name}.py"
    for name in ("revocation", "introspection")
    for member in ("", "_auth_methods_supported", "_auth_signing_alg_values_supported")
} | {
    "introspection_signing_alg_values_supported": "tests/http/test_introspection.py",
    "authorization_details_types_supported": "tests/attacks/test_tokens_for_one_tool.py",
    "dpop_signing_alg_values_supported": "tests/identity/test_dpop.py",
}
"""Further members of metadata, and the test that proves each."""

METHODS_ELSEWHERE: dict[str, str] = {}
"""Further ways to authenticate, and the test that proves each."""


@pytest.fixture(scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Endpoints]:
    async with endpoints(tmp_path_factory.mktemp("oauth")) as found:
        yield found


async def by_post(target: Endpoints, **form: str) -> httpx2.Response:
    """An exchange whose credentials are `form`; coder's and planner's subject is their own client's."""
    agent = "planner" if form.get("client_id") == "planner" else "coder"
    whole = (
        target.form("token_endpoint") | {"subject_token": target.subject_token(azp=agent)} | form
    )
    return await target.client.post(
        "/oauth/token", content=urlencode(whole), headers={"Content-Type": FORM}
    )


async def with_secret_in_header(target: Endpoints) -> httpx2.Response:
    return await target.post("/oauth/token", target.form("token_endpoint"))


async def with_secret_in_body(target: Endpoints) -> httpx2.Response:
    return await by_post(target, client_id="planner", client_secret="planner-secret-for-tests")


async def with_private_key(target: Endpoints) -> httpx2.Response:
    return await by_post(target, **with_assertion({}, assertion("ES256")))


METHODS: dict[str, Callable[[Endpoints], Awaitable[httpx2.Response]]] = {
    "client_secret_basic": with_secret_in_header,
    "client_secret_post": with_secret_in_body,
    "private_key_jwt": with_private_key,
}


async def test_both_documents_say_the_same_and_nothing_unproven(target: Endpoints) -> None:
    for name in DOCUMENTS:
        assert (await target.client.get(f"/.well-known/{name}")).json() == target.metadata
    assert target.metadata["issuer"] == HERE
    unproven = set(target.metadata) - PLAIN - set(PROVEN_ELSEWHERE)
    assert not unproven, "prove these here, or name the test that does"


async def test_every_endpoint_listed_is_there_and_no_other(target: Endpoints) -> None:
    listed = set(target.listed().values())
    for path in listed:
        refused = await target.post(path, {"x": "y"})
        assert_refusal(refused)
        assert (await target.client.get(path)).status_code == 405
    for name in ENDPOINTS:
        path = f"/oauth/{name}"
        if path in listed:
            continue
        for answer in (await target.client.get(path), await target.post(path, {"x": "y"})):
            assert answer.status_code == 404, path
    keys = await target.client.get(urlsplit(target.metadata["jwks_uri"]).path)
    assert keys.json()["keys"]


@pytest.mark.parametrize("grant", GRANTS)
async def test_a_grant_is_known_if_and_only_if_it_is_listed(target: Endpoints, grant: str) -> None:
    answer = await target.post("/oauth/token", {"grant_type": grant})
    unsupported = assert_refusal(answer) == "unsupported_grant_type"
    assert unsupported == (grant not in target.metadata["grant_types_supported"])


async def test_every_listed_grant_is_among_those_tried(target: Endpoints) -> None:
    assert set(target.metadata["grant_types_supported"]) <= set(GRANTS)
    await target.works()


async def test_every_listed_way_to_authenticate_works(target: Endpoints) -> None:
    for method in target.metadata["token_endpoint_auth_methods_supported"]:
        if method in METHODS_ELSEWHERE:
            continue
        answer = await METHODS[method](target)
        assert answer.status_code == 200, (method, answer.text)


async def test_ways_to_authenticate_that_are_not_listed_are_refused(target: Endpoints) -> None:
    listed = set(target.metadata["token_endpoint_auth_methods_supported"])
    claims: dict[str, Any] = {"iss": "planner", "sub": "planner"}
    tried = {
        "none": {"client_id": "planner"},
        "client_secret_jwt": with_assertion(
            {}, assertion("HS256", b"planner-secret-for-tests" * 4, **claims)
        ),
        "urn:example:saml": {"client_assertion_type": "urn:x", "client_assertion": "x"},
    }
    assert not listed & set(tried)
    for method, form in tried.items():
        assert assert_refusal(await by_post(target, **form)) in (
            "invalid_client",
            "invalid_request",
        ), method


async def test_assertions_are_taken_under_listed_algorithms_and_no_other(target: Endpoints) -> None:
    listed = target.metadata["token_endpoint_auth_signing_alg_values_supported"]
    for alg in listed:
        answer = await by_post(target, **with_assertion({}, assertion(alg)))
        assert answer.status_code == 200, (alg, answer.text)
    others = {
        "HS256": secrets.token_bytes(32),
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "ES512": ec.generate_private_key(ec.SECP521R1()),
        "PS256": rsa_key(),
        "RS512": rsa_key(),
        "none": "",
    }
    assert set(listed) <= set(KEYS) and not set(listed) & set(others)
    for alg, key in others.items():
        answer = await by_post(target, **with_assertion({}, assertion(alg, key)))
        assert assert_refusal(answer) == "invalid_client", alg


async def test_no_response_type_is_listed_as_there_is_no_authorization_endpoint(
    target: Endpoints,
) -> None:
    assert bool(target.metadata["response_types_supported"]) == (
        "authorization_endpoint" in target.metadata
    )
