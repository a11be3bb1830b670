"""Accounts of users: who refreshes them, and what becomes of a refresh token on the way."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import Engine

from agentgw.core.connected import Place
from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.core.upstream_oauth import Challenge, Endpoints, Resource, Tokens
from agentgw.registry.schema import open_database
from agentgw.registry.vault import Vault
from agentgw.upstream import user_oauth
from agentgw.upstream.oauth_client import Found, OAuthClient
from agentgw.upstream.user_oauth import UserOAuth

pytestmark = pytest.mark.anyio
AS, MCP = "https://as.example", "https://saas.example/mcp"
PLACE = Place("acme", "alice", AS, "saas", MCP)
ALICE = Caller(
    Subject("acme", "alice", "acme|alice"), (Hop("a", "planner", "exchange"),), frozenset(), frozenset(),
    2**31, Inbound("i", None, "h"), "a",
)  # fmt: skip


class SlowServer:
    """Stands for OAuthClient: each refresh token works once, and the answer takes its time."""

    client_id, resource, known = "c", MCP, None

    def __init__(self) -> None:
        self.spent: list[str] = []

    async def find(self, *, anew: bool = False) -> Found:
        endpoints = Endpoints(AS, f"{AS}/authorize", f"{AS}/token", True, True)
        return Found(Resource((AS,), frozenset()), endpoints, Challenge(), 2**31)

    async def refresh(self, endpoints: Endpoints, refresh_token: str, now: float) -> Tokens:
        self.spent.append(refresh_token)
        await asyncio.sleep(0.4)
        return Tokens("at-2", "rt-2", None, int(now) + 3600)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    opened = open_database(tmp_path / "agentgw.db")
    yield opened
    opened.dispose()


async def test_who_waited_for_a_worker_that_died_has_all_the_time_to_refresh(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_oauth, "CLAIM_SECONDS", 0.6)
    vault = Vault(engine, {"k1": bytes(range(32))}, os.urandom, time.time)
    ended: dict[str, Any] = {
        "access": "at-1", "refresh": "rt-1", "scopes": [], "exp": 9, "client_id": "c",
    }  # fmt: skip
    vault.put(PLACE, ended)
    found = vault.get(PLACE)
    assert found is not None and vault.claim(PLACE, found.version, 0.5), "by one that died then"
    server = SlowServer()
    accounts = UserOAuth(
        "saas", cast(OAuthClient, server), vault, lambda user, name, scopes: "",
        gone=lambda key: False, barred=lambda user: False, clock=time.time,
    )  # fmt: skip
    credential = await accounts.obtain(ALICE, None, None)
    assert credential.token == b"at-2" and server.spent == ["rt-1"]
    kept = vault.get(PLACE)
    assert kept is not None and kept.refresh == "rt-2"
