"""Every method besides calls on a server's own path: the same decision, the same records, a token each."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import Completion, EmptyResult, SetLevelRequestParams, SubscribeRequestParams
from pydantic import BaseModel

from tests.harness import MODERN, Gateway, Issuer, gateway, wait_for
from tests.integration.agents import Agent, Document, conforms
from tests.integration.toolserver import Recording, Sent, serving

NOT_AVAILABLE, REVOKED = 46001, 46003
HANDSHAKE = "2025-11-25"
both_eras = pytest.mark.parametrize("version", [MODERN, HANDSHAKE])
CANARIES = {
    "Cookie": "session=canary-cookie",
    "Proxy-Authorization": "Basic canary-proxy",
    "X-Forwarded-User": "canary-user",
    "X-Forwarded-For": "203.0.113.77",
    "X-Api-Key": "canary-key",
    "X-Auth-Request-Email": "canary@example.com",
    "Forwarded": "for=canary",
}
GRANTS: Document = {
    "tools": ["real/*"],
    "resources": ["real/note://a"],
    "prompts": ["real/greet"],
    "methods": ["real/logging/setLevel", "real/subscriptions/listen"],
}


class Colour(BaseModel):
    """What the elicitation asks for."""

    colour: str


def official_server() -> MCPServer:
    """A tool server made with the official SDK, with a bit of everything."""
    server: MCPServer = MCPServer("official")

    @server.resource("note://a")
    def note_a() -> str:
        return "the text of a"

    @server.resource("note://b")
    def note_b() -> str:
        return "the text of b"

    @server.prompt()
    def greet(name: str) -> str:
        return f"Greet {name}"

    @server.prompt()
    def secret() -> str:
        return "never granted"

    @server.completion()  # type: ignore[no-untyped-call, untyped-decorator]
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        return Completion(values=[argument.value + "-completed"])

    @server.tool()
    async def ask(ctx: Context[Any, Any]) -> str:
        answer = await ctx.elicit("Which colour?", Colour)
        return f"{answer.action} {getattr(answer, 'data', None)}"

    @server.tool()
    async def announce(ctx: Context[Any, Any]) -> str:
        await ctx.notify_tools_changed()
        await ctx.session.send_resource_updated("note://a")
        return "announced"

    async def nothing(ctx: Any, params: Any) -> EmptyResult:
        return EmptyResult()

    inner = server._lowlevel_server
    inner.add_request_handler("logging/setLevel", SetLevelRequestParams, nothing)
    inner.add_request_handler("resources/subscribe", SubscribeRequestParams, nothing)
    return server


class House:
    """A gateway before the official server, and what that was sent."""

    def __init__(self, gw: Gateway, sent: Recording, url: str) -> None:
        self.gw = gw
        self.sent = sent
        self.url = url
        self.callers: list[str] = []
        self._agents: list[Agent] = []

    def agent(self, version: str, **claims: Any) -> Agent:
        """An agent on the server's own path that sends headers of which none may pass."""
        token = self.gw.token(**claims)
        self.callers.append(token)
        url = f"{self.gw.url}/mcp/real"
        self._agents.append(Agent(url, token, version, {"elicitation": {}}, CANARIES))
        return self._agents[-1]

    def close(self) -> None:
        """Give back every agent's connections."""
        for agent in self._agents:
            agent.close()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Recording, str]]:
    sent = Recording(official_server().streamable_http_app())
    with serving(sent, lifespan=True) as url:
        yield sent, f"{url}/mcp"


@pytest.fixture(scope="module")
def house(
    tmp_path_factory: pytest.TempPathFactory, issuer: Issuer, server: tuple[Recording, str]
) -> Iterator[House]:
    with gateway(tmp_path_factory.mktemp("methods"), issuer, changes(server[1])) as gw:
        house = House(gw, *server)
        yield house
        house.close()


def changes(url: str) -> Document:
    return {
        "servers": {"real": {"url": url}},
        "grants": [{"users": ["laptop|alice"], **GRANTS}, {"agents": ["planner"], **GRANTS}],
    }


@pytest.fixture
def agent(house: House, version: str) -> Agent:
    return house.agent(version)


def records_of(gw: Gateway, event_id: str) -> list[Document]:
    """Both records of one request."""

    def found() -> list[Document]:
        return [record for record in gw.records() if record["event_id"] == event_id]

    wait_for(lambda: len(found()) >= 2, "both records", 5)
    return found()


