"""One call, from the message policy judges to the answer the agent gets. The order is the promise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable

from agentgw.core import refusal
from agentgw.core.canonical import NotCanonical
from agentgw.core.claims import MIN_LIFE
from agentgw.core.grants import AccessRequest, Decision
from agentgw.core.principal import Caller
from agentgw.core.refusal import Refusal
from agentgw.errors import InvalidToken, Unavailable, UpstreamFailed
from agentgw.gateway import relay
from agentgw.gateway.asked import (
    UNKNOWN_TOOL,
    Asked,
    passes_unasked,
    resolve,
    speakers,
    unfit,
    unresolved,
)
from agentgw.gateway.authority import authorise_for
from agentgw.gateway.incoming import (
    END_SESSION,
    EVENT_STREAM,
    OPEN_STREAM,
    AgentSession,
    Answer,
    Incoming,
    Server,
)
from agentgw.gateway.journal import Entry
from agentgw.gateway.plan import Plan, plan_token
from agentgw.gateway.problems import refusal as refused
from agentgw.gateway.problems import unavailable
from agentgw.gateway.surroundings import Surroundings
from agentgw.mcp.message import INVALID_PARAMS
from agentgw.upstream.link import Outbound, Reply


class Gateway:
    """The story. `here` is swapped whole on a reload; a call keeps the surroundings it began with."""

    def __init__(self, here: Surroundings) -> None:
        self.here = here
        self._in_flight: dict[tuple[str, str | int], asyncio.Task[object]] = {}

    async def call(self, incoming: Incoming) -> Answer:
        """Carry one message to its server and the answer back, as policy allows and records show."""
        asked = await self._resolve(incoming)  # 1 what is asked for
        here = self.here
        now = here.clock()
        if incoming.caller.exp - now < MIN_LIFE:
            raise InvalidToken("the token expired while its request was on the way")
        decision, why = self._judge(here, incoming, asked, now)  # 2 may it be
        plan, why = self._plan(here, incoming.caller, asked, now, why)  # 3 what will be signed
        try:
            entry = await self._open(
                here, incoming, asked, now, plan, decision, why
            )  # 4 the record
        except Unavailable:
            return unavailable(incoming, here.docs)
        if why is not None or asked.server is None or plan is None:
            return self._refuse(here, incoming, why)
        why = self._revoked_meanwhile(here, incoming, asked, now)
        if why is not None:
            here.journal.close(entry, "refused", error=why.reason)
            return self._refuse(here, incoming, why)
        token = None if plan.claims is None else here.minter.sign(plan.claims, asked.server.typ)
        return await self._deliver(here, incoming, asked, asked.server, token, entry)  # 5 and 6

    async def _resolve(self, incoming: Incoming) -> Asked:
        """Find what is named; a server is asked again only for what policy would allow."""
        servers = self.here.servers
        if not self.knows_agents_of(incoming.caller):
            return unresolved(servers, incoming)
        asked = await resolve(servers, incoming)
        if asked.tool is None:
            _, why = self._judge(self.here, incoming, asked, self.here.clock())
            if why is not None and why.reason == UNKNOWN_TOOL:
                return await resolve(servers, incoming, again=True)
        if asked.server is not self.here.servers.get(asked.server.name if asked.server else ""):
            return await resolve(self.here.servers, incoming)  # a reload came in between
        return asked

    def _judge(
        self, here: Surroundings, incoming: Incoming, asked: Asked, now: float
    ) -> tuple[Decision, Refusal | None]:
        """Policy's decision, and why the call is refused, if it is: agents, grants, scope, tool."""
        caller, target, server = incoming.caller, asked.target, asked.server
        agent, subject = speakers(caller)
        if not self.knows_agents_of(caller):
            return Decision(False, "unknown_agent", "-"), refusal.unknown_agent(agent)
        if server is not None and passes_unasked(incoming.message):
            return Decision(True, None, "-"), None
        if server is None or target is None:
            decision = Decision(False, "not_available", "-")
            return decision, refusal.not_available(asked.label, agent, subject, asked.label)
        scope = server.scopes.get(target.name) if target.kind == "tools" else None
        scopes = frozenset(scope.split()) if scope else frozenset()
        decision = here.policy.decide(
            AccessRequest(
                caller, server.name, target.kind, target.name, target.arguments, scopes, now
            )
        )
        if decision.reason == "unknown_agent":
            return decision, refusal.unknown_agent(agent)
        if decision.reason == "insufficient_scope":
            needed = tuple(sorted(scopes))
            return decision, refusal.insufficient_scope(asked.label, decision.rule, needed)
        if not decision.allow:
            asked_for = f"{server.name}/{target.name}"
            return decision, refusal.not_available(asked.label, agent, subject, asked_for)
        return decision, unfit(asked, server, target, decision.rule)

    def _plan(
        self,
        here: Surroundings,
        caller: Caller,
        asked: Asked,
        now: float,
        why: Refusal | None,
    ) -> tuple[Plan | None, Refusal | None]:
        """Fix what will be signed; None, with a reason, where it cannot be."""
        if asked.server is None:
            return None, why
        try:
            plan = plan_token(
                here.issuer, here.random, caller, asked.server, asked.message, asked.tool, now
            )
            return plan, why
        except NotCanonical as error:
            text = f"the params cannot be digested (RFC 8785): {error}"
            return None, why or Refusal(INVALID_PARAMS, "not_canonical", text, "")

    def _open(
        self,
        here: Surroundings,
        incoming: Incoming,
        asked: Asked,
        now: float,
        plan: Plan | None,
        decision: Decision,
        why: Refusal | None,
    ) -> Awaitable[Entry]:
        return here.journal.open(
            incoming,
            asked.server,
            asked.target.name if asked.target is not None else None,
            now=now,
            txn=plan.txn if plan is not None else incoming.caller.txn,
            tool_digest=asked.tool.digest if asked.tool is not None else None,
            params_digest=plan.params_digest if plan is not None else None,
            issued=plan.issued if plan is not None and why is None else None,
            reason=why.reason if why is not None else None,
            rule=decision.rule,
            policy_version=here.policy.version,
        )

    async def _deliver(
        self,
        here: Surroundings,
        incoming: Incoming,
        asked: Asked,
        server: Server,
        token: bytes | None,
        entry: Entry,
    ) -> Answer:
        """Send, and record how it ended, whatever happens on the way."""
        session = incoming.session
        out = Outbound(
            asked.message,
            incoming.era,
            incoming.version,
            token,
            authorise_for(lambda: self.here, incoming, server),
            incoming.caller,
            asyncio.get_running_loop().time() + server.timeout,
            session is not None and session.relayed,
            session.upstream if session is not None else None,
            asked.tool.headers if asked.tool is not None else {},
        )
        flight = self._take_off(incoming)
        try:
            reply = await _transmit(server, incoming, out)
            if reply.stream is not None:
                answer = self._stream(here, incoming, server, reply, entry)
                if answer.stream is not None and flight is not None:
                    answer.stream, flight = self._until_landed(answer.stream, flight), None
                return answer
            return await self._whole(here, incoming, reply, entry)
        except UpstreamFailed as error:
            here.journal.close(entry, "failed", error=error.reason)
            failed = refusal.upstream_failed(server.name, error.reason)
            return self._refuse(here, incoming, failed)
        except Unavailable:
            here.journal.close(entry, "failed", error="the log could not be written")
            return unavailable(incoming, here.docs)
        except asyncio.CancelledError:
            here.journal.close(entry, "cancelled")
            raise
        except BaseException:
            here.journal.close(entry, "failed", error="the gateway failed; its output says how")
            raise
        finally:
            if flight is not None:
                self._in_flight.pop(flight, None)

    async def _whole(
        self, here: Surroundings, incoming: Incoming, reply: Reply, entry: Entry
    ) -> Answer:
        """A whole answer: checked to be one, recorded, passed on byte for byte."""
        body = reply.complete
        if body is None:
            here.journal.close(entry, "ok", status=reply.status)
            return Answer(reply.status, upstream_session=reply.session)
        document = await relay.check_response(body, incoming.message.id)
        here.journal.close(
            entry,
            "error" if "error" in document else "ok",
            status=reply.status,
            is_error=relay.is_error(document),
            result=body,
            size=len(body),
        )
        return Answer(reply.status, body, upstream_session=reply.session)

    def _stream(
        self, here: Surroundings, incoming: Incoming, server: Server, reply: Reply, entry: Entry
    ) -> Answer:
        if not here.streams.has_room(incoming.caller):
            reply.abort()
            here.journal.close(entry, "refused", error="too many open streams")
            return self._refuse(here, incoming, refusal.limited("too many open streams", 1000))

        incoming = incoming.without_content()

        def render(why: Refusal) -> bytes:
            data = why.data(incoming.event_id, here.docs)
            return relay.error_event(incoming.message.id, why.code, why.message, data)

        stream = relay.relay_stream(
            incoming,
            server,
            reply,
            entry,
            here.journal,
            here.streams,
            here.max_answer,
            here.clock,
            render,
        )
        return Answer(200, content_type=EVENT_STREAM, stream=stream, upstream_session=reply.session)

    async def relay_opening(self, incoming: Incoming) -> Answer | None:
        """Let the server itself open the session (initialize); None where it could not.

        Never answers one of our codes: clients would take us for a server of another era.
        """
        opening = AgentSession("", incoming.version, relayed=True, upstream=None)
        answer = await self.call(incoming._replace(session=opening))
        return answer if answer.status == 200 and not answer.refused else None

    def cancel(self, session_id: str, request_id: str | int) -> None:
        """Give up a call under way (notifications/cancelled), where this worker has it."""
        task = self._in_flight.get((session_id, request_id))
        if task is not None:
            task.cancel()

    def knows_agents_of(self, caller: Caller) -> bool:
        """Whether every agent of the chain is registered and enabled, right now."""
        enabled = self.here.enabled_agents
        for hop in caller.chain:
            if hop.agent not in enabled:
                return False
        return bool(caller.chain)

    def _revoked_meanwhile(
        self, here: Surroundings, incoming: Incoming, asked: Asked, now: float
    ) -> Refusal | None:
        """A reload may have taken the right away while the record was written."""
        if self.here is here:
            return None
        _, why = self._judge(self.here, incoming, asked, now)
        return None if why is None else refusal.revoked(speakers(incoming.caller)[0])

    async def _until_landed(
        self, stream: AsyncIterator[bytes], flight: tuple[str, str | int]
    ) -> AsyncIterator[bytes]:
        """`stream`, whose call can be cancelled by name until it ends."""
        try:
            async for chunk in stream:
                yield chunk
        finally:
            self._in_flight.pop(flight, None)
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    def _take_off(self, incoming: Incoming) -> tuple[str, str | int] | None:
        if incoming.session is None or not incoming.session.id or incoming.message.id is None:
            return None
        task = asyncio.current_task()
        assert task is not None
        flight = (incoming.session.id, incoming.message.id)
        self._in_flight[flight] = task
        return flight

    def _refuse(self, here: Surroundings, incoming: Incoming, why: Refusal | None) -> Answer:
        assert why is not None
        chain = incoming.caller.chain
        as_result = bool(chain) and chain[0].agent in here.refusals_as_results
        return refused(incoming, why, here.docs, as_result)


def _transmit(server: Server, incoming: Incoming, out: Outbound) -> Awaitable[Reply]:
    method = incoming.message.method
    if method == OPEN_STREAM:
        last = incoming.last_event_id
        return server.link.open_stream(out, {"Last-Event-ID": last} if last else {})
    if method == END_SESSION:
        return server.link.end_session(out)
    return server.link.send(out)
