"""Paths that say nothing of OAuth, for clients that drop a header as soon as they see it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import anyio
import httpx2
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from tests.door import Door, door, listed
from tests.harness import modern_call, modern_headers

ECHO = modern_call("time__echo", {"text": "hello"})
WELL_KNOWN = "/.well-known/oauth-protected-resource"
ISSUER = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """`/mcp` and `/mcp/time` are not discovered, `/mcp/other` is."""
    with door(tmp_path_factory.mktemp("quiet"), discovery=False) as running:
        running.gw.config["servers"]["time"]["discovery"] = False
        running.gw.reload()
        yield running


def challenge(at: Door, path: str, token: str | None = None) -> str:
    with at.gw.client() as client:
        headers = modern_headers(ECHO, token)
        answer = client.post(path, json=ECHO, headers=headers)
    assert answer.status_code == 401
    return str(answer.headers["www-authenticate"])


def status(at: Door, path: str) -> int:
    with at.gw.client() as client:
        return client.get(path).status_code


def test_a_challenge_leads_nowhere(quiet: Door) -> None:
    assert challenge(quiet, "/mcp").startswith("Bearer")
    for path in ("/mcp", "/mcp/time"):
        for token in (None, "rubbish"):
            assert "resource_metadata" not in challenge(quiet, path, token)
    assert "resource_metadata" in challenge(quiet, "/mcp/other")


def test_there_is_no_document_either(quiet: Door) -> None:
    for path in ("", "/mcp", "/mcp/time"):
        assert status(quiet, WELL_KNOWN + path) == 404
    assert status(quiet, WELL_KNOWN + "/mcp/other") == 200


def test_a_want_of_scope_is_told_without_it(quiet: Door) -> None:
    answer = quiet.post(modern_call("time__fail", {}))
    assert answer.status == 403
    told = answer.headers["www-authenticate"]
    assert 'scope="tickets.admin"' in told and "resource_metadata" not in told


def test_a_configured_header_works_as_ever(quiet: Door) -> None:
    token = quiet.gw.token()
    assert "time__echo" in listed(quiet, token=token)

    async def call() -> str:
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(headers=headers, trust_env=False) as client:
            url = f"{quiet.gw.url}/mcp"
            async with streamable_http_client(url, http_client=client) as (read, write):
                async with ClientSession(read, write) as session:
                    await session.initialize()
                    result = await session.call_tool("time__echo", {"text": "hello"})
                    return json.dumps(result.model_dump(mode="json"))

    assert "hello" in anyio.run(call)


def test_the_issuers_own_metadata_stays_while_any_path_leads_to_it(quiet: Door) -> None:
    for path in ISSUER:
        assert status(quiet, path) == 200


def test_where_no_path_does_it_is_gone_and_everything_works_as_ever(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with door(tmp_path_factory.mktemp("silent"), discovery=False) as silent:
        for server in silent.gw.config["servers"].values():
            server["discovery"] = False
        silent.gw.reload()
        for path in (*ISSUER, f"{ISSUER[0]}/mcp", f"{ISSUER[1]}/mcp", WELL_KNOWN):
            assert status(silent, path) == 404
        assert status(silent, "/oauth/jwks.json") == 200
        assert "time__echo" in listed(silent, token=silent.gw.token())
        with silent.gw.client() as client:
            answer = client.post("/oauth/token", data={"grant_type": "x"})
        assert answer.json()["error"] == "invalid_client"
        silent.gw.config["servers"]["other"]["discovery"] = True
        silent.gw.reload()
        assert status(silent, ISSUER[0]) == 200