@both_eras
def test_lists_show_what_is_granted_and_no_more(agent: Agent, version: str) -> None:
    resources = agent.ask("resources/list")
    conforms(version, "ListResourcesResult", resources.result)
    assert [r["uri"] for r in resources.result["resources"]] == ["note://a"]
    prompts = agent.ask("prompts/list")
    conforms(version, "ListPromptsResult", prompts.result)
    assert [p["name"] for p in prompts.result["prompts"]] == ["greet"]


@both_eras
@pytest.mark.parametrize(
    ("method", "granted", "denied", "expected"),
    [
        ("resources/read", {"uri": "note://a"}, {"uri": "note://b"}, "the text of a"),
        (
            "prompts/get",
            {"name": "greet", "arguments": {"name": "Bo"}},
            {"name": "secret"},
            "Greet Bo",
        ),
        (
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "greet"},
                "argument": {"name": "name", "value": "bo"},
            },
            {
                "ref": {"type": "ref/prompt", "name": "secret"},
                "argument": {"name": "name", "value": "bo"},
            },
            "bo-completed",
        ),
    ],
)
def test_a_method_passes_where_its_target_is_granted(
    house: House,
    agent: Agent,
    version: str,
    method: str,
    granted: Document,
    denied: Document,
    expected: str,
) -> None:
    answer = agent.ask(method, granted)
    assert expected in json.dumps(answer.result)
    decision, outcome = records_of(house.gw, answer.event_id)
    assert (decision["phase"], decision["method"], decision["decision"]) == (
        "decision",
        method,
        "allow",
    )
    assert (outcome["phase"], outcome["outcome"]) == ("outcome", "ok")
    before = len(house.sent.of(method))
    refused = agent.ask(method, denied)
    assert refused.error["code"] == NOT_AVAILABLE
    assert len(house.sent.of(method)) == before
    mine = [r for r in house.gw.records() if r["event_id"] == refused.event_id]
    assert [(r["method"], r["decision"]) for r in mine if r["phase"] == "decision"] == [
        (method, "deny")
    ]


def test_handshake_methods_pass_under_their_grants(house: House) -> None:
    agent = house.agent(HANDSHAKE)
    assert agent.ask("logging/setLevel", {"level": "info"}).result == {}
    assert agent.ask("resources/subscribe", {"uri": "note://a"}).result == {}
    assert agent.ask("resources/subscribe", {"uri": "note://b"}).error["code"] == NOT_AVAILABLE
    assert agent.ask("resources/unsubscribe", {"uri": "note://b"}).error["code"] == NOT_AVAILABLE
    assert agent.ask("vendor/whatever", {"x": 1}).error["code"] == NOT_AVAILABLE
    assert agent.ask("ping").result == {}


def test_a_servers_question_in_a_call_reaches_the_agent_and_the_answer_the_server(
    house: House,
) -> None:
    agent = house.agent(HANDSHAKE)
    agent.open()
    other = house.agent(HANDSHAKE)
    other.token, other.session, other.opened = agent.token, agent.session, agent.opened
    message = agent.message("tools/call", {"name": "ask", "arguments": {}})
    with agent.streaming(message) as stream:
        question = next(stream)
        assert question["method"] == "elicitation/create"
        conforms(HANDSHAKE, "ElicitRequest", question)
        content = {"action": "accept", "content": {"colour": "blau"}}
        posted = other.send({"jsonrpc": "2.0", "id": question["id"], "result": content})
        assert posted.status == 202
        final = next(stream)
    assert "blau" in final["result"]["content"][0]["text"]


def test_the_stream_of_a_session_relays_what_the_server_says_unasked(house: House) -> None:
    agent = house.agent(HANDSHAKE)
    agent.open()
    listener = house.agent(HANDSHAKE)
    listener.token, listener.session, listener.opened = agent.token, agent.session, agent.opened
    with listener.listening() as stream:
        wait_for(lambda: house.sent.of("GET"), "the stream to reach the server")
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(next, stream)
            assert agent.call("announce").result["content"][0]["text"] == "announced"
            notice = first.result(10)
    assert notice["method"] == "notifications/resources/updated"
    assert notice["params"]["uri"] == "note://a"


def test_deleting_a_session_ends_it_at_the_server_and_here(house: House) -> None:
    agent = house.agent(HANDSHAKE)
    agent.open()
    assert agent.ask("ping").result == {}
    assert agent.bare("DELETE").status_code == 200
    assert house.sent.of("DELETE")
    assert agent.ask("resources/list").status == 404


