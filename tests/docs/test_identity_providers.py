"""The pages on identity providers: their configurations load, and judge tokens as the pages say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agentgw.app.convert import agent_rules, issuer_rules
from agentgw.config import Config, load
from agentgw.core import claims as rule
from agentgw.core.actor import check_evidence, determine_actors, index_agents
from agentgw.errors import InvalidToken
from tests.docs.test_readme import ROOT, fenced

PAGES = sorted((ROOT / "docs/identity-providers").glob("*.md"))
RUN = {
    "keycloak": "tests/keycloak/test_page.py",
    "oidc-provider": "tests/oidc_provider/test_page.py",
}
NOW = 1_795_400_000

LIFE = {"iat": NOW, "nbf": NOW, "exp": NOW + 3600}
ENTRA = {
    **LIFE, "iss": "https://login.microsoftonline.com/11111111-2222-3333-4444-555555555555/v2.0",
    "aud": "66666666-7777-8888-9999-000000000000", "azp": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "azpacr": "1", "sub": "pairwise", "oid": "user-object", "scp": "Tickets.Read", "ver": "2.0",
    "groups": ["ffffffff-0000-1111-2222-333333333333"], "tid": "11111111-2222-3333-4444-555555555555",
}  # fmt: skip
OKTA = {
    "ver": 1, "jti": "AT.x", "iss": "https://acme.okta.com/oauth2/aus1234567890abcdef",
    "aud": "https://gw.example.com/mcp", "iat": NOW, "exp": NOW + 3600, "cid": "0oa1234567890abcdef",
    "uid": "00u1", "scp": ["tickets.read"], "sub": "alice@acme.example", "groups": ["support"],
}  # fmt: skip
AUTH0 = {
    "iss": "https://acme.eu.auth0.com/", "sub": "google-oauth2|123", "iat": NOW, "exp": NOW + 3600,
    "aud": ["https://gw.example.com/mcp", "https://acme.eu.auth0.com/userinfo"], "jti": "x",
    "client_id": "AbCdEfGhIjKlMnOpQrStUvWxYz012345", "scope": "openid tickets:read",
    "https://gw.example.com/groups": ["support"],
}  # fmt: skip
GOOGLE = {
    "iss": "https://idp.example.com/realms/acme", "aud": "agentgw", "sub": "f1", "typ": "Bearer",
    "azp": "planner", "email": "alice@acme.example", "email_verified": True, "iat": NOW,
    "exp": NOW + 300, "scope": "tickets.read",
}  # fmt: skip
GOOD: dict[str, tuple[dict[str, Any], str | None, str]] = {
    "entra": (ENTRA, "jwt", "entra|user-object"),
    "okta": (OKTA, None, "okta|alice@acme.example"),
    "auth0": (AUTH0, "at+jwt", "auth0|google-oauth2|123"),
    "google": (GOOGLE, "jwt", "acme|alice@acme.example"),
}
"""An access token as each vendor's documents show it: claims, `typ` of the header, who it is for grants."""

BAD = [
    ("entra", {"azpacr": None, "azp": None, "scp": None}, "jwt"),
    ("entra", {"azpacr": "0"}, "jwt"),
    ("entra", {"azpacr": "0", "idtyp": "app"}, "jwt"),
    ("entra", {"aud": "00000003-0000-0000-c000-000000000000"}, "jwt"),
    ("okta", {"cid": None, "scp": None, "aud": "0oa1234567890abcdef"}, None),
    ("okta", {"scp": None}, None),
    ("okta", {}, "id_token+jwt"),
    ("auth0", {}, "jwt"),
    ("auth0", {"aud": "https://acme.eu.auth0.com/userinfo"}, "at+jwt"),
    ("google", {"email_verified": False}, "jwt"),
    ("google", {"email": "alice@gmail.example"}, "jwt"),
    ("google", {"typ": "ID"}, "jwt"),
]
"""Claims changed or (None) dropped, which makes an ID token of it, a public client's, or another's."""


def page(name: str) -> str:
    return (ROOT / f"docs/identity-providers/{name}.md").read_text("utf-8")


def configuration(name: str, folder: Path) -> Config:
    (text,) = fenced(page(name), "yaml")
    file = folder / "agentgw.yaml"
    file.write_text(text)
    file.chmod(0o600)
    wanted = re.findall(r"\$\{env:(\w+)\}", text)
    return load(file, {"HOME": str(folder), **dict.fromkeys(wanted, "a-secret-for-tests")}, {})


def judge(config: Config, claims: dict[str, Any], typ: str | None) -> tuple[str, str | None]:
    """The user as grants name them, and the agent. Raises InvalidToken."""
    (rules,) = issuer_rules(config)
    index = index_agents(agent_rules(config), [rules], config.public_url)
    assert claims["iss"] == rules.issuer
    rule.check_times(claims, NOW)
    rule.check_kind(claims, typ, rules)
    assert rule.resources_of(claims, rules) == {f"{config.public_url}/mcp"}
    actors = determine_actors(claims, rules, index)
    check_evidence(actors.chain, rules)
    subject = rule.subject_of(claims, rules, config.public_url)
    known_as = subject.name if subject.known_as is None else f"{subject.iss}|{subject.known_as}"
    return known_as, actors.chain[0].agent


@pytest.mark.parametrize("name", [path.stem for path in PAGES])
def test_the_configuration_of_a_page_loads(name: str, tmp_path: Path) -> None:
    config = configuration(name, tmp_path)
    assert len(config.issuers) == 1 and config.agents and config.grants


@pytest.mark.parametrize("name", [path.stem for path in PAGES])
def test_a_page_says_whether_it_was_run_and_what_ran_it(name: str) -> None:
    opening = page(name).split("\n\n")[1]
    if name in RUN:
        assert opening.startswith("Run: ")
        assert (ROOT / RUN[name]).is_file()
    else:
        assert opening.startswith("**Not run by us**")
        assert not fenced(page(name), "sh")


@pytest.mark.parametrize("name", GOOD)
def test_a_token_as_the_vendor_documents_it_names_user_and_agent(name: str, tmp_path: Path) -> None:
    claims, typ, user = GOOD[name]
    assert judge(configuration(name, tmp_path), claims, typ) == (user, "planner")


@pytest.mark.parametrize(("name", "changes", "typ"), BAD)
def test_what_is_no_access_token_of_a_proven_client_is_refused(
    name: str, changes: dict[str, Any], typ: str | None, tmp_path: Path
) -> None:
    claims = {k: v for k, v in {**GOOD[name][0], **changes}.items() if v is not None}
    with pytest.raises(InvalidToken):
        judge(configuration(name, tmp_path), claims, typ)
