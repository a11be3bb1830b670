"""`agentgw audit`: read the records, and prove that they are what they were."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from agentgw.cli.options import ConfigOption, JsonOption, StateDirOption, state_dir_of
from agentgw.errors import AgentgwError

VERIFICATION_FAILED = 6
POLL_SECONDS = 0.2

app = typer.Typer(no_args_is_help=True, help="Read the records and prove them.")

User = Annotated[str | None, typer.Option("--user", help="alias|sub, or the bare sub.")]
Agent = Annotated[str | None, typer.Option("--agent", help="An agent of the chain: name or id.")]
Server = Annotated[str | None, typer.Option("--server", help="The tool server.")]
Tool = Annotated[str | None, typer.Option("--tool", help="The tool's name at its server.")]
Decision = Annotated[
    Literal["allow", "deny"] | None, typer.Option("--decision", help="allow or deny.")
]
Since = Annotated[
    str | None, typer.Option("--since", help="An RFC 3339 time in UTC: 2026-12-01T08:00:00Z.")
]
Txn = Annotated[str | None, typer.Option("--txn", help="The transaction.")]


def log_root(state_dir: Path | None, config: Path | None) -> Path:
    """The log folder of the state directory these options mean. Raises AgentgwError where there is none."""
    root = state_dir_of(state_dir, config) / "log"
    if not root.is_dir():
        raise AgentgwError(
            f"{root} does not exist: no gateway wrote records there (--config? --state-dir?)"
        )
    return root


@app.command()
def tail(
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Wait for more.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", help="How many at first.")] = 10,
    user: User = None,
    agent: Agent = None,
    server: Server = None,
    tool: Tool = None,
    decision: Decision = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last records, and with -f the next ones as they are written."""
    from collections import deque

    from agentgw.audit.query import Filter, follow_records, read_records

    root = log_root(state_dir, config)
    wanted = Filter(user=user, agent=agent, server=server, tool=tool, decision=decision)
    if follow:
        for record in follow_records(root, wanted, lambda: time.sleep(POLL_SECONDS), lines):
            _print(record, as_json)
    else:
        for record in deque(read_records(root, wanted), max(0, lines)):
            _print(record, as_json)


@app.command()
def search(
    user: User = None,
    agent: Agent = None,
    server: Server = None,
    tool: Tool = None,
    decision: Decision = None,
    since: Since = None,
    txn: Txn = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show every record that fits, in the order of time."""
    from agentgw.audit.query import Filter, read_records

    start = None if since is None else _utc(since)
    wanted = Filter(user, agent, server, tool, decision, start, None, txn)
    found = False
    for record in read_records(log_root(state_dir, config), wanted):
        found = True
        _print(record, as_json)
    if not found:
        print("note: no record fits", file=sys.stderr)


@app.command()
def show(
    event_id: Annotated[str, typer.Argument(metavar="EVENT_ID")],
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the records of one event, whole."""
    for record in find_event(event_id, log_root(state_dir, config)):
        whole = json.dumps(record, ensure_ascii=False, indent=2)
        typer.echo(_line(record) if as_json else printable(whole))


@app.command()
def verify(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The log folder, or one log in it.")
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="VKEY",
            help="The log's public key, or its file (repeatable).",
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="A checkpoint you kept elsewhere."),
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check every record, leaf, checkpoint and signature; exit 6 where one does not hold."""
    from agentgw.audit.verify import verify as verify_log
    from agentgw.core.checkpoint import NoteInvalid, parse_vkey

    try:
        keys = [parse_vkey(_text_or_file(text)) for text in key or ()]
    except NoteInvalid as error:
        raise typer.BadParameter(str(error), param_hint="--key") from None
    try:
        held = checkpoint.read_bytes().decode("utf-8", "replace") if checkpoint else None
        result = verify_log(directory or log_root(state_dir, config), keys, held)
    except OSError as error:
        raise AgentgwError(f"{error.filename} cannot be read: {error.strerror}") from None
    for note in result.notes:
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        typer.echo(json.dumps(result.to_json(), ensure_ascii=False))
    elif bad := result.first_bad:
        typer.echo(f"FAILED: log {bad.log}, record {bad.seq} ({bad.id or 'no id'}): {bad.reason}")
    else:
        typer.echo(
            f"ok: {result.records} records, {result.checkpoints} checkpoints, "
            f"{result.covered_to} covered, assurance {result.assurance}, "
            f"{result.unknown} calls without an outcome"
        )
    if not result.ok:
        raise typer.Exit(VERIFICATION_FAILED)


def find_event(event_id: str, root: Path) -> list[dict[str, Any]]:
    """The records of one event under the log folder `root`. Raises AgentgwError where there are none."""
    from agentgw.audit.query import Filter, read_records

    records = list(read_records(root, Filter(event_id=event_id)))
    if not records:
        raise AgentgwError(f"no record of event {event_id} under {root}")
    return records


def _print(record: dict[str, Any], as_json: bool) -> None:
    print(_line(record) if as_json else _summary(record), flush=True)


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def _summary(record: dict[str, Any]) -> str:
    """One line for people: time, event, who, what, how it went."""
    user = user_of(record)
    agents = [str(hop.get("id", "?")).rpartition("/")[2] for hop in record.get("chain") or ()]
    who = "" if user is None else " < ".join([*agents, user])
    what = "/".join(str(part) for part in (record.get("server"), record.get("name")) if part)
    how = record.get("decision") or record.get("outcome") or record.get("reason") or ""
    why = f"({record['reason']})" if record.get("decision") and record.get("reason") else ""
    ms = f"{record['ms']} ms" if "ms" in record else ""
    parts = (
        record.get("time"), record.get("event_id"), record.get("phase"), how, why, ms,
        record.get("method"), what, who,
    )  # fmt: skip
    return printable("  ".join(str(part) for part in parts if part))


def user_of(record: dict[str, Any]) -> str | None:
    """For whom it was: `alias|sub`, or that an agent acts for itself; None where nobody is named."""
    subject = record.get("subject") or {}
    iss, sub = str(subject.get("iss")), str(subject.get("sub"))
    if sub.startswith(f"{iss}/a2a/"):
        return f"nobody ({sub.rpartition('/')[2]} acts for itself)"
    return f"{iss}|{sub}" if subject else None


def printable(text: str) -> str:
    """`text` in which nothing others chose can move the cursor or colour the screen."""
    return "".join(
        char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text
    )


def _utc(text: str) -> str:
    """A time as records write theirs, so that the two compare as text; without a zone it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            "a time reads 2026-12-01T08:00:00Z", param_hint="--since"
        ) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _text_or_file(text: str) -> str:
    path = Path(text)
    return path.read_text("utf-8", "replace").strip() if path.is_file() else text
