"""Certificates at the token endpoint: wrong ones, borrowed ones, and headers that claim one."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from tests.attacks.tls_gateways import AUTHORITY, SERVERS, behind_a_terminator, with_own_tls
from tests.certificates import Issued, client_context, dns, issue, uri
from tests.harness import (
    Gateway,
    Issuer,
    base_config,
    free_port,
    modern_headers,
    modern_message,
)

PLANNER = issue("planner", AUTHORITY, dns("planner.example"))
CODER = issue("coder", AUTHORITY, uri("urn:agent:coder"))
LONER = issue("loner")


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    running = Issuer().start()
    yield running
    running.stop()


def configured(folder: Path, issuer: Issuer, url: str) -> Gateway:
    """planner and coder are known by the authority's word, loner by its own certificate."""
    ca = folder / "agents-ca.pem"
    ca.write_text(AUTHORITY.pem)
    config = base_config(issuer, url, folder)
    config["listen"] = url.partition("://")[2]
    clients = [{"issuer": "laptop", "client_id": name} for name in ("planner", "coder", "loner")]
    for client in clients:
        client["confidential"] = True  # type: ignore[assignment]
    config["agents"] = {
        "planner": {
            "clients": clients[:1],
            "auth": {
                "tls_client_auth": {"san_dns": "planner.example"},
                "secret": "hush-for-these-tests",
            },
        },
        "coder": {
            "clients": clients[1:2],
            "auth": {"tls_client_auth": {"san_uri": "urn:agent:coder"}},
            "require": "client",
        },
        "loner": {"clients": clients[2:], "auth": {"self_signed_tls_client_auth": LONER.pem}},
        "talker": {"auth": {"secret": "talk-for-these-tests"}},
    }
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


def ask(
    gateway: Gateway,
    client_id: str,
    shown: Issued | None = None,
    headers: list[tuple[str, str]] | None = None,
    intermediates: str = "",
    **form: str,
) -> httpx2.Response:
    """An exchange of a token of alice's, with the certificate `shown` in the handshake."""
    context: ssl.SSLContext | bool = False
    if gateway.url.startswith("https"):
        file = None if shown is None else shown.write(gateway.folder / "shown.pem")
        if file is not None and intermediates:
            file.write_text(file.read_text() + intermediates)
        context = client_context(SERVERS, file)
    parameters = {
        "grant_type": GRANT_TYPE,
        "subject_token": gateway.token(azp=client_id),
        "subject_token_type": ACCESS_TOKEN,
        "resource": f"{gateway.url}/mcp",
        "client_id": client_id,
        **form,
    }
    with httpx2.Client(base_url=gateway.url, verify=context) as client:
        return client.post("/oauth/token", data=parameters, headers=headers or [])


def told(shown: Issued, *more: Issued) -> list[tuple[str, str]]:
    """What a terminator sends of a client's certificate (RFC 9440)."""

    def item(of: Issued) -> str:
        return f":{base64.b64encode(of.der).decode()}:"

    chain = [("Client-Cert-Chain", ", ".join(map(item, more)))] if more else []
    return [("Client-Cert", item(shown)), *chain]


def assert_refused(answer: httpx2.Response, *words: str) -> None:
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["error"]) == (401, "invalid_client"), body
    assert all(word in body["error_description"] for word in words), body


def last_exchange(gateway: Gateway) -> dict[str, Any]:
    return [r for r in gateway.records() if r["method"] == "oauth/token"][-1]


@pytest.mark.parametrize(
    ("client_id", "shown", "method"),
    [
        ("planner", PLANNER, "tls_client_auth"),
        ("coder", CODER, "tls_client_auth"),
        ("loner", LONER, "self_signed_tls_client_auth"),
    ],
)
def test_a_certificate_proves_its_agent_here_and_behind_a_terminator(
    direct: Gateway, behind: Gateway, client_id: str, shown: Issued, method: str
) -> None:
    for gateway, answer in (
        (direct, ask(direct, client_id, shown)),
        (behind, ask(behind, client_id, headers=told(shown))),
    ):
        assert answer.status_code == 200, answer.text
        record = last_exchange(gateway)
        assert record["detail"]["client_auth"] == method
        assert [hop["evidence"] for hop in record["chain"]] == ["mtls"]


