"""The records of the audit log as plain dicts, fields in the order they are written.

`v`, `log` and `seq` are put in front by the log itself. Ids, times and keys are arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal, TypedDict, Unpack

from agentgw.core.canonical import b64url
from agentgw.core.principal import Caller, Hop, Inbound, Subject

VERSION = 1

EXTERNAL = "sts/external"
"""The method of records about credentials that another server gave, or gave wrongly."""

Assurance = Literal["token", "grant", "audit-only"]
Verdict = Literal["allow", "deny"]


def uuid7(ms: int, random_bytes: bytes) -> str:
    """A UUID version 7 (RFC 9562 section 5.7) from Unix milliseconds and 10 random bytes."""
    tail = random_bytes.hex()
    variant = "89ab"[random_bytes[9] & 3]
    return f"{_stamp(ms)}{tail[:3]}-{variant}{tail[3:6]}-{tail[6:18]}"


@lru_cache(maxsize=8)
def _stamp(ms: int) -> str:
    stamp = f"{ms:012x}"
    return f"{stamp[:8]}-{stamp[8:]}-7"


def rfc3339_ms(now: float) -> str:
    """RFC 3339 in UTC with milliseconds, from Unix seconds: `2026-11-23T05:46:45.120Z`."""
    return _millisecond(round(now * 1000))


@lru_cache(maxsize=8)
def _millisecond(time: int) -> str:
    second, ms = divmod(time, 1000)
    return f"{_second(second)}.{ms:03d}Z"


@lru_cache(maxsize=8)
def _second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def commit(mac: bytes) -> str:
    """`hmac-sha-256:` + base64url of the HMAC-SHA-256 under the subject's key over a digest's ASCII text.

    Deleting the key erases what could be guessed from the commit; every proof stays valid.
    """
    return "hmac-sha-256:" + b64url(mac)


def decision_record(
    *,
    id: str, event_id: str, now: float, txn: str | None, trace: str | None,
    caller: Caller, client: str | None, source: str | None,
    server: str | None, method: str, name: str | None,
    tool_digest: str | None, params_commit: str | None, issued: Mapping[str, Any] | None,
    decision: Verdict, reason: str | None, rule: str, policy_version: str,
    era: str | None, chain_assurance: Assurance | None, approval: str | None = None,
) -> dict[str, object]:  # fmt: skip
    """What was decided about one authenticated request, written before anything is sent.

    `now` is Unix seconds, `issued` is `{jti, aud, scope, exp}` or None, `client` is the caller's own
    untrusted word. `chain_assurance` says how much of the chain the server is shown, None where the request
    is for none. A `notes` field follows only where the caller has notes.
    """
    # Spelt out, not shared with event_record: this one is on the path of every call.
    subject = caller.subject
    inbound = caller.inbound
    record: dict[str, object] = {
        "id": id,
        "event_id": event_id,
        "phase": "decision",
        "time": rfc3339_ms(now),
        "txn": txn,
        "trace": trace,
        "subject": {"iss": subject.iss, "sub": subject.sub},
        "chain": [{"id": hop.id, "evidence": hop.evidence} for hop in caller.chain],
        "presenter": caller.presenter,
        "client": client,
        "source": source,
        "server": server,
        "method": method,
        "name": name,
        "tool_digest": tool_digest,
        "params_commit": params_commit,
        "inbound": {"iss": inbound.iss, "jti": inbound.jti, "hash": inbound.hash},
        "issued": issued,
        "decision": decision,
        "reason": reason,
        "rule": rule,
        "policy_version": policy_version,
        "approval": approval,
        "era": era,
        "chain_assurance": chain_assurance,
    }
    if caller.notes:
        record["notes"] = list(caller.notes)
    return record


class About(TypedDict, total=False):
    """What a record of this kind may say besides; what is not given is written as null.

    `detail` holds what only one kind of event has, and never a token or secret. `chain_assurance` is given
    for a request or a credential of ours for a server.
    """

    txn: str | None
    subject: Subject | None
    chain: tuple[Hop, ...]
    presenter: str | None
    client: str | None
    source: str | None
    server: str | None
    name: str | None
    inbound: Inbound | None
    issued: Mapping[str, Any] | None
    chain_assurance: Assurance | None
    detail: Mapping[str, Any] | None


def event_record(
    *,
    id: str,
    event_id: str,
    now: float,
    method: str,
    reason: str | None = None,
    **about: Unpack[About],
) -> dict[str, object]:
    """A decision that sends nothing upstream: `oauth/token`, an admin change, a session, a stream.

    `method` names it. It was allowed unless there is a `reason`.
    """
    subject, inbound = about.get("subject"), about.get("inbound")
    record: dict[str, object] = {
        "id": id,
        "event_id": event_id,
        "phase": "decision",
        "time": rfc3339_ms(now),
        "txn": about.get("txn"),
        "trace": None,
        "subject": {"iss": subject.iss, "sub": subject.sub} if subject else None,
        "chain": [{"id": hop.id, "evidence": hop.evidence} for hop in about.get("chain", ())],
        "presenter": about.get("presenter"),
        "client": about.get("client"),
        "source": about.get("source"),
        "server": about.get("server"),
        "method": method,
        "name": about.get("name"),
        "tool_digest": None,
        "params_commit": None,
        "inbound": (
            {"iss": inbound.iss, "jti": inbound.jti, "hash": inbound.hash} if inbound else None
        ),
        "issued": about.get("issued"),
        "decision": "allow" if reason is None else "deny",
        "reason": reason,
        "rule": "-",
        "policy_version": None,
        "approval": None,
        "era": None,
        "chain_assurance": about.get("chain_assurance"),
    }
    if detail := about.get("detail"):
        record["detail"] = dict(detail)
    return record


def outcome_record(
    *,
    id: str,
    event_id: str,
    now: float,
    txn: str | None,
    server: str | None,
    method: str,
    name: str | None,
    outcome: str,
    status: int | None,
    is_error: bool | None,
    result_commit: str | None,
    bytes: int,
    ms: float,
    error: str | None = None,
    progress: int = 0,
) -> dict[str, object]:
    """How an allowed request ended: `bytes` of the answer, `ms` it took, `error` in safe words.

    `result_commit` is over the digest of the final response message. `progress` counts the progress
    notifications relayed, written only where there were any.
    """
    record: dict[str, object] = {
        "id": id,
        "event_id": event_id,
        "phase": "outcome",
        "time": rfc3339_ms(now),
        "txn": txn,
        "server": server,
        "method": method,
        "name": name,
        "outcome": outcome,
        "status": status,
        "is_error": is_error,
        "result_commit": result_commit,
        "bytes": bytes,
        "ms": round(ms, 3),
        "error": error,
    }
    if progress:
        record["progress"] = progress
    return record


def log_event(
    *, id: str, now: float, method: str, name: str | None, reason: str, **facts: object
) -> dict[str, object]:
    """What the log says about itself (phase `event`): a torn line moved aside, records it lost."""
    return {
        "id": id,
        "event_id": id,
        "phase": "event",
        "time": rfc3339_ms(now),
        "method": method,
        "name": name,
        "reason": reason,
        **facts,
    }
