"""docs/identity-providers/keycloak.md, command by command, in a realm that has nothing yet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.test_readme import fenced
from tests.harness import ROOT, Issuer
from tests.keycloak.server import ADMIN, Keycloak
from tests.provider_house import house as run_house
from tests.provider_house import page_settings, run_commands

pytestmark = pytest.mark.keycloak
PAGE = ROOT / "docs/identity-providers/keycloak.md"


def test_whoever_follows_the_page_lets_users_of_keycloak_in(
    keycloak: Keycloak, issuer: Issuer, tmp_path: Path
) -> None:
    keycloak.administer("POST", "", {"realm": "page", "enabled": True}, realm="")
    replaced = {"-r acme": "-r page", "https://idp.example.com": keycloak.root}
    replaced |= {"/realms/acme": "/realms/page"}
    in_keycloak, try_it = fenced(PAGE.read_text("utf-8"), "sh")
    environment = {"HOME": str(tmp_path), "KEYCLOAK_PASSWORD": ADMIN["KC_BOOTSTRAP_ADMIN_PASSWORD"]}
    environment["JAVA_HOME"] = str(keycloak.jdk)
    run_commands(in_keycloak, keycloak.installed, replaced, environment)

    clients = keycloak.administer("GET", "/clients", realm="/page")
    secrets = {client["clientId"]: client.get("secret") for client in clients}
    planner = next(client for client in clients if client["clientId"] == "planner")
    # There is no browser here, so dora signs in by password.
    planner["directAccessGrantsEnabled"] = True
    keycloak.administer("PUT", f"/clients/{planner['id']}", planner, realm="/page")
    keycloak.administer("POST", "/groups", {"name": "support"}, realm="/page")
    dora = {
        "username": "dora", "enabled": True, "email": "dora@acme.example", "emailVerified": True,
        "firstName": "Dora", "lastName": "D", "groups": ["support"],
        "credentials": [{"type": "password", "value": "dora-password"}],
    }  # fmt: skip
    keycloak.administer("POST", "/users", dora, realm="/page")

    settings = page_settings(
        PAGE,
        {
            "https://idp.example.com/realms/acme": f"{keycloak.root}/realms/page",
            "${env:GATEWAY_SECRET}": secrets["agentgw"],
            "${env:PLANNER_SECRET}": secrets["planner"],
        },
    )
    form = {"grant_type": "password", "username": "dora", "password": "dora-password"}
    form |= {"client_id": "planner", "client_secret": secrets["planner"], "scope": "tickets.read"}
    with run_house(tmp_path, issuer, settings) as house, keycloak.http() as http:
        asked = http.post(f"{keycloak.root}/realms/page/protocol/openid-connect/token", data=form)
        token = asked.json()["access_token"]
        assert house.tools(token) == ["tickets__read_ticket"]
        assert house.seen(token)["agent"] == house.agent("planner")
        environment["PLANNER_SECRET"] = secrets["planner"]
        said = run_commands(try_it, tmp_path, replaced, environment)
        assert "planner" in said and "FAILED" not in said
