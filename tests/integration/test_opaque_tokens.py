"""A gateway whose issuer hands out opaque tokens: calls, exchanges, and what happens while it is down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.harness import Gateway, Issuer, allow_all, gateway, wait_for


def settings(issuer: Issuer, **introspection: Any) -> dict[str, Any]:
    return {
        "issuers": {
            "laptop": {
                "issuer": issuer.url,
                "audiences": ["the-gateway"],
                "groups_claim": "groups",
                "introspection": {
                    "client_id": "gateway",
                    "client_secret": "gateway-secret",
                    **introspection,
                },
            }
        }
    }


def exchange(gw: Gateway, agent: str, token: str, **form: str) -> dict[str, Any]:
    asked = {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": token,
        "subject_token_type": "urn:ietf:params:oauth:token-type:access_token",
    }
    with gw.client() as client:
        answer = client.post(
            "/oauth/token", data=asked | form, auth=(agent, f"{agent}-secret-for-tests")
        )
    found: dict[str, Any] = answer.json()
    return found


def test_an_opaque_token_calls_and_is_exchanged_and_waits_for_its_issuer(
    tmp_path: Path, faulty: str
) -> None:
    issuer = Issuer().start()
    changes = {
        **settings(issuer),
        "servers": {"tools": {"url": f"{faulty}/mcp/ok?era=modern"}},
        "grants": allow_all("tools"),
    }
    with gateway(tmp_path, issuer, changes) as gw:
        token = issuer.opaque("the-gateway")
        assert gw.call("tools__echo", token, text="hi").json()["result"]
        decision = next(r for r in gw.records() if r.get("name") == "echo")
        assert decision["subject"] == {"iss": "laptop", "sub": "alice"}
        assert decision["inbound"]["iss"] == issuer.url
        assert token not in (gw.folder / "stderr.txt").read_text()
        handed = exchange(gw, "planner", token, audience=f"{gw.url}/a2a/coder")
        taken = exchange(gw, "coder", handed["access_token"], resource=f"{gw.url}/mcp")
        assert gw.call("tools__echo", taken["access_token"], text="hi").json()["result"]

        fresh = issuer.opaque("the-gateway")
        issuer.stop()
        refused = gw.call("tools__echo", fresh, text="hi")
        assert refused.status_code == 401
        assert "could not be asked about it" in refused.headers["www-authenticate"]
        assert gw.call("tools__echo", token, text="hi").json()["result"]
        back = Issuer(issuer.port)
        back.known = issuer.known
        back.start()
        wait_for(lambda: gw.call("tools__echo", fresh).status_code == 200, "the issuer's answer")
        back.stop()


def test_without_introspection_an_opaque_token_is_nothing(tmp_path: Path, issuer: Issuer) -> None:
    with gateway(tmp_path, issuer, {}) as gw:
        refused = gw.call("tools__echo", issuer.opaque(f"{gw.url}/mcp"))
    assert refused.status_code == 401
    assert "three parts" in refused.headers["www-authenticate"]
