"""Tokens bound to a TLS certificate: stolen, shown with another, or with a claim of one (RFC 8705)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest

from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from tests.attacks.tls_gateways import AUTHORITY, SERVERS, behind_a_terminator, with_own_tls
from tests.certificates import Issued, client_context, issue
from tests.dpop import Prover
from tests.harness import (
    Gateway,
    Issuer,
    base_config,
    free_port,
    modern_headers,
    modern_message,
)

OWN = issue("planner", AUTHORITY)
OTHER = issue("coder", AUTHORITY)
LISTING = modern_message("tools/list", {})


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer().start()
    yield running
    running.stop()


def configured(folder: Path, issuer: Issuer, url: str) -> Gateway:
    """planner must use tokens bound to its certificate; clerk may use any."""
    ca = folder / "agents-ca.pem"
    ca.write_text(AUTHORITY.pem)
    config = base_config(issuer, url, folder)
    config["listen"] = url.partition("://")[2]
    config["agents"]["planner"]["require"] = "mtls"
    client = {"issuer": "laptop", "client_id": "clerk", "confidential": True}
    config["agents"]["clerk"] = {"clients": [client], "auth": {"secret": "clerk-secret-for-tests"}}
    config["client_certificates"] = {"ca": str(ca), "header": True}
    return Gateway(folder, issuer, config)


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("direct")
    made = configured(folder, issuer, f"https://127.0.0.1:{free_port()}")
    with with_own_tls(made) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("behind")
    made = configured(folder, issuer, f"http://127.0.0.1:{free_port()}")
    with behind_a_terminator(made) as gateway:
        yield gateway


@pytest.fixture(params=["direct", "behind"])
def gateway(request: pytest.FixtureRequest) -> Gateway:
    """Either of them: the certificate comes in the handshake, or in the terminator's header."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Gateway)
    return found


def post(gateway: Gateway, path: str, shown: Issued | None, **request: Any) -> httpx2.Response:
    """A request of a client that holds `shown`."""
    headers = dict(request.pop("headers", {}))
    verify: Any = False
    if gateway.url.startswith("https"):
        file = None if shown is None else shown.write(gateway.folder / "shown.pem")
        verify = client_context(SERVERS, file)
    elif shown is not None:
        headers["Client-Cert"] = f":{base64.b64encode(shown.der).decode()}:"
    with httpx2.Client(base_url=gateway.url, verify=verify) as client:
        return client.post(path, headers=headers, **request)


def listing(gateway: Gateway, token: str, shown: Issued | None, **more: str) -> httpx2.Response:
    headers = {**modern_headers(LISTING, token), **more}
    return post(gateway, "/mcp", shown, headers=headers, json=LISTING)


def exchange(
    gateway: Gateway, subject: str, shown: Issued | None, agent: str = "planner", **more: str
) -> httpx2.Response:
    form = {
        "grant_type": GRANT_TYPE,
        "subject_token": subject,
        "subject_token_type": ACCESS_TOKEN,
        "resource": f"{gateway.url}/mcp",
        "client_id": agent,
        "client_secret": f"{agent}-secret-for-tests",
    }
    return post(gateway, "/oauth/token", shown, data=form, headers=more)


def cnf(shown: Issued) -> dict[str, str]:
    return {"x5t#S256": shown.shown.thumbprint}


def refused(answer: httpx2.Response, word: str) -> None:
    assert answer.status_code == 401, answer.text
    assert answer.headers["www-authenticate"].startswith("Bearer "), answer.headers
    assert answer.json()["error"] == "invalid_token"
    assert word in answer.json()["error_description"]


def test_a_bound_token_works_with_its_certificate_only(gateway: Gateway) -> None:
    for agent in ("planner", "clerk"):
        token = gateway.token(azp=agent, cnf=cnf(OWN))
        assert listing(gateway, token, OWN).status_code == 200
        for thief in (None, OTHER):
            refused(listing(gateway, token, thief), "other than the client's")
        assert listing(gateway, token, OWN).status_code == 200


def test_a_header_from_anybody_but_a_terminator_proves_nothing(direct: Gateway) -> None:
    token = direct.token(cnf=cnf(OWN))
    claimed = {"Client-Cert": f":{base64.b64encode(OWN.der).decode()}:"}
    refused(listing(direct, token, None, **claimed), "other than the client's")


def test_an_agent_that_must_prove_possession_is_nobody_without(gateway: Gateway) -> None:
    prover = Prover()
    for token in (gateway.token(), gateway.token(cnf=prover.cnf)):
        refused(listing(gateway, token, OWN), "must use tokens bound to its TLS certificate")
    assert listing(gateway, gateway.token(azp="clerk"), None).status_code == 200


def test_the_token_endpoint_binds_what_it_issues_to_that_agent(gateway: Gateway) -> None:
    refusal = exchange(gateway, gateway.token(), None)
    assert (refusal.status_code, refusal.json()["error"]) == (400, "invalid_request")
    assert "TLS certificate" in refusal.json()["error_description"]
    answer = exchange(gateway, gateway.token(), OWN)
    token = answer.json()["access_token"]
    assert answer.json()["token_type"] == "Bearer"
    assert jwt.decode(token, options={"verify_signature": False})["cnf"] == cnf(OWN)
    assert listing(gateway, token, OWN).status_code == 200
    refused(listing(gateway, token, OTHER), "other than the client's")


def test_a_bound_token_is_exchanged_with_its_certificate_only(gateway: Gateway) -> None:
    for agent in ("planner", "clerk"):
        bound = gateway.token(azp=agent, cnf=cnf(OWN))
        stolen = exchange(gateway, bound, OTHER, agent)
        assert (stolen.status_code, stolen.json()["error"]) == (400, "invalid_grant")
        kept = exchange(gateway, bound, OWN, agent).json()["access_token"]
        assert jwt.decode(kept, options={"verify_signature": False})["cnf"] == cnf(OWN)


def test_a_certificate_alone_binds_nobody_who_did_not_ask(gateway: Gateway) -> None:
    answer = exchange(gateway, gateway.token(azp="clerk"), OWN, "clerk")
    claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    assert "cnf" not in claims


def test_a_token_bound_to_both_needs_both(gateway: Gateway) -> None:
    prover = Prover()
    token = gateway.token(cnf={**prover.cnf, **cnf(OWN)})
    url = f"{gateway.url}/mcp"
    both = prover.headers("POST", url, token)
    assert listing(gateway, token, OWN, **both).status_code == 200
    for shown, headers in ((OTHER, prover.headers("POST", url, token)), (OWN, {})):
        answer = listing(gateway, token, shown, **headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")


def test_metadata_says_so(gateway: Gateway) -> None:
    with gateway.client() as client:
        for path in ("oauth-protected-resource/mcp", "oauth-authorization-server"):
            document = client.get(f"/.well-known/{path}").json()
            assert document["tls_client_certificate_bound_access_tokens"] is True
