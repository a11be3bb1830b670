"""Credentials of another authorization server, for the tool servers that take those instead of our tokens."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from agentgw.core import refusal
from agentgw.core.external_exchange import Credential
from agentgw.core.principal import Caller, Subject
from agentgw.core.record import EXTERNAL
from agentgw.core.refusal import Refusal
from agentgw.errors import (
    AnswerRefused,
    ConnectRequired,
    CredentialRefused,
    Unavailable,
    UpstreamFailed,
)
from agentgw.gateway.asked import Asked
from agentgw.gateway.incoming import Incoming, Server
from agentgw.gateway.journal import Entry, Journal

LINK = "connect/link"
"""The method of records about links by which a user connects an account."""


def scope_of(asked: Asked, server: Server) -> str | None:
    """The scope that the tool asked for needs, None where it has none of its own."""
    return None if asked.tool is None else server.scopes.get(asked.tool.name)


def known(
    asked: Asked, caller: Caller, why: Refusal | None, owner: Subject | None
) -> Credential | None:
    """The credential at hand for what was allowed; None where there is none, or none is needed."""
    server = asked.server
    if server is None or server.credentials is None or why is not None:
        return None
    return server.credentials.lookup(caller, scope_of(asked, server), owner)


async def another(
    journal: Journal,
    incoming: Incoming,
    asked: Asked,
    server: Server,
    used: Credential | None,
    error: CredentialRefused,
    owner: Subject | None,
    *,
    again: bool = False,
) -> Credential:
    """A credential to try in place of the one that its server refused, with a record before it is used.

    Raises `error` where there is none, ConnectRequired, UpstreamFailed or Unavailable.
    """
    if server.credentials is None:
        raise error
    scope = scope_of(asked, server)
    made = await server.credentials.renew(incoming.caller, scope, used, error, owner, again=again)
    if made is None or again:
        raise error
    await _note(journal, incoming, server, incoming.caller.txn, made)
    return made


async def why_unlisted(
    journal: Journal, incoming: Incoming, asked: Asked, why: Refusal, owner: Subject | None
) -> Refusal:
    """Why a call that policy allows cannot be made while the server's tools are not known: they may be
    shown to those only who connected an account, or it may be that account which the server refuses."""
    server = asked.server
    if server is None or server.credentials is None or asked.failure is None:
        return why
    refused = server.catalogue.refused
    try:
        made = await server.credentials.obtain(incoming.caller, incoming.token, None, owner)
        if refused is not None and _same(made, await server.credentials.own()):
            await server.credentials.renew(incoming.caller, None, made, refused, owner)
    except ConnectRequired as error:
        return await required(journal, incoming, server, error)
    except UpstreamFailed as error:
        return refusal.upstream_failed(server.name, error.reason)
    except Unavailable:
        return why
    server.catalogue.retry()  # it was renewed, or another worker may have connected the account since
    return why


def _same(one: Credential, other: Credential | None) -> bool:
    return other is not None and one.token == other.token


async def required(
    journal: Journal, incoming: Incoming, server: Server, error: ConnectRequired
) -> Refusal:
    """The refusal of a call whose user must connect an account first, its link recorded.

    Raises Unavailable.
    """
    await journal.note(
        LINK,
        incoming.caller,
        event_id=incoming.event_id,
        server=server.name,
        source=incoming.source,
        detail={"scope": " ".join(sorted(error.scopes)), "link": error.link is not None},
        reason="connect_required",
    )
    return refusal.connect_required(server.name, error.reason, error.link)


async def acquire(
    journal: Journal,
    incoming: Incoming,
    asked: Asked,
    server: Server,
    entry: Entry,
    owner: Subject | None,
) -> Credential | Refusal | None:
    """Have a credential made, with a record before it is used. Or say why there is none, its outcome
    recorded: a refusal, or None where the record could not be written or nothing be signed.

    The decision of `entry` is durable before anybody is asked.
    """
    assert server.credentials is not None
    scope = scope_of(asked, server)
    try:
        made = await server.credentials.obtain(incoming.caller, incoming.token, scope, owner)
        await _note(journal, incoming, server, entry.txn, made)
        return made
    except ConnectRequired as error:
        journal.close(entry, "refused", error="connect_required")
        try:
            return await required(journal, incoming, server, error)
        except Unavailable:
            return None
    except UpstreamFailed as error:
        if isinstance(error, AnswerRefused):
            await _note_difference(journal, incoming, server, entry, error)
        journal.close(entry, "failed", error=error.reason)
        return refusal.upstream_failed(server.name, error.reason)
    except Unavailable:
        journal.close(entry, "failed", error="the log could not be written, or no grant signed")
        return None
    except asyncio.CancelledError:
        journal.close(entry, "cancelled")
        raise


async def _note(
    journal: Journal, incoming: Incoming, server: Server, txn: str | None, made: Credential
) -> None:
    """The durable record of a credential that was checked. Raises Unavailable."""
    await journal.note(
        EXTERNAL,
        incoming.caller,
        event_id=incoming.event_id,
        server=server.name,
        source=incoming.source,
        txn=txn,
        issued=made.facts,
        chain_assurance=made.assurance,
    )


async def _note_difference(
    journal: Journal, incoming: Incoming, server: Server, entry: Entry, error: AnswerRefused
) -> None:
    detail: dict[str, Any] = {"difference": error.difference}
    # Where it cannot be written the call is refused all the same.
    with contextlib.suppress(Unavailable):
        await journal.note(
            EXTERNAL,
            incoming.caller,
            event_id=incoming.event_id,
            server=server.name,
            source=incoming.source,
            txn=entry.txn,
            detail=detail,
            reason="answer_refused",
        )