def test_a_session_is_nobody_elses(house: House) -> None:
    agent = house.agent(HANDSHAKE)
    agent.open()
    thief = house.agent(HANDSHAKE, sub="mallory")
    thief.session, thief.opened = agent.session, agent.opened
    assert thief.ask("ping").status == 404
    assert thief.bare("DELETE").status_code == 404
    assert agent.ask("resources/list").status == 200


def listen(agent: Agent) -> Document:
    return agent.message("subscriptions/listen", {"notifications": {"toolsListChanged": True}})


def test_a_subscription_relays_and_ends_with_the_token(house: House) -> None:
    agent = house.agent(MODERN, exp=int(time.time()) + 8)
    other = house.agent(MODERN)
    message = listen(agent)
    with agent.streaming(message) as stream:
        assert next(stream)["method"] == "notifications/subscriptions/acknowledged"
        assert other.call("announce").status == 200
        notice = next(stream)
        assert notice["method"] == "notifications/tools/list_changed"
        assert list(stream) == []
        assert (
            0
            < time.time() - jwt.decode(agent.token, options={"verify_signature": False})["exp"]
            < 3
        )


def test_a_reload_that_disables_the_agent_ends_its_streams_and_calls(
    tmp_path: Path, issuer: Issuer, server: tuple[Recording, str]
) -> None:
    with gateway(tmp_path, issuer, changes(server[1])) as gw:
        house = House(gw, *server)
        agent = house.agent(MODERN)
        message = listen(agent)
        with agent.streaming(message) as stream:
            next(stream)
            gw.config["agents"]["planner"]["disabled"] = True
            gw.reload()
            last = next(stream)
            assert last["id"] == message["id"]
            assert last["error"]["code"] == REVOKED
            assert list(stream) == []
        refused = agent.call("announce")
        assert refused.error["code"] == NOT_AVAILABLE
        assert refused.error["data"]["reason"] == "unknown_agent"
        assert agent.ask("resources/list").error["code"] == NOT_AVAILABLE
        gw.config["agents"]["planner"]["disabled"] = False
        gw.reload()
        assert agent.call("announce").status == 200
        house.close()


def test_every_request_to_the_server_carried_a_token_of_ours_and_nothing_of_the_callers(
    house: House,
) -> None:
    for version in (MODERN, HANDSHAKE):
        agent = house.agent(version)
        agent.call("announce")
        agent.ask("resources/read", {"uri": "note://a"})
        if version == HANDSHAKE:
            assert agent.bare("DELETE").status_code == 200
    keys = httpx2.get(f"{house.gw.url}/oauth/jwks.json", trust_env=False).json()
    public = {key["kid"]: jwt.PyJWK(key) for key in keys["keys"]}
    seen = set()
    jtis = set()
    for sent in list(house.sent.requests):
        claims = claims_of(sent, public, house)
        if claims is None:
            continue
        method = sent.message.get("method", "response") if sent.method == "POST" else sent.method
        seen.add(method)
        jtis.add(claims["jti"])
        details = claims["authorization_details"][0]
        assert details["actions"] == [method]
        assert details["locations"] == [house.url] == [claims["aud"]]
        if "act" in claims:
            assert claims["sub"] == "laptop|alice"
            assert claims["act"]["sub"] == f"{house.gw.url}/a2a/planner"
        else:
            assert claims["sub"] == claims["client_id"] == house.gw.url
            assert method in {"server/discover", "initialize", "tools/list"} or method.startswith(
                "notifications/"
            )
        raw = sent.raw_headers.decode("latin-1") + sent.body.decode()
        assert "canary" not in raw
        assert "203.0.113.77" not in raw
        assert not any(token in raw for token in house.callers)
        assert {"cookie", "forwarded", "x-forwarded-for"}.isdisjoint(sent.headers)
    assert {"tools/call", "resources/read", "initialize", "notifications/initialized"} <= seen
    assert {"DELETE", "server/discover", "tools/list"} <= seen
    assert len(jtis) > 5


def claims_of(sent: Sent, public: dict[str, jwt.PyJWK], house: House) -> Document | None:
    """The verified claims of one request's token; None where another gateway of these tests sent it."""
    scheme, _, token = sent.headers["authorization"].partition(" ")
    assert scheme == "Bearer"
    kid = jwt.get_unverified_header(token)["kid"]
    if kid not in public:
        return None
    options: Any = {"verify_exp": False}
    claims: Document = jwt.decode(
        token, public[kid], ["ES256"], audience=house.url, issuer=house.gw.url, options=options
    )
    assert 0 < claims["exp"] - claims["iat"] <= 120
    return claims
