"""`agentgw token`: the real command line, beside a running gateway."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from agentgw import cli
from agentgw.core.call_token import call_claims
from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter
from tests.harness import ROOT, Gateway, Issuer, allow_all, base_config, free_port, gateway
from tests.identity.forge import PrivateKey, ec_key, ed_key, jwk

Done = subprocess.CompletedProcess[str]
UPSTREAM = "https://tickets.example.com/mcp"
SECRET = {"PLANNER_SECRET": "planner-secret-for-tests"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    found = Issuer().start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Gateway]:
    coder = {"auth": {"jwks": {"keys": [jwk(ec_key("cli"), "c1"), jwk(ed_key(), "c2")]}}}
    planner = base_config(issuer, "http://127.0.0.1:1", Path("."))["agents"]["planner"]
    changes = {
        "agents": {"planner": planner, "coder": coder},
        "servers": {"tickets": {"url": UPSTREAM}},
        "grants": allow_all("tickets"),
    }
    with gateway(tmp_path_factory.mktemp("gw"), issuer, changes) as found:
        yield found


def in_a_process(*args: object, stdin: str = "", **env: str) -> Done:
    """Run `agentgw token ARGS` with `stdin`, as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "agentgw", "token", *map(str, args)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "NO_COLOR": "1", **env},
        check=False,
    )


def token(*args: object, stdin: str = "", **env: str) -> Done:
    """Run the same command line in this process, which takes a tenth of the time."""
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["agentgw", "token", *map(str, args)])
        patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        for name, value in {"HOME": "/nonexistent", "NO_COLOR": "1", **env}.items():
            patched.setenv(name, value)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as left:
                code = left.code
    assert isinstance(code, int)
    return Done(list(map(str, args)), code, out.getvalue(), err.getvalue())


def inspected(running: Gateway, text: str, *args: str) -> tuple[Done, dict[str, Any]]:
    done = token("inspect", "--json", "--config", running.file, *args, stdin=text)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return done, found


def checks(found: dict[str, Any]) -> dict[str, bool | None]:
    return {check["check"]: check["ok"] for check in found["checks"]}


def why(found: dict[str, Any], check: str) -> str:
    return next(str(item["detail"]) for item in found["checks"] if item["check"] == check)


def exchanged(running: Gateway, subject: str, target: str, *args: object, **env: str) -> Done:
    return token(
        "exchange", "--as", "planner", "--secret-env", "PLANNER_SECRET", "--target", target,
        "--config", running.file, *args, stdin=subject, **{**SECRET, **env},
    )  # fmt: skip


def test_a_good_foreign_token_passes_every_check(running: Gateway) -> None:
    done, found = inspected(running, running.token())
    assert done.returncode == 0 and done.stderr == ""
    assert (found["kind"], found["issuer"], found["subject"]) == (
        "foreign", "laptop", "laptop|alice",
    )  # fmt: skip
    assert set(checks(found).values()) == {True}
    assert found["chain"] == [
        {"id": f"{running.url}/a2a/planner", "agent": "planner", "evidence": "client-auth"}
    ]
    assert found["header"]["kid"] == "k1" and found["claims"]["sub"] == "alice"
    assert f"{running.url}/mcp" in found["use"]


