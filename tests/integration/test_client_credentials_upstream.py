"""`auth.mode: client_credentials`: one account of the gateway's own at a tool server, for all who call."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.external_as import House
from tests.external_as import house as run_house
from tests.harness import allow_all

OWN = {"authorization_server": "acme", "audience": "reports", "scope": "reports.read"}


def use_own_account(house: House, strict: str = "strict", **changes: Any) -> None:
    """Give the tool server `tickets` to the gateway's own account, under the same name.

    `strict` is the audience of the one at the server that refuses it.
    """
    url = house.gw.config["servers"]["tickets"]["url"]
    auth = {"mode": "client_credentials", "client_credentials": {**OWN, **changes}}
    house.gw.config["servers"] = {
        "tickets": {"url": url, "auth": auth},
        "strict": {
            "url": url.replace("/mcp/ok?as=tickets", "/mcp/401?as=strict&on=tools/call"),
            "auth": {**auth, "client_credentials": {**OWN, "audience": strict}},
        },
    }
    house.gw.config["grants"] = allow_all("tickets", "strict")
    house.gw.reload()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("own")) as running:
        use_own_account(running)
        yield running


@pytest.fixture(autouse=True)
def honest_again(house: House) -> Iterator[None]:
    yield
    house.server.reset()
    use_own_account(house)


def asked(house: House, audience: str = "reports") -> list[dict[str, str]]:
    """What was asked for. A count is of an audience of the test's own: a configuration that a reload
    replaced may still ask for what it lists."""
    return [form for form in house.server.forms if form.get("audience") == audience]


def test_all_callers_share_one_credential_that_is_asked_for_once(house: House) -> None:
    use_own_account(house, audience="shared")
    with ThreadPoolExecutor(8) as pool:
        tokens = [house.gw.token(sub=f"user{number}") for number in range(8)]
        answers = list(pool.map(house.call, tokens))
    assert all("hello" in answer.text for answer in answers)
    (form,) = asked(house, "shared")
    assert form["grant_type"] == "client_credentials" and form["scope"] == "reports.read"
    claims = jwt.decode(house.bearer(), options={"verify_signature": False})
    assert claims["sub"] == "gateway-account" and claims["aud"] == "shared" and "act" not in claims


def test_records_say_that_the_chain_is_in_our_log_only(house: House) -> None:
    assert "hello" in house.call().text
    house.call(house.gw.token(sub="carol"))
    sent = [
        r
        for r in house.gw.records()
        if r["phase"] == "decision"
        and r["method"] == "tools/call"
        and r["subject"]["sub"] == "carol"
    ][-1]
    assert sent["chain_assurance"] == "audit-only" and [h["id"] for h in sent["chain"]]
    assert sent["issued"]["authorization_server"] == "acme"


def test_a_credential_the_server_refuses_is_asked_for_anew(house: House) -> None:
    use_own_account(house, strict="refused")
    for times in (1, 2, 3):
        error = house.call(tool="strict__echo").json()["error"]
        assert error["code"] == 46005 and "HTTP 401" in error["message"]
        assert len(asked(house, "refused")) == times


def test_a_reload_forgets_the_credential(house: House) -> None:
    use_own_account(house, audience="forgotten")
    assert "hello" in house.call().text
    assert len(asked(house, "forgotten")) == 1
    house.gw.reload()
    assert "hello" in house.call().text
    assert len(asked(house, "forgotten")) == 2


def test_an_answer_for_another_audience_goes_nowhere(house: House) -> None:
    made = house.server._made

    def lying(claims: dict[str, Any], typ: str) -> str:
        return made({**claims, "aud": "time"}, typ)

    house.server._made = lying  # type: ignore[method-assign]
    try:
        use_own_account(house, audience="other-reports")
        error = house.refused()
        assert error["code"] == 46005
    finally:
        house.server._made = made  # type: ignore[method-assign]
        use_own_account(house)


def test_the_account_may_be_proven_by_a_key(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "client.pem").write_bytes(pem)
    (tmp_path / "client.pem").chmod(0o600)
    with run_house(tmp_path, account={"client_key": str(tmp_path / "client.pem")}) as running:
        running.server.client_key = key
        use_own_account(running)
        assert "hello" in running.call().text
        assert "client_assertion" in asked(running)[-1]
