"""`agentgw why EVENT_ID`: what was decided about one request, and what decided it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from agentgw.cli.audit import find_event, log_root, printable, user_of
from agentgw.cli.options import ConfigOption, JsonOption, StateDirOption, load_config
from agentgw.core.record import EXTERNAL
from agentgw.errors import AgentgwError, ConfigError

REASONS = {
    "not_available": "no grant lets this user through these agents use it, or a deny row forbids it; "
    "a name that does not exist gives the same answer",
    "unknown_agent": "the agent is not registered here, or it is disabled",
    "insufficient_scope": "policy would allow it, but the caller's token lacks a scope it demands",
    "approval_required": "a person has to approve it first",
    "revoked": "the subject, agent, grant or server is revoked or quarantined",
    "tool_changed": "the tool's definition differs from its pin, or was never approved",
    "limited": "a quota, rate or stream limit was reached",
}


def why(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID")],
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain a decision: who asked for what, which rule decided, and how it ended."""
    rows = _rows(config)
    records = find_event(event_id, log_root(state_dir, config))
    decision = next((record for record in records if record.get("phase") == "decision"), records[0])
    outcome = next((record for record in records if record.get("phase") == "outcome"), None)
    credential = next((record for record in records if record.get("method") == EXTERNAL), None)
    rule = str(decision.get("rule") or "-")
    texts = {name: rows[name] for name in rule.split("+") if name in rows}
    if as_json:
        found = {"decision": decision, "outcome": outcome, "rules": texts}
        if credential is not None:
            found["credential"] = credential
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    for line in (*_explain(decision, outcome, rule, texts), *_credential(credential or decision)):
        typer.echo(printable(line))


def _rows(config: Path | None) -> dict[str, dict[str, Any]]:
    """The grant rows of the configuration by id; none where there is none."""
    try:
        loaded = load_config(config)
    except (ConfigError, OSError) as error:
        if config is not None:
            raise error if isinstance(error, AgentgwError) else AgentgwError(str(error)) from None
        print(f"note: rules are shown by id only: {error}", file=sys.stderr)
        return {}
    return {row.id: row.model_dump(mode="json", exclude_defaults=True) for row in loaded.grants}


def _credential(record: dict[str, Any]) -> list[str]:
    """What another authorization server gave for the call, or in what its answer differed."""
    issued, detail = record.get("issued") or {}, record.get("detail") or {}
    if "difference" in detail:
        differs = detail["difference"]
        text = f"{differs.get('member')} should be {differs.get('expected')!r}, not {differs.get('got')!r}"
        return [f"answer    refused: {text}"]
    if "authorization_server" not in issued:
        return []
    parts = [f"{name} {issued.get(name)}" for name in ("aud", "scope", "exp")]
    server = issued["authorization_server"]
    return [f"token     of {server}: {', '.join(parts)} ({record.get('chain_assurance')})"]


def _because(decision: dict[str, Any]) -> str:
    """What the reason means, and what failed where the record tells."""
    meaning = REASONS.get(str(decision.get("reason")))
    error = (decision.get("detail") or {}).get("error")
    told = [part for part in (meaning, error) if part]
    return ": ".join(told) or "see the record (agentgw audit show EVENT_ID)"


def _explain(
    decision: dict[str, Any], outcome: dict[str, Any] | None, rule: str, texts: dict[str, Any]
) -> list[str]:
    lines = [
        f"{decision.get('time')}  {decision.get('method')}  "
        f"{decision.get('server') or '-'}/{decision.get('name') or '-'}",
        f"user      {user_of(decision) or '-'}",
    ]
    chain = decision.get("chain") or ()
    lines += [f"agent     {hop.get('id')} ({hop.get('evidence')})" for hop in chain]
    if not chain and decision.get("presenter"):
        lines.append(f"client    {decision['presenter']}")
    verdict = str(decision.get("decision"))
    reason = decision.get("reason")
    lines.append(f"decision  {verdict}" + (f": {reason}" if reason else ""))
    if reason:
        lines.append(f"because   {_because(decision)}")
    if rule != "-" or decision.get("policy_version"):
        no_row = "none: no row matched" if rule == "-" and verdict == "deny" else rule
        lines.append(f"rule      {no_row} (policy {decision.get('policy_version') or '-'})")
    lines += [
        f"          {name} = {json.dumps(row, ensure_ascii=False)}" for name, row in texts.items()
    ]
    if texts:
        lines.append("          as the configuration reads now; it may have changed since")
    if outcome is not None:
        error = f" ({outcome['error']})" if outcome.get("error") else ""
        lines.append(
            f"outcome   {outcome.get('outcome')}{error}, status {outcome.get('status')}, "
            f"{outcome.get('bytes')} bytes, {outcome.get('ms')} ms"
        )
    elif verdict == "allow" and decision.get("server") is not None:
        lines.append("outcome   unknown: none was recorded")
    return lines
