"""One call, from the message policy judges to the answer the agent gets. The order is the promise."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import NamedTuple

from agentgw.core import refusal
from agentgw.core.canonical import NotCanonical
from agentgw.core.claims import MIN_LIFE
from agentgw.core.external_exchange import Credential
from agentgw.core.grants import Decision
from agentgw.core.principal import Caller, Issued, Subject
from agentgw.core.refusal import Refusal
from agentgw.core.revocation import Revoked
from agentgw.errors import (
    ConnectRequired,
    CredentialRefused,
    InvalidToken,
    OAuthError,
    Unavailable,
    UpstreamFailed,
)
from agentgw.gateway import credentials
from agentgw.gateway.answering import pass_stream, pass_whole, refuse
from agentgw.gateway.asked import (
    UNKNOWN_TOOL,
    Asked,
    known,
    passes_unasked,
    resolve,
    speakers,
    unfit,
    unresolved,
    why_not,
)
from agentgw.gateway.authority import authorise_for
from agentgw.gateway.flights import Flights
from agentgw.gateway.incoming import (
    AgentSession,
    Answer,
    Incoming,
    Server,
    transmit,
)
from agentgw.gateway.journal import Entry
from agentgw.gateway.judgement import BEYOND_THE_TOKEN, decide, may_open
from agentgw.gateway.plan import Plan, digest_of, plan_token
from agentgw.gateway.problems import unavailable
from agentgw.gateway.surroundings import Surroundings
from agentgw.mcp.message import INVALID_PARAMS, LARGE_REQUEST
from agentgw.upstream.link import Outbound, Reply

_Weighed = tuple[Decision, Refusal | None, str | None]


class _Using(NamedTuple):
    """What a call is sent with: a token of ours, or `held`, which is that of `owner` where a grant says
    so. `now` is when it was decided."""

    token: Awaitable[bytes] | None
    held: Credential | None
    owner: Subject | None
    now: float


class Gateway:
    """The story. `here` is swapped whole on a reload; a call keeps the surroundings it began with."""

    def __init__(self, here: Surroundings) -> None:
        self.here = here
        self._flights = Flights()

    async def call(self, incoming: Incoming) -> Answer:
        """Carry one message to its server and the answer back, as policy allows and records show."""
        # 1 what is asked for
        asked = known(self.here.servers, incoming) or await self._resolve(incoming)
        here = self.here
        now = here.clock()
        if incoming.caller.exp - now < MIN_LIFE:
            raise InvalidToken("the token expired while its request was on the way")
        if not here.revoked.quiet:
            if here.revoked.stale:
                return unavailable(incoming, here.docs)
            check_tokens(here.revoked, incoming.caller)
        decision, why, digest = await self._weigh(here, incoming, asked, now)  # 2 may it be
        plan = self._plan(here, incoming.caller, asked, digest, now)  # 3 what will be signed
        held = credentials.known(asked, incoming.caller, why, decision.account)
        try:
            # 4 the record
            entry, durable = self._open(here, incoming, asked, now, plan, decision, why, held)
            token = _sign(here, asked.server, plan, why)  # 5 signed while the record is flushed
            await durable
        except Unavailable:
            return unavailable(incoming, here.docs)
        if why is not None or asked.server is None or plan is None:
            return await self._refused(here, incoming, asked, decision, why)
        if plan.entrusted is not None:
            held_up = await self._entrust(here, incoming, plan.entrusted, entry)
            if held_up is not None:
                return held_up
        if held is None and asked.server.credentials is not None:
            owner = decision.account
            got = await credentials.acquire(
                here.journal, incoming, asked, asked.server, entry, owner
            )
            if not isinstance(got, Credential):
                return refuse(here, incoming, got)
            held = got
        using = _Using(token, held, decision.account, now)
        if self._may_have_lost(here):
            why = await self._revoked_meanwhile(here, incoming, asked, using)
        if why is not None:
            here.journal.close(entry, "refused", error=why.reason)
            return refuse(here, incoming, why)
        return await self._deliver(here, incoming, asked, asked.server, using, entry)  # and 6

    async def _resolve(self, incoming: Incoming) -> Asked:
        """Find what is named; a server is asked again only for what policy would allow."""
        servers = self.here.servers
        if not self.here.hears(incoming.caller):
            return unresolved(servers, incoming)
        asked = await resolve(servers, incoming)
        if asked.tool is None:
            _, why, _ = await self._weigh(self.here, incoming, asked, self.here.clock())
            if why is not None and why.reason == UNKNOWN_TOOL:
                return await resolve(servers, incoming, again=True)
        if asked.server is not self.here.servers.get(asked.server.name if asked.server else ""):
            return await resolve(self.here.servers, incoming)  # a reload came in between
        return asked

    async def _weigh(
        self, here: Surroundings, incoming: Incoming, asked: Asked, now: float
    ) -> _Weighed:
        """`_judge` and digest: what takes a large message long, in a thread, since others wait."""
        if incoming.message.size < LARGE_REQUEST:
            return self._judge_and_digest(here, incoming, asked, now)
        return await asyncio.to_thread(self._judge_and_digest, here, incoming, asked, now)

    def _judge_and_digest(
        self, here: Surroundings, incoming: Incoming, asked: Asked, now: float
    ) -> _Weighed:
        """Policy's decision, why the call is refused, if it is, and the digest of what is asked."""
        decision, why = self._judge(here, incoming, asked, now)
        if asked.server is None:
            return decision, why, None
        try:
            return decision, why, digest_of(asked.server, asked.message)
        except NotCanonical as error:
            text = f"the params cannot be digested (RFC 8785): {error}"
            return decision, why or Refusal(INVALID_PARAMS, "not_canonical", text, ""), None

    def _judge(
        self, here: Surroundings, incoming: Incoming, asked: Asked, now: float
    ) -> tuple[Decision, Refusal | None]:
        """Policy's decision, and why the call is refused, if it is: agents, grants, scope, tool."""
        caller, target, server = incoming.caller, asked.target, asked.server
        if not here.knows_agents_of(caller):
            unknown = refusal.unknown_agent(speakers(caller)[0])
            return Decision(False, "unknown_agent", "-"), unknown
        if (what := here.lost(caller)) is not None:
            return Decision(False, "revoked", "-"), refusal.revoked(what)
        if server is not None and passes_unasked(incoming.message):
            if may_open(here.issuer, caller, server, incoming.message.method):
                return Decision(True, None, "-"), None
            decision = Decision(False, "not_available", BEYOND_THE_TOKEN)
            return decision, why_not(decision, caller, asked)
        if server is None or target is None:
            decision = Decision(False, "not_available", "-")
            return decision, why_not(decision, caller, asked)
        decision = decide(here, caller, server, target.kind, target.name, target.arguments, now)
        if (what := here.revoked.party(decision.account, ())) is not None:
            return Decision(False, "revoked", decision.rule), refusal.revoked(what)
        if not decision.allow:
            return decision, why_not(decision, caller, asked)
        return decision, unfit(asked, server, target, decision.rule)

    def _plan(
        self, here: Surroundings, caller: Caller, asked: Asked, digest: str | None, now: float
    ) -> Plan | None:
        """Fix what will be signed; None where there is no server, or nothing to digest."""
        if asked.server is None or digest is None:
            return None
        return plan_token(
            here.issuer, here.random, caller, asked.server, asked.message, digest, asked.tool, now
        )

    def _open(
        self,
        here: Surroundings,
        incoming: Incoming,
        asked: Asked,
        now: float,
        plan: Plan | None,
        decision: Decision,
        why: Refusal | None,
        held: Credential | None,
    ) -> tuple[Entry, Awaitable[int]]:
        issued = held.facts if held is not None else plan.issued if plan is not None else None
        return here.journal.begin(
            incoming,
            asked.server,
            asked.target.name if asked.target is not None else None,
            now=now,
            txn=plan.txn if plan is not None else incoming.caller.txn,
            tool_digest=asked.tool.digest if asked.tool is not None else None,
            params_digest=plan.params_digest if plan is not None else None,
            issued=issued if why is None else None,
            reason=why.reason if why is not None else None,
            rule=decision.rule,
            policy_version=here.policy.version,
            assurance=None if held is None else held.assurance,
        )

    async def _refused(
        self,
        here: Surroundings,
        incoming: Incoming,
        asked: Asked,
        decision: Decision,
        why: Refusal | None,
    ) -> Answer:
        """The refusal, or the way to mend it where an account must be connected before tools are known."""
        if why is not None and decision.allow and asked.failure is not None:
            try:
                why = await credentials.why_unlisted(
                    here.journal, incoming, asked, why, decision.account
                )
            except Unavailable:
                return unavailable(incoming, here.docs)
        return refuse(here, incoming, why)

    async def _entrust(
        self, here: Surroundings, incoming: Incoming, issued: Issued, entry: Entry
    ) -> Answer | None:
        """Tell the ledger of a token that an agent may exchange; an answer where it must not leave."""
        try:
            await here.remember(issued)
        except Unavailable:
            here.journal.close(entry, "failed", error="the ledger could not be written")
            return unavailable(incoming, here.docs)
        except OAuthError:
            here.journal.close(entry, "refused", error="revoked")
            return refuse(here, incoming, refusal.revoked("the token"))
        except asyncio.CancelledError:
            here.journal.close(entry, "cancelled")
            raise
        return None

    async def _deliver(
        self,
        here: Surroundings,
        incoming: Incoming,
        asked: Asked,
        server: Server,
        using: _Using,
        entry: Entry,
    ) -> Answer:
        """Send, and record how it ended, whatever happens on the way."""
        flight = self._flights.take_off(incoming)
        try:
            reply = await self._transmit(here, incoming, asked, server, using)
            if isinstance(reply, Refusal):
                here.journal.close(entry, "refused", error=reply.reason)
                return refuse(here, incoming, reply)
            if reply.stream is not None:
                answer = pass_stream(here, incoming, server, reply, entry, using.held)
                if answer.stream is not None and flight is not None:
                    answer.stream, flight = self._flights.until_landed(answer.stream, flight), None
                return answer
            return await pass_whole(here, incoming, server, reply, entry, using.held)
        except UpstreamFailed as error:
            here.journal.close(entry, "failed", error=error.reason)
            failed = refusal.upstream_failed(server.name, error.reason)
            return refuse(here, incoming, failed)
        except Unavailable:
            unable = "the log could not be written, or no token signed"
            here.journal.close(entry, "failed", error=unable)
            return unavailable(incoming, here.docs)
        except asyncio.CancelledError:
            here.journal.close(entry, "cancelled")
            raise
        except BaseException:
            here.journal.close(entry, "failed", error="the gateway failed; its output says how")
            raise
        finally:
            if flight is not None:
                self._flights.land(flight)

    async def _transmit(
        self, here: Surroundings, incoming: Incoming, asked: Asked, server: Server, using: _Using
    ) -> Reply | Refusal:
        """Send, once more where the server refused the credential and another is to be had at once."""
        held, owner = using.held, using.owner
        token = await using.token if held is None and using.token is not None else None
        out = self._outbound(incoming, asked, server, token, owner)
        if held is not None:
            out = out._replace(token=held.token, account=held.account)
        renewing = (here.journal, incoming, asked, server)
        try:
            try:
                return await transmit(server, incoming, out)
            except CredentialRefused as error:
                held = await credentials.another(*renewing, held, error, owner)
            using = using._replace(held=held)
            lost = await self._revoked_meanwhile(here, incoming, asked, using)
            if lost is not None:
                return lost
            try:
                return await transmit(server, incoming, out._replace(token=held.token))
            except CredentialRefused as error:
                await credentials.another(*renewing, held, error, owner, again=True)
                raise
        except ConnectRequired as error:
            return await credentials.required(here.journal, incoming, server, error)

    def _outbound(
        self,
        incoming: Incoming,
        asked: Asked,
        server: Server,
        token: bytes | None,
        owner: Subject | None,
    ) -> Outbound:
        session = incoming.session
        return Outbound(
            asked.message,
            incoming.era,
            incoming.version,
            token,
            authorise_for(lambda: self.here, incoming, server, asked.tool, owner),
            incoming.caller,
            asyncio.get_running_loop().time() + server.timeout,
            session is not None and session.relayed,
            session.upstream if session is not None else None,
            asked.tool.headers if asked.tool is not None else {},
        )

    async def relay_opening(self, incoming: Incoming) -> Answer | None:
        """Let the server itself open the session (initialize); None where it could not.

        Never answers one of our codes: clients would take us for a server of another era.
        """
        opening = AgentSession("", incoming.version, relayed=True, upstream=None)
        answer = await self.call(incoming._replace(session=opening))
        return answer if answer.status == 200 and not answer.refused else None

    def cancel(self, session_id: str, request_id: str | int) -> None:
        """Give up a call under way (notifications/cancelled), where this worker has it."""
        self._flights.cancel(session_id, request_id)

    def _may_have_lost(self, here: Surroundings) -> bool:
        """Whether anything is revoked, or was reloaded since a call began with `here`."""
        return self.here is not here or not here.revoked.quiet

    async def _revoked_meanwhile(
        self,
        here: Surroundings,
        incoming: Incoming,
        asked: Asked,
        using: _Using,
    ) -> Refusal | None:
        """A revocation or a reload may have taken the right away while the record was written."""
        lost: Refusal | None = None
        if self.here is not here:
            _, lost, _ = await self._weigh(self.here, incoming, asked, using.now)
        revoked = here.revoked
        if (what := revoked.why(incoming.caller) or revoked.party(using.owner, ())) is not None:
            return refusal.revoked(what)
        if using.held is not None and revoked.has_account(using.held.account):
            return refusal.revoked("the connected account")
        return None if lost is None else refusal.revoked(speakers(incoming.caller)[0])


def check_tokens(revoked: Revoked, caller: Caller) -> None:
    """Refuse a caller whose token was revoked while its request was on the way. Raises InvalidToken."""
    if revoked.tokens_of(caller):
        raise InvalidToken("the token was revoked")


def _sign(
    here: Surroundings, server: Server | None, plan: Plan | None, why: Refusal | None
) -> Awaitable[bytes] | None:
    """Have the planned token signed; None where the call is refused, or goes without one."""
    if why is not None or server is None or plan is None or plan.claims is None:
        return None
    return here.minter.mint(plan.claims, server.typ, server.alg)
