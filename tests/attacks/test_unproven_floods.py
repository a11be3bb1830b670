"""Threat: requests without end by somebody who proves nothing, in the name of a public client.

They must not take the places of agents that authenticate, nor those of other users' programs, nor make us
keep what nobody needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from agentgw.core.certificate import ClientCertificate
from agentgw.core.source import one_source
from agentgw.http.client_request import ClientRequest, ClientRequests
from agentgw.sts.clients import AuthenticatedClient
from tests.login import App, attacked_place

pytestmark = pytest.mark.anyio

STRANGER, NEIGHBOUR, AGENT = "192.0.2.1", "192.0.2.2", "192.0.2.3"


class AnyClient:
    """Who shows a secret is an agent, who shows none a public client."""

    async def authenticate(
        self,
        authorization: str | None,
        form: Mapping[str, str],
        certificate: ClientCertificate | None,
    ) -> AuthenticatedClient:
        if "client_secret" in form:
            return AuthenticatedClient("planner", "client_secret_post")
        return AuthenticatedClient("desktop", "none", "consent", "desktop")


class Endpoint:
    """An endpoint with 8 places, whose answers to public clients wait until `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.under_way = 0
        self._requests = ClientRequests(AnyClient(), lambda: "event", max_in_flight=8)
        self.app = Starlette(routes=[Route("/oauth/token", self._answer, methods=["POST"])])

    async def _answer(self, request: Request) -> Response:
        return await self._requests.answer(request, self._decide)

    async def _decide(self, asked: ClientRequest) -> Response:
        self.under_way += 1
        if asked.by.client.method == "none":
            await self.go.wait()
        return Response()

    async def post(self, source: str, **form: str) -> httpx2.Response:
        """One request from an address."""
        transport = httpx2.ASGITransport(self.app, client=(source, 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://gw.example") as client:
            return await client.post("/oauth/token", data={"client_id": "desktop", **form})


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    yield Endpoint()


async def test_a_flood_in_a_public_clients_name_takes_no_place_of_others(
    endpoint: Endpoint,
) -> None:
    flood = [asyncio.create_task(endpoint.post(STRANGER)) for _ in range(20)]
    async with asyncio.timeout(5):
        while sum(task.done() for task in flood) < 18:
            await asyncio.sleep(0)
    waiting = [task for task in flood if not task.done()]
    assert len(waiting) == endpoint.under_way == 2
    assert {task.result().status_code for task in flood if task.done()} == {429}
    agent = await endpoint.post(AGENT, client_secret="one-that-is-right")
    assert agent.status_code == 200
    neighbour = asyncio.create_task(endpoint.post(NEIGHBOUR))
    while endpoint.under_way < 4:
        await asyncio.sleep(0)
    endpoint.go.set()
    assert (await neighbour).status_code == 200
    assert {(await task).status_code for task in waiting} == {200}
    assert (await endpoint.post(STRANGER)).status_code == 200


def test_nothing_is_kept_of_a_pushed_request_but_what_says_something(tmp_path: Path) -> None:
    junk: dict[str, str | None] = {f"x{number}": "A" * 600 for number in range(80)}
    with attacked_place(tmp_path) as here:
        app = App(here)
        assert app.post("/oauth/par", {**app.query(), **junk}).status_code == 201
        endless = " ".join(["a" * 5000] * 5)
        for path in ("/oauth/par", "/oauth/device_authorization"):
            answer = app.post(path, {**app.query(), "scope": endless})
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
        engine = here.engine()
        with engine.connect() as connection:
            sizes = (
                connection.exec_driver_sql("SELECT length(payload) FROM one_time").scalars().all()
            )
        engine.dispose()
        assert len(sizes) == 1 and sizes[0] < 1000


def test_a_network_of_ipv6_is_one_source() -> None:
    one = one_source("2001:db8:1:2::1")
    assert one_source("2001:db8:1:2:ffff::9") == one != one_source("2001:db8:1:3::1")
    for other in ("192.0.2.1", "::ffff:192.0.2.1", "", "unix"):
        assert one_source(other) == other
