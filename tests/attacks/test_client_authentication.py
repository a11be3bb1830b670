"""One agent that would pass for another at the token endpoint: secrets, keys and assertions."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from agentgw.errors import OAuthError
from agentgw.identity.jwk import bind_key
from agentgw.sts.client_auth.api_key import digest_of, new_api_key
from agentgw.sts.client_auth.spiffe import SPIFFE_ASSERTION_TYPE
from agentgw.sts.clients import ASSERTION_TYPE, Client
from tests.certificates import issue
from tests.sts.sts_under_test import (
    GATEWAY,
    MCP,
    SECRETS,
    StsUnderTest,
    basic,
    subject_form,
    with_assertion,
)

pytestmark = pytest.mark.anyio

KEY = new_api_key(lambda size: b"k" * size)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    """planner and coder may use two ways each; the last was given to nobody else."""
    made = StsUnderTest(tmp_path)
    made.credentials["planner"] = Client(
        "planner", secret=SECRETS["planner"], api_keys=(digest_of(KEY),)
    )
    async with made:
        yield made


def credentials(service: StsUnderTest) -> dict[str, tuple[str | None, dict[str, str]]]:
    """Each way to authenticate: the Authorization header and the parameters."""
    assertion = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": service.assertion()}
    svid = {"client_assertion_type": SPIFFE_ASSERTION_TYPE, "client_assertion": "x"}
    return {
        "basic": (basic("planner", SECRETS["planner"]), {}),
        "post": (None, {"client_id": "planner", "client_secret": KEY}),
        "assertion": (None, assertion),
        "svid": (None, svid),
        "bearer": (f"Bearer {KEY}", {}),
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pair
        for pair in itertools.combinations(["basic", "post", "assertion", "svid", "bearer"], 2)
        if pair not in {("basic", "bearer"), ("assertion", "svid")}  # they fill the same place
    ],
)
async def test_two_methods_in_one_request_are_none(
    service: StsUnderTest, one: str, other: str
) -> None:
    (header, first), (other_header, second) = (credentials(service)[name] for name in (one, other))
    form = subject_form(service.idp_token()) | {"resource": MCP} | first | second
    sent = header or other_header
    more = {} if sent is None else {"Authorization": sent}
    answer = await service.post(form, agent=None, **more)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), (one, other)


async def test_an_api_key_is_its_agents_alone_and_no_other_credential(
    service: StsUnderTest,
) -> None:
    form = subject_form(service.idp_token()) | {"resource": MCP}

    async def ask(name: str, secret: str) -> int:
        sent = form | {"client_id": name, "client_secret": secret}
        return (await service.post(sent, agent=None)).status_code

    assert await ask("planner", KEY) == await ask("planner", SECRETS["planner"]) == 200
    for name, secret in (
        ("coder", KEY),
        ("planner", digest_of(KEY)),
        ("planner", KEY[:-1]),
        ("planner", "agk_"),
        ("nobody", KEY),
    ):
        assert await ask(name, secret) == 401, (name, secret)
    assert service.refused and KEY not in str(service.records)


async def test_a_digest_in_the_file_of_what_is_no_api_key_opens_nothing(
    service: StsUnderTest,
) -> None:
    service.credentials["planner"] = Client("planner", api_keys=(digest_of("guessable"),))
    form = subject_form(service.idp_token()) | {"resource": MCP, "client_id": "planner"}
    answer = await service.post(form | {"client_secret": "guessable"}, agent=None)
    assert answer.status_code == 401


async def test_an_assertion_serves_its_agent_for_us_and_once(service: StsUnderTest) -> None:
    form = subject_form(service.idp_token(azp="coder")) | {"resource": MCP}
    other_key = generate_private_key(SECP256R1())
    service.credentials["tester"] = Client("tester", keys=(bind_key(other_key.public_key(), "c1"),))
    for wrong in (
        service.assertion(aud="https://other.example.com"),
        service.assertion(aud=[GATEWAY, "https://other.example.com"]),
        service.assertion(iss="tester", sub="tester"),
        service.assertion(exp=None),
        service.assertion(jti=None),
    ):
        answer = await service.post(with_assertion(form, wrong), agent=None)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    good = with_assertion(form, service.assertion())
    assert (await service.post(good, agent=None)).status_code == 200
    again = await service.post(good, agent=None)
    assert again.status_code == 401 and "used before" in again.json()["error_description"]


async def test_a_client_that_proves_nothing_gets_nothing(service: StsUnderTest) -> None:
    form = subject_form(service.idp_token()) | {"resource": MCP}
    for public in ({}, {"client_id": "planner"}, {"client_id": "planner", "client_secret": ""}):
        answer = await service.post(form | public, agent=None)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


async def test_a_certificate_where_none_is_configured_proves_nothing(service: StsUnderTest) -> None:
    shown = issue("planner").shown
    for form in ({"client_id": "planner"}, {"client_id": "nobody"}, {}):
        with pytest.raises(OAuthError) as caught:
            await service.clients.authenticate(None, form, shown)
        assert (caught.value.error, caught.value.status) == ("invalid_client", 401)


async def test_an_svid_where_no_trust_domain_is_configured_proves_nothing(
    service: StsUnderTest,
) -> None:
    form = subject_form(service.idp_token()) | {"resource": MCP}
    svid = {
        "client_assertion_type": SPIFFE_ASSERTION_TYPE,
        "client_assertion": service.assertion(sub="spiffe://a.example/planner"),
    }
    answer = await service.post(form | svid, agent=None)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