def test_the_pipe_works_between_processes(running: Gateway) -> None:
    made = in_a_process(
        "exchange", "--as", "planner", "--secret-env", "PLANNER_SECRET", "--target", "mcp",
        "--config", running.file, stdin=running.token(), **SECRET,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    shown = in_a_process("inspect", "--config", running.file, stdin=made.stdout)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "signature: holds" in shown.stdout


def test_a_chain_is_shown_as_a_tree_from_the_user_to_who_acts(running: Gateway) -> None:
    handed = exchanged(running, running.token(), "coder").stdout.strip()
    done = token("inspect", "--config", running.file, stdin=f"Bearer {handed}\n")
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    at = lines.index("chain")
    assert lines[at + 1 : at + 3] == [
        "  laptop|alice",
        f"  └─ planner  {running.url}/a2a/planner  (client-auth)  acts now",
    ]
    assert lines[-1] == f"good for: to be exchanged by {running.url}/a2a/coder; refused at /mcp"
    assert handed.split(".")[2] not in done.stdout, "the signature would make it usable"


def test_everything_wrong_is_told_at_once(running: Gateway) -> None:
    bent = running.token(aud="https://elsewhere.example.com", exp=int(time.time()) - 10, nonce="n")
    done, found = inspected(running, bent)
    assert done.returncode == 4
    failed = {name for name, ok in checks(found).items() if ok is False}
    assert failed == {"lifetime", "audience", "kind"}
    assert why(found, "lifetime") == "the token has expired"
    assert found["use"] == "refused everywhere here"


@pytest.mark.parametrize(
    ("claims", "check"),
    [
        ({"azp": "stranger"}, "agents"),
        ({"azp": None}, "actors"),
        ({"act": {"sub": "x"}, "azp": "stranger"}, "actors"),
        ({"may_act": {"sub": "somebody"}}, "may_act"),
        ({"sub": ""}, "subject"),
        ({"iss": "https://elsewhere.example.com"}, "issuer"),
        ({"scope": 7}, "scope"),
    ],
)
def test_the_check_that_failed_is_named(
    running: Gateway, claims: dict[str, Any], check: str
) -> None:
    done, found = inspected(running, running.token(**claims))
    assert done.returncode == 4 and checks(found)[check] is False


def test_a_forged_signature_and_an_unknown_key_are_told_apart(running: Gateway) -> None:
    head, claims, signature = running.token().split(".")
    _, found = inspected(running, f"{head}.{claims}.{signature[:-4]}AAAA")
    assert checks(found)["key"] is True and checks(found)["signature"] is False
    stranger = Issuer(free_port())
    stranger.url = running.issuer.url
    _, found = inspected(running, stranger.token(f"{running.url}/mcp"))
    assert checks(found)["signature"] is False


def test_tokens_of_our_own_are_found_in_the_ledger(running: Gateway) -> None:
    got = exchanged(running, running.token(), "tickets", "--scope", "tickets.read").stdout.strip()
    done, found = inspected(running, got)
    assert done.returncode == 0 and found["kind"] == "gateway" and found["chain_proven"]
    assert checks(found)["ledger"] is True
    made_up = {**found["claims"], "jti": "made-up"}
    ring = KeyRing(running.state)
    forged = Minter(ring, running.url).sign(made_up).decode()
    done, found = inspected(running, forged)
    assert done.returncode == 4 and checks(found)["ledger"] is False
    assert checks(found)["signature"] is True


def test_elsewhere_our_keys_are_fetched_and_the_ledger_is_said_to_be_unknown(
    running: Gateway, tmp_path: Path
) -> None:
    got = exchanged(running, running.token(), "mcp").stdout.strip()
    done, found = inspected(running, got, "--state-dir", str(tmp_path / "nothing"))
    assert done.returncode == 0
    assert checks(found)["signature"] is True and checks(found)["ledger"] is None
    assert not (tmp_path / "nothing").exists(), "looking makes no state"


def per_call(running: Gateway, audience: str) -> str:
    caller = Caller(
        Subject("laptop", "alice", "laptop|alice"),
        (Hop(f"{running.url}/a2a/planner", "planner", "client-auth"),),
        frozenset(),
        frozenset(),
        int(time.time()) + 60,
        Inbound("x", None, "x"),
        "planner",
    )
    claims = call_claims(
        issuer=running.url, caller=caller, aud=audience, method="tools/call", identifier="x",
        scope=None, tool_digest=None, params_digest=None, may_act=None, life=60,
        now=int(time.time()), jti="call-1", txn="t",
    )  # fmt: skip
    return Minter(KeyRing(running.state), running.url).sign(claims).decode()


def test_what_was_revoked_is_told(running: Gateway) -> None:
    mine = running.token(jti="to-be-revoked")
    child = exchanged(running, mine, "mcp").stdout.strip()
    with running.client() as client:
        answer = client.post(
            "/oauth/revoke", data={"token": mine}, auth=("planner", "planner-secret-for-tests")
        )
    assert answer.status_code == 200
    for token_ in (mine, child):
        done, found = inspected(running, token_)
        assert done.returncode == 4 and checks(found)["revocation"] is False
        assert "was revoked" in why(found, "revocation")


def test_a_per_call_token_is_told_as_one(running: Gateway) -> None:
    done, found = inspected(running, per_call(running, UPSTREAM))
    assert done.returncode == 0 and found["kind"] == "per-call"
    assert "tickets" in why(found, "audience") and "to be exchanged by nobody" in found["use"]
    done, found = inspected(running, per_call(running, "https://other.example.com"))
    assert done.returncode == 4 and checks(found)["audience"] is False


def test_offline_fetches_nothing_and_says_so(running: Gateway) -> None:
    before = running.issuer.fetches
    done, found = inspected(running, running.token(), "--offline")
    assert done.returncode == 0 and running.issuer.fetches == before
    assert checks(found)["signature"] is None and "--offline" in why(found, "signature")


def test_an_issuer_that_cannot_be_asked_is_exit_5(running: Gateway, tmp_path: Path) -> None:
    gone = Issuer()
    config = base_config(gone, running.url, tmp_path)
    file = tmp_path / "agentgw.yaml"
    file.touch(mode=0o600)
    file.write_text(json.dumps(config))
    done = token("inspect", "--config", file, stdin=gone.token(f"{running.url}/mcp"))
    assert done.returncode == 5
    assert "cannot be reached" in done.stdout


@pytest.mark.parametrize("text", ["garbage", "a.b.c", "\x1b[31m.e30.x", "e30.e30.e30", "é" * 30])
def test_what_is_no_token_is_said_to_be_none(running: Gateway, text: str) -> None:
    done, found = inspected(running, text)
    assert done.returncode == 4 and found["kind"] == "unreadable"
    assert checks(found)["form"] is False and "\x1b" not in done.stdout


def test_nothing_a_token_says_reaches_the_terminal_raw(running: Gateway) -> None:
    done = token("inspect", "--config", running.file, stdin=running.token(sub="a\x1b[2Jb"))
    assert "\x1b" not in done.stdout + done.stderr


def test_an_empty_input_is_wrong_usage_and_an_argument_is_warned_about(running: Gateway) -> None:
    assert token("inspect", "--config", running.file, stdin="\n").returncode == 2
    done = token("inspect", running.token(), "--config", running.file)
    assert done.returncode == 0 and "others on this machine can see arguments" in done.stderr


def test_exchange_prints_the_token_and_nothing_else_on_stdout(running: Gateway) -> None:
    done = exchanged(running, running.token(), "coder", "--scope", "tickets.read")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".") == 2 and done.stdout.count("\n") == 1
    assert "300 s, tickets.read, event " in done.stderr
    answer = json.loads(exchanged(running, running.token(), "mcp", "--json").stdout)
    assert answer["token_type"] == "Bearer" and answer["access_token"].count(".") == 2


