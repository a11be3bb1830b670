"""Two records per request that acts: the decision, durable before anything leaves, and the outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol, Unpack

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from agentgw.audit import AuditLog
from agentgw.core.principal import Caller, Subject
from agentgw.core.record import (
    About,
    Assurance,
    commit,
    decision_record,
    outcome_record,
)
from agentgw.core.recorder import Recorder
from agentgw.gateway.incoming import Incoming, Server

KEYED = 10_000
"""Subjects whose keyed state is kept: setting a key up costs as much as the commit itself."""

KEYED_LIFE = 30.0
"""Seconds it is kept: the key of a subject whom another process forgot must die here too."""


class People(Protocol):
    """The key per subject under which commits are made."""

    def key(self, iss: str, sub: str) -> bytes:
        """The subject's key, made on first sight; 32 bytes."""
        ...


class Entry(NamedTuple):
    """An open decision, waiting for its outcome. `started` is Unix seconds."""

    event_id: str
    txn: str | None
    server: str
    method: str
    name: str | None
    subject: Subject
    started: float


class Journal:
    """Writes the records of the story. `clock` gives Unix seconds, `random` so many random bytes."""

    def __init__(
        self,
        audit: AuditLog,
        people: People,
        clock: Callable[[], float],
        random: Callable[[int], bytes],
    ) -> None:
        self.recorder = Recorder(audit.append, clock, random)
        self.new_id = self.recorder.new_id
        self._audit = audit
        self._people = people
        self._clock = clock
        self._keyed: dict[tuple[str, str], Callable[[str], str]] = {}
        self._keyed_since = 0.0

    def begin(
        self,
        incoming: Incoming,
        server: Server | None,
        name: str | None,
        *,
        now: float,
        txn: str | None,
        policy_version: str,
        tool_digest: str | None = None,
        params_digest: str | None = None,
        issued: Mapping[str, Any] | None = None,
        reason: str | None = None,
        rule: str = "-",
        assurance: Assurance | None = None,
    ) -> tuple[Entry, Awaitable[int]]:
        """Send the decision to the log; it is durable once what comes with it has been awaited.

        `assurance` is that of this very call, where it is another than the server's. Raises Unavailable,
        now or when awaited: then nothing may happen.
        """
        caller = incoming.caller
        method = incoming.message.method or "response"
        entry = Entry(
            incoming.event_id,
            txn,
            server.name if server is not None else "",
            method,
            name,
            caller.subject,
            now,
        )
        committed = (
            None if params_digest is None else self._commit(caller.subject, params_digest, now)
        )
        durable = self._audit.enqueue(
            decision_record(
                id=self.new_id(now),
                event_id=incoming.event_id,
                now=now,
                txn=txn,
                trace=incoming.trace,
                caller=caller,
                client=incoming.client,
                source=incoming.source,
                server=server.name if server is not None else incoming.server,
                method=method,
                name=name,
                tool_digest=tool_digest,
                params_commit=committed,
                issued=issued,
                decision="allow" if reason is None else "deny",
                reason=reason,
                rule=rule,
                policy_version=policy_version,
                era=incoming.version,
                chain_assurance=assurance or (server.assurance if server is not None else None),
            )
        )
        return entry, durable

    def close(
        self,
        entry: Entry,
        outcome: str,
        *,
        status: int | None = None,
        is_error: bool | None = None,
        result: str | None = None,
        size: int = 0,
        error: str | None = None,
        progress: int = 0,
    ) -> None:
        """Queue the outcome; gates nothing and survives cancellation, being no coroutine.

        `result` is the digest of the response's bytes.
        """
        now = self._clock()
        self._audit.append_soon(
            outcome_record(
                id=self.new_id(now),
                event_id=entry.event_id,
                now=now,
                txn=entry.txn,
                server=entry.server,
                method=entry.method,
                name=entry.name,
                outcome=outcome,
                status=status,
                is_error=is_error,
                result_commit=None if result is None else self._commit(entry.subject, result, now),
                bytes=size,
                ms=(now - entry.started) * 1000,
                error=error,
                progress=progress,
            )
        )

    async def own_request(
        self, server: Server, method: str, issued: Mapping[str, Any] | None, gateway: Subject
    ) -> None:
        """Record a request we make on our own account (a catalogue's refresh); durable on return.

        Its outcome is only that it was sent: what came of it shows in what the server then offers.
        """
        now = self._clock()
        identity = self.new_id(now)
        await self.recorder.record(
            method,
            event_id=identity,
            subject=gateway,
            server=server.name,
            issued=issued,
            chain_assurance=server.assurance,
        )
        self.close(Entry(identity, None, server.name, method, None, gateway, now), "sent")

    async def note(
        self,
        method: str,
        caller: Caller,
        *,
        event_id: str,
        reason: str | None = None,
        **about: Unpack[About],
    ) -> None:
        """Record what concerns a caller and acts on no server (a credential, a refusal at the door).

        Durable on return. `event_id` is the one its answer names. Raises Unavailable.
        """
        about["subject"], about["chain"] = caller.subject, caller.chain
        about["inbound"] = caller.inbound
        await self.recorder.record(method, event_id=event_id, reason=reason, **about)

    def _commit(self, subject: Subject, digest_string: str, now: float) -> str:
        age = now - self._keyed_since
        if not 0 <= age < KEYED_LIFE or len(self._keyed) >= KEYED:
            self._keyed.clear()
            self._keyed_since += age
        who = (subject.iss, subject.sub)
        keyed = self._keyed.get(who)
        if keyed is None:
            keyed = self._keyed[who] = committer(self._people.key(*who))
        return keyed(digest_string)


def committer(key: bytes) -> Callable[[str], str]:
    """What makes commits to digests under `key`, set up once: that costs as much as the commit itself."""
    state = HMAC(key, SHA256())

    def committed(digest_string: str) -> str:
        running = state.copy()
        running.update(digest_string.encode("ascii"))
        return commit(running.finalize())

    return committed