def test_the_metadata_name_the_methods_that_work(direct: Gateway, behind: Gateway) -> None:
    for gateway in (direct, behind):
        with gateway.client() as client:
            document = client.get("/.well-known/oauth-authorization-server").json()
        methods = document["token_endpoint_auth_methods_supported"]
        assert methods[-2:] == ["tls_client_auth", "self_signed_tls_client_auth"]


def test_an_agent_may_have_several_methods_and_uses_one_at_a_time(direct: Gateway) -> None:
    assert ask(direct, "planner", client_secret="hush-for-these-tests").status_code == 200
    # A certificate beside other credentials is no second method: it may bind what is issued.
    assert ask(direct, "planner", PLANNER, client_secret="hush-for-these-tests").status_code == 200
    assert last_exchange(direct)["detail"]["client_auth"] == "client_secret_post"
    assert_refused(ask(direct, "planner", PLANNER, client_secret="wrong"))
    basic = [
        ("Authorization", "Basic " + base64.b64encode(b"planner:hush-for-these-tests").decode())
    ]
    mixed = ask(direct, "planner", PLANNER, basic, client_secret="hush-for-these-tests")
    assert (mixed.status_code, mixed.json()["error"]) == (400, "invalid_request")


def test_without_a_certificate_there_is_no_client(direct: Gateway, behind: Gateway) -> None:
    assert_refused(ask(direct, "coder"), "needs an authenticated client")
    assert_refused(ask(behind, "coder"), "needs an authenticated client")


def test_a_certificate_is_worth_nothing_for_another_agent(direct: Gateway, behind: Gateway) -> None:
    for client_id, shown in (("coder", PLANNER), ("planner", CODER), ("planner", LONER)):
        assert_refused(ask(direct, client_id, shown), "certificate was refused")
        assert_refused(ask(behind, client_id, headers=told(shown)), "certificate was refused")
    for client_id in ("talker", "nobody", ""):
        assert_refused(ask(direct, client_id, PLANNER))


def test_a_header_from_anybody_but_a_terminator_is_nothing(direct: Gateway) -> None:
    assert_refused(ask(direct, "planner", headers=told(PLANNER)), "needs an authenticated client")
    # Nor does it replace the certificate of the connection.
    assert_refused(ask(direct, "planner", CODER, told(PLANNER)), "certificate was refused")
    assert ask(direct, "coder", CODER, told(PLANNER)).status_code == 200