def test_exchange_with_a_private_key_takes_up_the_hand_over(
    running: Gateway, tmp_path: Path
) -> None:
    handed = exchanged(running, running.token(), "coder").stdout
    subject = tmp_path / "handed"
    subject.write_text(handed)
    keys: list[PrivateKey] = [ec_key("cli"), ed_key()]
    for number, key in enumerate(keys, 1):
        file = tmp_path / f"key{number}.pem"
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(key.private_bytes(*form))
        done = token(
            "exchange", "--as", "coder", "--key", file, "--kid", f"c{number}", "--target",
            f"{running.url}/mcp", "--subject-token-file", subject, "--url", running.url,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        _, found = inspected(running, done.stdout)
        assert [hop["agent"] for hop in found["chain"]] == ["coder", "planner"]


def test_refusals_are_exit_4_with_the_reason_and_no_secret(
    running: Gateway, tmp_path: Path
) -> None:
    mine = running.token()
    wrong = exchanged(running, mine, "mcp", PLANNER_SECRET="wrong-secret")
    assert wrong.returncode == 4 and "invalid_client" in wrong.stderr and wrong.stdout == ""
    more = exchanged(running, mine, "mcp", "--scope", "admin")
    assert more.returncode == 4 and "denied: invalid_scope" in more.stderr
    assert "agentgw why " in more.stderr
    other = exchanged(running, running.token(azp="coder"), "mcp")
    assert other.returncode == 4 and "invalid_grant" in other.stderr
    expired = exchanged(running, running.token(exp=int(time.time()) - 9), "mcp")
    assert expired.returncode == 4 and "the token has expired" in expired.stderr
    for done in (wrong, more, other, expired):
        assert "secret" not in done.stderr.replace("its secret is unknown", "")
        assert mine.split(".")[1] not in done.stderr


def test_an_agent_misspelled_is_told_by_the_configuration(running: Gateway) -> None:
    done = token(
        "exchange", "--as", "planer", "--secret-env", "PLANNER_SECRET", "--target", "mcp",
        "--config", running.file, stdin=running.token(), **SECRET,
    )  # fmt: skip
    assert done.returncode == 4
    assert "has no agent 'planer'; it has: planner, coder" in done.stderr


def test_a_file_given_as_the_token_is_told_to_be_one(running: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "alice.token"
    file.write_text(running.token())
    done = token("inspect", file, "--config", running.file)
    assert done.returncode == 2 and "is a file" in done.stderr


def test_a_gateway_that_is_not_there_is_exit_5(running: Gateway) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    done = exchanged(running, running.token(), f"{url}/mcp", "--url", url)
    assert done.returncode == 5 and "cannot be reached" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("--target", "mcp"),
        ("--target", "mcp", "--secret-env", "NOT_SET"),
        ("--target", "mcp", "--secret-env", "PLANNER_SECRET", "--key", "x.pem"),
        ("--target", "nowhere", "--secret-env", "PLANNER_SECRET"),
        ("--secret-env", "PLANNER_SECRET"),
    ],
)
def test_wrong_usage_is_exit_2(running: Gateway, args: tuple[str, ...]) -> None:
    done = token(
        "exchange", "--as", "planner", "--config", running.file, *args, stdin="x", **SECRET
    )
    assert (done.returncode, done.stdout) == (2, "")


def test_a_key_that_is_none_is_exit_1(running: Gateway, tmp_path: Path) -> None:
    for name in ("none.pem", "absent.pem"):
        if name == "none.pem":
            (tmp_path / name).write_text("x")
        done = token(
            "exchange", "--as", "coder", "--key", tmp_path / name, "--target", "mcp",
            "--config", running.file, stdin="x",
        )  # fmt: skip
        assert done.returncode == 1 and done.stderr.count("\n") == 1
