"""What goes back to the agent: an answer passed on, whole or as it comes, or a refusal of our own."""

from __future__ import annotations

from agentgw.core import refusal
from agentgw.core.external_exchange import Credential
from agentgw.core.record import Assurance
from agentgw.core.refusal import Refusal
from agentgw.gateway import relay
from agentgw.gateway.incoming import EVENT_STREAM, Answer, Incoming, Server
from agentgw.gateway.journal import Entry
from agentgw.gateway.problems import refusal as refused
from agentgw.gateway.problems import unavailable
from agentgw.gateway.surroundings import Surroundings
from agentgw.upstream.link import Reply


async def pass_whole(
    here: Surroundings,
    incoming: Incoming,
    server: Server,
    reply: Reply,
    entry: Entry,
    held: Credential | None,
) -> Answer:
    """A whole answer: checked to be one, recorded, passed on byte for byte."""
    body, assurance = reply.complete, _assurance(server, held)
    if body is None:
        here.journal.close(entry, "ok", status=reply.status)
        return Answer(reply.status, upstream_session=reply.session, assurance=assurance)
    verdict = await relay.check_response(body, incoming.message.id, reply.shown)
    here.journal.close(
        entry,
        "error" if verdict.error else "ok",
        status=reply.status,
        is_error=verdict.is_error,
        result=verdict.digest,
        size=len(body),
    )
    return Answer(reply.status, body, upstream_session=reply.session, assurance=assurance)


def pass_stream(
    here: Surroundings,
    incoming: Incoming,
    server: Server,
    reply: Reply,
    entry: Entry,
    held: Credential | None,
) -> Answer:
    """A stream, as far as the agent may have one more open; its outcome is recorded when it ends."""
    if not here.streams.has_room(incoming.caller):
        reply.abort()
        here.journal.close(entry, "refused", error="too many open streams")
        return refuse(here, incoming, refusal.limited("too many open streams", 1000))

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
        None if held is None else held.account,
    )
    return Answer(
        200,
        content_type=EVENT_STREAM,
        stream=stream,
        upstream_session=reply.session,
        assurance=_assurance(server, held),
    )


def _assurance(server: Server, held: Credential | None) -> Assurance:
    """How much of the chain the server could see: by our token, or by what it was sent instead."""
    return server.assurance if held is None else held.assurance


def refuse(here: Surroundings, incoming: Incoming, why: Refusal | None) -> Answer:
    """A refusal as this agent takes them; without one, that we could not do our duty."""
    if why is None:
        return unavailable(incoming, here.docs)
    chain = incoming.caller.chain
    as_result = bool(chain) and chain[0].agent in here.refusals_as_results
    return refused(incoming, why, here.docs, as_result)