def test_two_headers_or_unreadable_ones_are_refused(behind: Gateway) -> None:
    own = told(PLANNER)
    for headers in (
        own + own,
        own + told(CODER),
        [("Client-Cert", PLANNER.pem.replace("\n", "%0A"))],
        [("Client-Cert", own[0][1] + ", " + own[0][1])],
    ):
        answer = ask(behind, "planner", headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert_refused(ask(behind, "planner", headers=[("Client-Cert", ":AAAA:")]), "cannot be read")


def test_certificates_of_other_authorities_and_forged_ones_are_refused(
    direct: Gateway, behind: Gateway
) -> None:
    same_name = issue("authority of agents", ca=True)
    other = issue("planner", same_name, dns("planner.example"))
    expired = issue("planner", AUTHORITY, dns("planner.example"), ended=True)
    by_an_agent = issue("planner", CODER, dns("planner.example"))
    for shown in (other, expired, by_an_agent, issue("planner", None, dns("planner.example"))):
        # OpenSSL ends the connection before anything is answered.
        with pytest.raises(httpx2.TransportError):
            ask(direct, "planner", shown)
        assert_refused(ask(behind, "planner", headers=told(shown)), "certificate was refused")
    headers = told(by_an_agent, CODER)
    assert_refused(ask(behind, "planner", headers=headers), "no configured authority")
    assert_refused(ask(behind, "planner", headers=told(expired)), "has expired")
    assert ask(direct, "planner", PLANNER).status_code == 200


def test_a_registered_certificate_makes_nobody_an_authority(
    tmp_path: Path, direct: Gateway, behind: Gateway
) -> None:
    # The TLS context knows LONER as an anchor; what it signs passes no check of ours.
    signed = issue("loner", LONER, dns("planner.example"))
    for client_id in ("loner", "planner"):
        assert_refused(ask(behind, client_id, headers=told(signed, LONER)))
        try:
            assert_refused(ask(direct, client_id, signed, intermediates=LONER.pem))
        except httpx2.TransportError:
            pass


def test_intermediates_told_by_a_terminator_are_followed(behind: Gateway) -> None:
    between = issue("between", AUTHORITY, ca=True)
    shown = issue("planner", between, dns("planner.example"))
    assert ask(behind, "planner", headers=told(shown, between)).status_code == 200
    assert_refused(ask(behind, "planner", headers=told(shown)), "no configured authority")


def test_a_certificate_taken_off_the_list_by_a_reload_is_refused(
    direct: Gateway,
) -> None:
    agents = direct.config["agents"]
    kept, fresh = agents["loner"]["auth"], issue("loner")
    agents["loner"]["auth"] = {"self_signed_tls_client_auth": fresh.pem}
    direct.reload()
    assert_refused(ask(direct, "loner", LONER), "none of those registered")
    assert ask(direct, "loner", fresh).status_code == 200
    agents["loner"]["auth"] = kept
    direct.reload()
    assert ask(direct, "loner", LONER).status_code == 200


# Agents that must stand behind each request (require: client)


def call(
    gateway: Gateway,
    token: str,
    shown: Issued | None = None,
    headers: list[tuple[str, str]] | None = None,
) -> tuple[int, str]:
    """Ping `/mcp` with the token and this certificate: the status and what it says."""
    message = modern_message("server/discover", {})
    context: ssl.SSLContext | bool = False
    if gateway.url.startswith("https"):
        file = None if shown is None else shown.write(gateway.folder / "shown.pem")
        context = client_context(SERVERS, file)
    lines = [*modern_headers(message, token).items(), *(headers or [])]
    with httpx2.Client(base_url=gateway.url, verify=context) as client:
        answer = client.post("/mcp", json=message, headers=lines)
    return answer.status_code, answer.text


def test_a_stolen_token_of_such_an_agent_is_worth_nothing(direct: Gateway, behind: Gateway) -> None:
    stolen = [g.token(azp="coder") for g in (direct, behind)]
    assert call(direct, stolen[0], CODER)[0] == 200
    assert call(behind, stolen[1], headers=told(CODER))[0] == 200
    for status, text in (
        call(direct, stolen[0]),
        call(direct, stolen[0], PLANNER),
        call(direct, stolen[0], LONER),
        call(direct, stolen[0], headers=told(CODER)),
        call(direct, stolen[0], PLANNER, told(CODER)),
        call(behind, stolen[1]),
        call(behind, stolen[1], headers=told(PLANNER)),
        call(behind, stolen[1], headers=told(issue("coder", None, uri("urn:agent:coder")))),
    ):
        assert status == 401 and "own TLS certificate" in text, text
    assert call(behind, stolen[1], headers=told(CODER) + told(CODER))[0] == 400
    # What was found good is not good for another token's agent, and others need none.
    assert call(direct, direct.token(azp="planner"))[0] == 200


def test_what_such_an_agent_exchanged_is_as_safe(direct: Gateway) -> None:
    token = ask(direct, "coder", CODER).json()["access_token"]
    assert call(direct, token, CODER)[0] == 200
    assert call(direct, token)[0] == call(direct, token, PLANNER)[0] == 401
