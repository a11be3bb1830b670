"""The gateway's keys, as an operator sees and changes them."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path

import pytest

from agentgw.core.canonical import b64url
from agentgw.registry.revocations import Revocations
from agentgw.registry.schema import open_database
from agentgw.sts.keys import KeyRing
from agentgw.sts.wrapping import Wrapping, wrapping_key

from .conftest import Run

Where = tuple[str | Path, ...]


@pytest.fixture
def where(tmp_path: Path) -> Where:
    """The options that name a configuration and an empty state directory."""
    config = tmp_path / "agentgw.yaml"
    config.write_text("version: 1\npublic_url: https://gw.example.com\n")
    config.chmod(0o600)
    return "--config", config, "--state-dir", tmp_path / "state"


def two_minutes_ago() -> float:
    return time.time() - 120


def test_keys_are_listed_and_rotated_but_never_made_by_looking(
    run: Run, where: Where, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    none = run("keys", "list", *where)
    assert none.returncode == 1 and "holds no keys yet" in none.stderr and not state.exists()
    first = KeyRing(state, clock=two_minutes_ago).current.kid
    rows = json.loads(run("keys", "list", "--json", *where).stdout)
    assert [row["state"] for row in rows[:2]] == ["current", "next"]
    assert rows[0]["kid"] == first and rows[0]["created"].endswith("Z")
    rotated = run("keys", "rotate", *where).stdout.strip()
    assert rotated == rows[1]["kid"] == KeyRing(state).current.kid
    early = run("keys", "rotate", *where)
    assert early.returncode == 1 and "rotate again in " in early.stderr
    listed = run("keys", "list", *where).stdout.splitlines()
    assert [line.split()[3] for line in listed[:3]] == ["current", "next", "retired"]
    assert "PRIVATE" not in "".join(listed)


def test_an_algorithm_gets_its_first_keys_before_a_server_asks_for_it(
    run: Run, where: Where, tmp_path: Path
) -> None:
    KeyRing(tmp_path / "state")
    made = json.loads(run("keys", "rotate", "--alg", "EdDSA", "--json", *where).stdout)
    assert (made["alg"], made["state"]) == ("EdDSA", "current")
    rows = json.loads(run("keys", "list", "--json", *where).stdout)
    assert [row["alg"] for row in rows if row["purpose"] == "tokens"] == [
        "ES256",
        "ES256",
        "EdDSA",
        "EdDSA",
    ]
    assert run("keys", "rotate", "--alg", "HS256", *where).returncode == 2


def test_every_key_is_listed_with_its_purpose_and_no_secret(
    run: Run, where: Where, tmp_path: Path
) -> None:
    ring = KeyRing(tmp_path / "state")
    cookies = ring.secret("cookies")
    done = run("keys", "list", "--json", *where)
    rows = json.loads(done.stdout)
    assert [(row["purpose"], row["alg"], row["state"]) for row in rows] == [
        ("tokens", "ES256", "current"),
        ("tokens", "ES256", "next"),
        ("checkpoints", "EdDSA", "current"),
        ("sessions", "A256GCM", "current"),
        ("cookies", "A256GCM", "current"),
    ]
    assert all(row["kid"] and row["created"] and row["sealed_under"] is None for row in rows)
    assert len({row["kid"] for row in rows}) == 5
    stored = "".join(file.read_text() for file in (tmp_path / "state" / "keys").glob("*.json"))
    for secret in (b64url(cookies), b64url(ring.session_key())):
        assert secret in stored and secret[:8] not in done.stdout
    assert {file.name for file in (tmp_path / "state" / "keys").glob("*.json")} == {
        "tokens.json", "checkpoints.json", "sessions.json", "cookies.json",
    }  # fmt: skip


def write(where: Where, keys: object) -> None:
    config = Path(where[1])
    config.write_text(
        json.dumps({"version": 1, "public_url": "https://gw.example.com", "keys": keys})
    )


def sealed_under(run: Run, where: Where, **env: str) -> set[str | None]:
    return {
        row["sealed_under"]
        for row in json.loads(run("keys", "list", "--json", *where, **env).stdout)
    }


def test_files_are_wrapped_and_rewrapped_by_command(run: Run, where: Where, tmp_path: Path) -> None:
    kid = KeyRing(tmp_path / "state").current.kid
    none = run("keys", "wrap", *where)
    assert none.returncode == 1 and "say in keys.wrap" in none.stderr
    old = tmp_path / "old.key"
    old.touch(mode=0o600)
    old.write_text(secrets.token_hex(32))
    write(where, {"wrap": {"file": "old.key"}})
    assert sealed_under(run, where) == {None}, "looking seals nothing"
    assert run("keys", "wrap", *where).stdout == "sealed: tokens, checkpoints, sessions\n"
    (first,) = sealed_under(run, where)
    env = {"NEW_KEY": secrets.token_hex(32)}
    write(where, {"wrap": {"env": "NEW_KEY", "previous": {"file": "old.key"}}})
    done = run("keys", "rewrap", "--json", *where, **env)
    assert json.loads(done.stdout) == {"sealed": ["tokens", "checkpoints", "sessions"]}
    (second,) = sealed_under(run, where, **env)
    assert first and second and first != second
    write(where, {"wrap": {"env": "NEW_KEY"}})
    assert json.loads(run("keys", "list", "--json", *where, **env).stdout)[0]["kid"] == kid


@pytest.mark.parametrize(
    ("command", "wrap", "says"),
    [
        (("keys", "list"), None, "say in keys.wrap where that is"),
        (("keys", "rotate"), None, "say in keys.wrap where that is"),
        (("serve",), None, "say in keys.wrap where that is"),
        (("serve",), {"env": "WRONG_KEY"}, "give that one, as keys.wrap or as its previous"),
        (("keys", "rewrap"), {"env": "MISSING_KEY"}, "set the environment variable MISSING_KEY"),
        (("keys", "wrap"), {"file": "nowhere.key"}, "cannot be read"),
    ],
)
def test_without_the_right_wrapping_key_nothing_is_done(
    run: Run, where: Where, tmp_path: Path, command: tuple[str, ...], wrap: object, says: str
) -> None:
    key = wrapping_key(secrets.token_hex(32), "a test")
    KeyRing(tmp_path / "state", wrapping=Wrapping(key))
    before = [file.read_bytes() for file in sorted((tmp_path / "state" / "keys").iterdir())]
    write(where, {"wrap": wrap})
    done = run(*command, *where, WRONG_KEY=secrets.token_hex(32))
    assert (done.returncode, done.stdout) == (3, "") and says in done.stderr
    assert "agentgw.yaml" in done.stderr and "Traceback" not in done.stderr
    after = [file.read_bytes() for file in sorted((tmp_path / "state" / "keys").iterdir())]
    assert after == before


def test_a_replaced_checkpoint_key_is_listed_and_never_its_secret(
    run: Run, where: Where, tmp_path: Path
) -> None:
    private, _ = KeyRing(tmp_path / "state").checkpoint_key()
    done = run("keys", "rotate", "--purpose", "checkpoints", "--json", *where)
    vkey = json.loads(done.stdout)["vkey"]
    rows = json.loads(run("keys", "list", "--json", *where).stdout)
    held = [(row["state"], row["kid"]) for row in rows if row["purpose"] == "checkpoints"]
    assert [state for state, _ in held] == ["current", "retired"]
    assert vkey.startswith(held[0][1]) and held[0][1] != held[1][1]
    stored = (tmp_path / "state" / "keys" / "checkpoints.json").read_text()
    assert b64url(private.private_bytes_raw()) not in stored
    wrong = run("keys", "rotate", "--purpose", "checkpoints", "--alg", "ES256", *where)
    assert wrong.returncode == 2 and "one algorithm" in wrong.stderr


def test_the_dpop_key_is_rotated_and_listed_by_the_thumbprint_tokens_name(
    run: Run, where: Where, tmp_path: Path
) -> None:
    before = KeyRing(tmp_path / "state").possession_key().kid
    done = run("keys", "rotate", "--purpose", "dpop", "--json", *where)
    rotated = json.loads(done.stdout)
    rows = json.loads(run("keys", "list", "--json", *where).stdout)
    (row,) = [row for row in rows if row["purpose"] == "dpop"]
    assert row["alg"] == rotated["alg"] == "ES256"
    assert row["kid"] == rotated["kid"] == KeyRing(tmp_path / "state").possession_key().kid
    assert row["kid"] != before
    assert run("keys", "rotate", "--purpose", "dpop", "--alg", "EdDSA", *where).returncode == 2


def test_a_new_vault_key_seals_and_the_old_one_stays_to_open(
    run: Run, where: Where, tmp_path: Path
) -> None:
    ring = KeyRing(tmp_path / "state")
    old = ring.secret("vault")
    kid = run("keys", "rotate", "--purpose", "vault", *where).stdout.strip()
    again = KeyRing(tmp_path / "state").secrets("vault")
    assert again[1:] == (old,) and again[0] != old
    listed = json.loads(run("keys", "list", "--json", *where).stdout)
    vault = [(row["kid"], row["state"]) for row in listed if row["purpose"] == "vault"]
    assert vault[0] == (kid, "current") and vault[1][1] == "retired"


@pytest.mark.parametrize(
    ("purpose", "alg"),
    [("tokens", "ES256"), ("checkpoints", "EdDSA"), ("dpop", "ES256"), ("vault", "A256GCM")],
)
def test_a_rotation_is_left_for_the_gateway_to_record(
    run: Run, where: Where, tmp_path: Path, purpose: str, alg: str
) -> None:
    KeyRing(tmp_path / "state", clock=two_minutes_ago)
    kid = run("keys", "rotate", "--purpose", purpose, *where).stdout.strip()
    store = Revocations(open_database(tmp_path / "state" / "agentgw.db"))
    (event,) = store.claim(time.time())
    assert event.method == "keys/rotate"
    assert event.detail == {"by": "cli", "purpose": purpose, "alg": alg, "kid": kid}


def test_what_was_not_rotated_is_not_recorded(run: Run, where: Where, tmp_path: Path) -> None:
    KeyRing(tmp_path / "state")
    assert run("keys", "rotate", *where).returncode == 1
    assert Revocations(open_database(tmp_path / "state" / "agentgw.db")).claim(time.time()) == []


def test_nothing_is_rotated_that_could_not_be_recorded(
    run: Run, where: Where, tmp_path: Path
) -> None:
    kid = KeyRing(tmp_path / "state", clock=two_minutes_ago).current.kid
    (tmp_path / "state" / "agentgw.db").write_bytes(b"no database at all, but as long as one" * 99)
    refused = run("keys", "rotate", *where)
    assert refused.returncode == 1 and "cannot be used" in refused.stderr
    assert KeyRing(tmp_path / "state").current.kid == kid
