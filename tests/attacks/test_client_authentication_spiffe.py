"""Workloads of SPIFFE trust domains at the token endpoint: borrowed, foreign, bent and withdrawn SVIDs."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.sts.client_auth.spiffe import SPIFFE_ASSERTION_TYPE
from agentgw.sts.clients import ASSERTION_TYPE
from tests.certificates import LOOPBACK, Issued, client_context, issue
from tests.harness import Gateway, Issuer, base_config, free_port, wait_for
from tests.spiffe import TrustDomain

SERVERS = issue("authority of servers", ca=True)
OURS, OTHER, STRANGER = map(TrustDomain, ("agents.example", "other.example", "stranger.example"))


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """coder is a workload of agents.example, tester one of other.example; loner has a secret only."""
    folder = tmp_path_factory.mktemp("spiffe")
    issuer = Issuer().start()
    url = f"https://127.0.0.1:{free_port()}"
    config = base_config(issuer, url, folder)
    own = str(issue("127.0.0.1", SERVERS, LOOPBACK).write(folder / "server.pem"))
    config["tls"], config["listen"] = {"cert": own, "key": own}, url.partition("://")[2]
    for domain in (OURS, OTHER):
        publish(folder, domain)
    config["spiffe"] = {
        domain.name: {"bundle": f"file:{domain.name}.json"} for domain in (OURS, OTHER)
    }
    config["agents"] = {
        "coder": {"auth": {"spiffe_id": OURS.id("coder")}, "client_credentials": {}},
        "tester": {"auth": {"spiffe_id": OTHER.id("tester")}, "client_credentials": {}},
        "loner": {"auth": {"secret": "hush-for-these-tests"}, "client_credentials": {}},
    }
    made = Gateway(folder, issuer, config)
    made.transport = lambda: httpx2.HTTPTransport(verify=client_context(SERVERS))
    try:
        made.start()
        wait_for(lambda: ask_x509(made, OURS.x509_svid("coder")).is_success, "the bundles")
        yield made
    finally:
        made.stop()
        issuer.stop()


def publish(folder: Path, domain: TrustDomain) -> None:
    (folder / f"{domain.name}.json").write_text(json.dumps(domain.bundle()))


def ask(
    gateway: Gateway,
    form: dict[str, str],
    shown: Issued | None = None,
    headers: dict[str, str] | None = None,
) -> httpx2.Response:
    """A client_credentials request with an SVID in the form, or one `shown` in the handshake."""
    file = None if shown is None else shown.write(gateway.folder / "svid.pem")
    data = {"grant_type": "client_credentials", **form}
    with httpx2.Client(verify=client_context(SERVERS, file)) as client:
        return client.post(f"{gateway.url}/oauth/token", data=data, headers=headers)


def ask_jwt(gateway: Gateway, svid: str, **form: str) -> httpx2.Response:
    assertion = {"client_assertion_type": SPIFFE_ASSERTION_TYPE, "client_assertion": svid}
    return ask(gateway, {**assertion, **form})


def ask_x509(gateway: Gateway, svid: Issued, client_id: str = "coder") -> httpx2.Response:
    try:
        return ask(gateway, {"client_id": client_id}, svid)
    except httpx2.TransportError:
        # OpenSSL ended the handshake: no configured authority leads there.
        return httpx2.Response(401, json={"error": "invalid_client"})


def assert_refused(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), answer.text


def last_exchange(gateway: Gateway) -> dict[str, Any]:
    return [r for r in gateway.records() if r["method"] == "oauth/token"][-1]


def test_an_svid_proves_its_agent(gateway: Gateway) -> None:
    for client_id in ({}, {"client_id": "coder"}, {"client_id": OURS.id("coder")}):
        answer = ask_jwt(gateway, OURS.jwt_svid("coder", [gateway.url]), **client_id)
        assert answer.is_success, answer.text
    record = last_exchange(gateway)
    assert record["detail"]["client_auth"] == "spiffe_jwt"
    assert [hop["evidence"] for hop in record["chain"]] == ["exchange"]
    for name in ("coder", OURS.id("coder")):
        assert ask_x509(gateway, OURS.x509_svid("coder"), name).is_success
    record = last_exchange(gateway)
    assert record["detail"]["client_auth"] == "spiffe_x509"
    assert [hop["evidence"] for hop in record["chain"]] == ["mtls"]
    with gateway.client() as client:
        document = client.get("/.well-known/oauth-authorization-server").json()
    assert document["token_endpoint_auth_methods_supported"][-2:] == ["spiffe_jwt", "spiffe_x509"]


def test_an_svid_of_another_workload(gateway: Gateway) -> None:
    for path in ("tester", "planner", "coder/", "coder/x"):
        assert_refused(ask_jwt(gateway, OURS.jwt_svid(path, gateway.url)))
        assert_refused(ask_x509(gateway, OURS.x509_svid(path)))
    assert_refused(ask_jwt(gateway, OURS.jwt_svid("coder", gateway.url), client_id="tester"))
    for name in ("tester", "loner", OTHER.id("tester"), "nobody"):
        assert_refused(ask_x509(gateway, OURS.x509_svid("coder"), name))


def test_an_svid_of_another_trust_domain(gateway: Gateway) -> None:
    for domain in (OTHER, STRANGER):
        assert_refused(ask_jwt(gateway, domain.jwt_svid("coder", gateway.url)))
        assert_refused(ask_jwt(gateway, domain.jwt_svid("x", gateway.url, sub=OURS.id("coder"))))
        assert_refused(ask_x509(gateway, domain.x509_svid("coder")))
        forged = TrustDomain(OURS.name)
        forged.root, forged.key = domain.root, domain.key
        assert_refused(ask_jwt(gateway, forged.jwt_svid("coder", gateway.url)))
        assert_refused(ask_x509(gateway, forged.x509_svid("coder")))


def test_an_svid_for_another_audience_or_too_long_a_life(gateway: Gateway) -> None:
    for audience in ("https://other.example", [gateway.url, "https://other.example"], None):
        assert_refused(ask_jwt(gateway, OURS.jwt_svid("coder", audience)))
    for life in (-60, 3600):
        exp = int(time.time()) + life
        assert_refused(ask_jwt(gateway, OURS.jwt_svid("coder", gateway.url, exp=exp)))


def test_an_svid_is_no_assertion_of_another_kind(gateway: Gateway) -> None:
    svid = OURS.jwt_svid("coder", gateway.url)
    assert_refused(
        ask(gateway, {"client_assertion_type": ASSERTION_TYPE, "client_assertion": svid})
    )
    both = ask(
        gateway,
        {
            "client_assertion_type": SPIFFE_ASSERTION_TYPE,
            "client_assertion": svid,
            "client_secret": "hush-for-these-tests",
            "client_id": "loner",
        },
    )
    assert (both.status_code, both.json()["error"]) == (400, "invalid_request")
    with gateway.client(svid) as client:
        assert client.post("/mcp", json={}).status_code == 401


def test_bundles_rotate_and_what_left_them_proves_nothing(gateway: Gateway) -> None:
    old_jwt, old_x509 = OTHER.jwt_svid("tester", gateway.url), OTHER.x509_svid("tester")
    assert ask_jwt(gateway, old_jwt).is_success
    assert ask_x509(gateway, old_x509, "tester").is_success
    fresh = TrustDomain(OTHER.name)
    fresh.kid = "j2"
    # A reload points to another file, which is read at once.
    (gateway.folder / "rotated.json").write_text(json.dumps(fresh.bundle()))
    gateway.config["spiffe"][OTHER.name] = {"bundle": "file:rotated.json"}
    gateway.reload()
    wait_for(lambda: ask_x509(gateway, fresh.x509_svid("tester"), "tester").is_success, "rotation")
    assert ask_jwt(gateway, fresh.jwt_svid("tester", gateway.url)).is_success
    assert_refused(ask_jwt(gateway, old_jwt))
    assert_refused(ask_x509(gateway, old_x509, "tester"))
    assert ask_x509(gateway, OURS.x509_svid("coder")).is_success
