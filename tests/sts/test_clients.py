from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, generate_private_key

from agentgw.core.canonical import b64url
from agentgw.errors import OAuthError, Unavailable
from agentgw.identity import jose
from agentgw.identity.jwk import bind_key
from agentgw.registry.assertions import UsedAssertions
from agentgw.registry.schema import open_database
from agentgw.sts.clients import ASSERTION_TYPE, Client, ClientAuthenticator
from tests.sts.sts_under_test import GATEWAY, NOW, SECRETS, StsUnderTest, basic, with_assertion

pytestmark = pytest.mark.anyio


class NeverUsed:
    def once(self, client: str, jti: str, exp: int) -> bool:
        return True


class BrokenStore:
    def once(self, client: str, jti: str, exp: int) -> bool:
        raise Unavailable("the disk is full")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    async with StsUnderTest(tmp_path) as made:
        yield made


def authenticator(service: StsUnderTest, used: Any = None) -> ClientAuthenticator:
    return ClientAuthenticator(
        lambda: service.credentials,
        GATEWAY,
        split=jose.split,
        verify=jose.verify,
        used=used or NeverUsed(),
        clock=service.clock,
    )


async def refused(
    service: StsUnderTest, authorization: str | None, form: dict[str, str]
) -> OAuthError:
    with pytest.raises(OAuthError) as caught:
        await authenticator(service).authenticate(authorization, form)
    return caught.value


async def test_each_method_authenticates(service: StsUnderTest) -> None:
    clients = authenticator(service)
    secret = SECRETS["planner"]
    by_basic = await clients.authenticate(basic("planner", secret), {})
    by_post = await clients.authenticate(None, {"client_id": "planner", "client_secret": secret})
    by_key = await clients.authenticate(None, with_assertion({}, service.assertion()))
    assert [(found.agent, found.method) for found in (by_basic, by_post, by_key)] == [
        ("planner", "client_secret_basic"),
        ("planner", "client_secret_post"),
        ("coder", "private_key_jwt"),
    ]


async def test_basic_credentials_are_form_encoded(service: StsUnderTest) -> None:
    service.credentials["a b"] = Client("a b", secret="per%cent:and colon")
    found = await authenticator(service).authenticate(basic("a+b", "per%25cent%3Aand+colon"), {})
    assert found.agent == "a b"


async def test_a_client_without_a_secret_cannot_use_one(service: StsUnderTest) -> None:
    service.credentials["keys-only"] = Client("keys-only")
    for secret in ("", "x"):
        error = await refused(service, basic("keys-only", secret), {})
        assert (error.error, error.status) == ("invalid_client", 401)


async def test_more_than_one_method_is_refused(service: StsUnderTest) -> None:
    secret = SECRETS["planner"]
    both: list[tuple[str | None, dict[str, str]]] = [
        (basic("planner", secret), {"client_secret": secret}),
        (basic("planner", secret), with_assertion({}, service.assertion())),
        (None, with_assertion({"client_secret": secret}, service.assertion())),
        (basic("planner", secret), {"client_assertion_type": ASSERTION_TYPE}),
    ]
    for authorization, form in both:
        assert (await refused(service, authorization, form)).error == "invalid_request"


@pytest.mark.parametrize(
    "typ", [None, "JWT", "client-authentication+jwt", "CLIENT-authentication+jwt"]
)
async def test_accepts_the_types_of_an_assertion(service: StsUnderTest, typ: str | None) -> None:
    form = with_assertion({"client_id": "coder"}, service.assertion(typ))
    assert (await authenticator(service).authenticate(None, form)).agent == "coder"


