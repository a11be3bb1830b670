"""`agentgw revoke`: what it writes, and what it refuses to write."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentgw.cli import app
from agentgw.core.principal import Inbound
from agentgw.core.revocation import Revoked
from agentgw.errors import AgentgwError
from agentgw.identity import jose
from agentgw.registry.ledger import Ledger
from agentgw.registry.revocations import Revocations
from agentgw.registry.schema import open_database
from tests.identity.forge import ec_key, sign
from tests.registry.test_ledger import ISSUED

from .conftest import Run

CONFIG = """\
version: 1
public_url: https://gw.example.com
issuers:
  acme: {issuer: https://idp.example.com, audiences: [https://gw.example.com/mcp]}
agents:
  coder: {}
"""
IDP, GATEWAY = "https://idp.example.com", "https://gw.example.com"


@pytest.fixture
def where(tmp_path: Path) -> tuple[Any, ...]:
    file = tmp_path / "agentgw.yaml"
    file.write_text(CONFIG)
    file.chmod(0o600)
    return ("--config", file, "--state-dir", tmp_path / "state")


@pytest.fixture
def store(tmp_path: Path) -> Revocations:
    (tmp_path / "state").mkdir(mode=0o700)
    return Revocations(open_database(tmp_path / "state" / "agentgw.db"))


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def invoke(*arguments: Any, stdin: bytes = b"") -> Done:
    """`agentgw revoke ARGUMENTS` in this process, which starts a good deal sooner."""
    done = CliRunner().invoke(app, ["revoke", *map(str, arguments)], input=stdin)
    if isinstance(done.exception, AgentgwError):
        return Done(1, done.stdout, str(done.exception))
    return Done(done.exit_code, done.stdout, done.stderr)


def now_revoked(store: Revocations) -> set[tuple[str, str]]:
    return {(each.kind, each.key) for each in store.since(0) if not each.lifted}


def test_a_user_and_an_agent_until_they_are_lifted(
    store: Revocations, where: tuple[Any, ...]
) -> None:
    for option, name, kind, key in (
        ("--subject", "acme|alice", "subject", "acme|alice"),
        ("--agent", "coder", "agent", f"{GATEWAY}/a2a/coder"),
    ):
        done = json.loads(invoke(option, name, "--json", *where).stdout)
        assert (done["kind"], done["key"], done["until"]) == (kind, key, None)
        assert now_revoked(store) == {(kind, key)}
        listed = json.loads(invoke("--list", "--json", *where).stdout)
        assert listed == [{"kind": kind, "key": key, "until": None}]
        (event,) = store.claim(1e12)
        assert (event.event_id, event.method) == (done["event_id"], "revocation")
        assert event.detail == {"by": "cli", "kind": kind, "key": key, "until": None}
        store.recorded(event.event_id)
        assert "may come in again" in invoke(option, name, "--lift", *where).stdout
        assert now_revoked(store) == set()
        (event,) = store.claim(1e12)
        assert event.method == "revocation/lift"
        store.recorded(event.event_id)
        again = invoke(option, name, "--lift", *where)
        assert again.returncode == 1 and "is not revoked" in again.stderr


def test_until_a_time(store: Revocations, where: tuple[Any, ...]) -> None:
    done = invoke("--agent", "coder", "--until", "2100-01-01T00:00:00Z", *where)
    assert "until 2100-01-01T00:00:00Z" in done.stdout
    assert [each.until for each in store.since(0)] == [4102444800]


def test_a_token_of_ours_by_its_jti_with_its_descendants(
    store: Revocations, where: tuple[Any, ...], tmp_path: Path
) -> None:
    ledger = Ledger(open_database(tmp_path / "state" / "agentgw.db"))
    ledger.record(ISSUED)
    ledger.record(replace(ISSUED, jti="j-2", parent="j-1"))
    done = json.loads(invoke("--jti", "j-1", "--json", *where).stdout)
    assert done["descendants"] == 1
    assert now_revoked(store) == {("token", "j-1"), ("token", "j-2")}
    unknown = invoke("--jti", "j-9", *where)
    assert unknown.returncode == 1 and "--issuer" in unknown.stderr


@pytest.mark.parametrize("jti", ["idp-1", None, "x" * 300])
def test_a_token_on_standard_input_is_the_one_the_gateway_will_see(
    store: Revocations, where: tuple[Any, ...], jti: str | None
) -> None:
    claims = {"iss": IDP, "sub": "alice"} | ({} if jti is None else {"jti": jti})
    token = sign(ec_key("idp"), json.dumps(claims).encode(), {"alg": "ES256"})
    done = invoke("--token-stdin", *where, stdin=token + b"\n")
    assert done.returncode == 0, done.stderr
    assert token.decode() not in done.stdout + done.stderr
    kept = jti if jti is not None and len(jti) < 256 else None
    seen = Inbound(IDP, kept, "sha-256:whatever", jose.split(token).signed_hash)
    known = Revoked(GATEWAY)
    known.apply(store.since(0))
    assert known.has_token(seen)


def test_a_foreign_token_by_its_jti(store: Revocations, where: tuple[Any, ...]) -> None:
    assert invoke("--jti", "idp-1", "--issuer", "acme", *where).returncode == 0
    assert now_revoked(store) == {("token", f"{IDP} idp-1")}


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"iss": "https://elsewhere.example.com"}, "none of the configuration's"),
        (
            {"iss": GATEWAY, "authorization_details": [{"type": "urn:agentgw:mcp-call:1"}]},
            "one call",
        ),
    ],
)
def test_tokens_that_cannot_be_revoked(
    store: Revocations, where: tuple[Any, ...], claims: dict[str, Any], says: str
) -> None:
    token = sign(ec_key("idp"), json.dumps(claims).encode(), {"alg": "ES256"})
    done = invoke("--token-stdin", *where, stdin=token)
    assert done.returncode == 1 and says in done.stderr
    assert invoke("--token-stdin", *where, stdin=b"no token").returncode == 1
    assert store.since(0) == []


MISUSED: tuple[tuple[str, ...], ...] = (
    (),
    ("--agent", "coder", "--subject", "acme|alice"),
    ("--jti", "j", "--lift"),
    ("--jti", "j", "--until", "2100-01-01T00:00:00Z"),
    ("--agent", "coder", "--lift", "--until", "2100-01-01T00:00:00Z"),
    ("--agent", "coder", "--until", "tomorrow"),
    ("--agent", "coder", "--until", "2100-01-01T00:00:00"),
    ("--agent", "coder", "--until", "2001-01-01T00:00:00Z"),
    ("--agent", "coder", "--issuer", "acme"),
)
MISTAKEN: tuple[tuple[str, ...], ...] = (
    ("--agent", "codre"),
    ("--subject", "acm|alice"),
    ("--subject", "alice"),
    ("--jti", "j", "--issuer", "acm"),
)


def test_misuse_and_names_nobody_has_change_nothing(
    store: Revocations, where: tuple[Any, ...]
) -> None:
    for arguments in MISUSED:
        assert invoke(*arguments, *where).returncode == 2, arguments
    for arguments in MISTAKEN:
        assert invoke(*arguments, *where).returncode == 1, arguments
    assert store.since(0) == []


def test_makes_no_state(run: Run, tmp_path: Path, where: tuple[Any, ...]) -> None:
    done = run("revoke", "--agent", "coder", *where)
    assert done.returncode == 1 and "no state" in done.stderr
    assert not (tmp_path / "state").exists()


def test_the_list_leaves_out_what_has_ended(store: Revocations, where: tuple[Any, ...]) -> None:
    store.revoke_party("agent", "a", until=1)
    store.revoke_party("agent", "b")
    assert invoke("--list", *where).stdout == "agent    b  until lifted\n"
