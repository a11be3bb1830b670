"""The story: alice, her planner, its coder, one call that may be, one that may not, a thief, the record."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mcp import MCPError

from agentgw.demo import agents, thief
from agentgw.demo.configuration import has_git
from agentgw.demo.evidence import Evidence
from agentgw.demo.stage import Stage
from agentgw.errors import AgentgwError

_LISTING_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step as it went; `detail` is for people and never holds a token."""

    step: str
    title: str
    ok: bool
    detail: str


class NotAsTold(Exception):
    """A step did not come out as it should have; the text says how."""


def tell(stage: Stage) -> Iterator[Step]:
    """Play the steps in order, each as it is asked for. A step that does not hold is the last one."""
    story = _Story(stage)
    for play in story.steps():
        name = play.__name__.strip("_")
        title = (play.__doc__ or "").rstrip(".")
        try:
            yield Step(name, title, True, play())
        except (NotAsTold, AgentgwError, agents.ExchangeRefused, MCPError) as error:
            yield Step(name, title, False, str(error))
            return
        except Exception as error:
            # Errors of libraries may quote what was sent, tokens too: their kind has to do.
            kind = type(agents.innermost(error)).__name__
            yield Step(name, title, False, f"{kind} happened")
            return


class _Story:
    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._mcp = f"{stage.gateway}/mcp"
        self._alice = stage.issuer.token("alice", "planner", self._mcp)
        self._token = ""
        self._evidence = Evidence(stage)

    def steps(self) -> list[Callable[[], str]]:
        return [
            self.start, self.list_tools, self.call_stdio, self.hand_over, self.take_up, self.allowed,
            self.denied, self.outsider, self.stolen_at_gateway, self.stolen_at_tickets,
            self.verify_log, self.tampered_log,
        ]  # fmt: skip

    def start(self) -> str:
        """An issuer, tool servers and the gateway are up."""
        self._stage.check()
        stage = self._stage
        return f"gateway {stage.gateway}\nissuer  {stage.issuer.url}\ntickets {stage.tickets}"

    def list_tools(self) -> str:
        """Planner, for alice, sees the tools of every server in one list."""
        wanted = {"time", "tickets"} | ({"git"} if has_git() else set())
        deadline = time.monotonic() + _LISTING_SECONDS
        while True:
            names = asyncio.run(agents.tool_names(self._mcp, self._alice))
            servers = [name.partition("__")[0] for name in names]
            if wanted <= set(servers):
                return ", ".join(f"{name}: {servers.count(name)} tools" for name in sorted(wanted))
            if time.monotonic() > deadline:
                raise NotAsTold(f"{', '.join(sorted(wanted - set(servers)))} listed no tools")
            time.sleep(0.1)

    def call_stdio(self) -> str:
        """Planner calls a stdio server that knows nothing of tokens."""
        asked = {"timezone": "UTC"}
        found = self._call(self._alice, "time__get_current_time", asked)
        return f"time__get_current_time: {json.loads(found.content[0].text)['datetime']}"

    def hand_over(self) -> str:
        """Planner hands the work to coder: a token that only coder can take up."""
        self._token = agents.hand_over(self._stage, self._alice)
        refused = thief.present(self._mcp, self._token)
        _expect(refused.status == 401, f"the hand-over token opened /mcp: {refused}")
        return "exchanged at /oauth/token; worth nothing at /mcp (401)"

    def take_up(self) -> str:
        """Coder takes it up with its own key."""
        self._token = agents.take_up(self._stage, self._token)
        return "exchanged at /oauth/token with private_key_jwt; the chain is coder, planner, alice"

    def allowed(self) -> str:
        """Coder closes ticket 42 for alice, and tickets sees the whole chain."""
        asked = {"id": 42, "reason": "solved"}
        result = self._call(self._token, "tickets__close_ticket", asked)
        seen = result.structured_content["seen"]
        chain = [agent.rpartition("/")[2] for agent in (seen["agent"], *seen["prior_agents"])]
        _expect(chain == ["coder", "planner"], f"tickets saw the agents {chain}")
        _expect(seen["subject"] == "laptop|alice", f"tickets saw the user {seen['subject']}")
        act = json.dumps(seen["act"], indent=2)
        return f"tickets saw sub {seen['subject']}, scope {' '.join(seen['scope'])}, act\n{act}"

    def denied(self) -> str:
        """Coder may not close one as wont_fix: people decide that."""
        refusal = self._refused(
            self._token, "tickets__close_ticket", {"id": 7, "reason": "wont_fix"}
        )
        event_id = refusal.data["event_id"]
        why = self._stage.command("why", event_id, "--config", str(self._stage.config))
        _expect(why.returncode == 0, f"agentgw why failed: {why.stderr}")
        _expect("people-decide" in why.stdout, "agentgw why does not name the rule")
        said = f"{refusal.code} {refusal.data['reason']}: {refusal.message}"
        command = f"agentgw why {event_id} --config {self._stage.config}"
        return f"{said}\n$ {command}\n{why.stdout.rstrip()}"

    def outsider(self) -> str:
        """Bob, who is in no group, gets nothing from the same agent."""
        bob = self._stage.issuer.token("bob", "planner", self._mcp)
        names = asyncio.run(agents.tool_names(self._mcp, bob))
        _expect(not names, f"bob sees {names}")
        refusal = self._refused(bob, "tickets__read_ticket", {"id": 7})
        return f"an empty list, and {refusal.code} for tickets__read_ticket"

    def stolen_at_gateway(self) -> str:
        """A thief has a per-call token, and shows it to the gateway."""
        stolen = thief.steal(self._stage)
        answer = thief.present(self._mcp, stolen.token)
        _expect(answer.status == 401, f"the gateway answered {answer}")
        return str(answer)

    def stolen_at_tickets(self) -> str:
        """The thief replays the very same call at tickets, then bends it to another ticket."""
        stolen = thief.steal(self._stage)
        again = thief.replay(self._stage.tickets, stolen)
        _expect(again.status == 401, f"tickets answered the replay with {again}")
        bent = thief.replay(self._stage.tickets, stolen, ('"id":42', '"id":43'))
        _expect(bent.status == 401, f"tickets answered the bent call with {bent}")
        return f"replayed: {again}\nbent: {bent}"

    def verify_log(self) -> str:
        """The log is whole, shown against a checkpoint kept elsewhere and the gateway's public key."""
        found = self._evidence.verify()
        _expect(found["ok"] is True, f"first bad: {found['first_bad']}")
        _expect(found["assurance"] == "held", f"the assurance is {found['assurance']}")
        return (
            f"ok: {found['records']} records, {found['covered_to']} covered by the held checkpoint"
        )

    def tampered_log(self) -> str:
        """The same on a copy in which one byte was changed."""
        record, found = self._evidence.verify_changed_copy()
        bad = found["first_bad"]
        _expect(found["ok"] is False and bad is not None, "the change was not found")
        named = (bad["seq"], bad["id"]) == (record["seq"], record["id"])
        _expect(named, f"the record {record['seq']} was changed, but {bad} was named")
        return f"FAILED, as it must: record {bad['seq']} ({bad['id']}): {bad['reason']}"

    def _call(self, token: str, name: str, arguments: dict[str, Any]) -> Any:
        result = asyncio.run(agents.call_tool(self._mcp, token, name, arguments))
        _expect(not result.is_error, f"{name} answered with an error")
        return result

    def _refused(self, token: str, name: str, arguments: dict[str, Any]) -> MCPError:
        try:
            asyncio.run(agents.call_tool(self._mcp, token, name, arguments))
        except (MCPError, ExceptionGroup) as error:
            refusal = agents.refusal_in(error)
            _expect(refusal.code == 46001, f"{name} was refused with {refusal.code}: {refusal}")
            return refusal
        raise NotAsTold(f"{name} was allowed")


def _expect(held: bool, otherwise: str) -> None:
    if not held:
        raise NotAsTold(otherwise)