@pytest.mark.parametrize("typ", ["at+jwt", "dpop+jwt", "logout+jwt", "x"])
async def test_refuses_another_type(service: StsUnderTest, typ: str) -> None:
    error = await refused(service, None, with_assertion({}, service.assertion(typ)))
    assert (error.error, error.status) == ("invalid_client", 401)


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": [GATEWAY]},
        {"aud": [GATEWAY, "https://evil.example.com"]},
        {"aud": f"{GATEWAY}/oauth/token"},
        {"aud": f"{GATEWAY}/"},
        {"aud": None},
        {"iss": "planner"},
        {"sub": "planner", "iss": "planner"},
        {"sub": "nobody", "iss": "nobody"},
        {"sub": None},
        {"sub": 7, "iss": 7},
        {"exp": None},
        {"exp": NOW - 5},
        {"exp": NOW + 306},
        {"exp": str(NOW + 60)},
        {"exp": NOW + 60.5},
        {"exp": True},
        {"iat": NOW + 6},
        {"nbf": NOW + 60},
        {"nbf": "now"},
        {"jti": None},
        {"jti": ""},
        {"jti": 7},
        {"jti": "x" * 201},
    ],
)
async def test_refuses_an_assertion_with_wrong_claims(
    service: StsUnderTest, changes: dict[str, Any]
) -> None:
    key = service.coder_key
    claims = {
        "iss": "coder", "sub": "coder", "aud": GATEWAY, "exp": NOW + 60, "jti": "a",
    } | changes  # fmt: skip
    kept = {name: value for name, value in claims.items() if value is not None}
    # PyJWT refuses to write some of these claims, so only the bytes are signed by it.
    token = jwt.api_jws.encode(
        json.dumps(kept).encode(), key, "ES256", headers={"kid": "c1", "typ": "JWT"}
    )
    error = await refused(service, None, with_assertion({}, token))
    assert (error.error, error.status) == ("invalid_client", 401)


async def test_refuses_an_assertion_signed_by_another_key(service: StsUnderTest) -> None:
    token = jwt.encode(
        {"iss": "coder", "sub": "coder", "aud": GATEWAY, "exp": NOW + 60, "jti": "a"},
        generate_private_key(SECP256R1()),
        "ES256",
        headers={"kid": "c1"},
    )
    assert (await refused(service, None, with_assertion({}, token))).error == "invalid_client"


async def test_refuses_an_unknown_kid_and_accepts_none(service: StsUnderTest) -> None:
    claims = {"iss": "coder", "sub": "coder", "aud": GATEWAY, "exp": NOW + 60, "jti": "a"}
    named = jwt.encode(claims, service.coder_key, "ES256", headers={"kid": "c2"})
    assert (await refused(service, None, with_assertion({}, named))).error == "invalid_client"
    unnamed = jwt.encode(claims, service.coder_key, "ES256")
    found = await authenticator(service).authenticate(None, with_assertion({}, unnamed))
    assert found.agent == "coder"


async def test_refuses_an_unsigned_assertion(service: StsUnderTest) -> None:
    head = b64url(b'{"alg":"none"}')
    token = f"{head}.{service.assertion().split('.')[1]}."
    assert (await refused(service, None, with_assertion({}, token))).error == "invalid_client"


async def test_refuses_an_algorithm_outside_the_list(service: StsUnderTest) -> None:
    key = generate_private_key(SECP384R1())
    service.credentials["coder"] = Client("coder", keys=(bind_key(key.public_key()),))
    claims = {"iss": "coder", "sub": "coder", "aud": GATEWAY, "exp": NOW + 60, "jti": "a"}
    token = jwt.encode(claims, key, "ES384")
    assert (await refused(service, None, with_assertion({}, token))).error == "invalid_client"


async def test_a_client_id_beside_the_assertion_must_agree(service: StsUnderTest) -> None:
    form = with_assertion({"client_id": "planner"}, service.assertion())
    assert (await refused(service, None, form)).error == "invalid_client"


async def test_the_assertion_type_is_needed(service: StsUnderTest) -> None:
    for form in (
        {"client_assertion": service.assertion()},
        {"client_assertion": service.assertion(), "client_assertion_type": "x"},
        {"client_assertion_type": ASSERTION_TYPE},
    ):
        assert (await refused(service, None, form)).error == "invalid_request"


async def test_a_forged_assertion_burns_no_jti(service: StsUnderTest, tmp_path: Path) -> None:
    clients = authenticator(service, UsedAssertions(open_database(tmp_path / "used.db")))
    head, body, _ = service.assertion().split(".")
    with pytest.raises(OAuthError):
        await clients.authenticate(None, with_assertion({}, f"{head}.{body}.{'A' * 86}"))
    assert await clients.authenticate(None, with_assertion({}, service.assertion()))


async def test_an_assertion_that_cannot_be_remembered_is_not_accepted(
    service: StsUnderTest,
) -> None:
    with pytest.raises(Unavailable):
        await authenticator(service, BrokenStore()).authenticate(
            None, with_assertion({}, service.assertion())
        )


def test_no_repr_shows_a_secret() -> None:
    assert "hush" not in repr(Client("planner", secret="hush"))
