from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.policy import AccessRequest
from agentgw.policy.cel import ConditionFailed, compile_condition

NOW = 1_795_400_000.0  # 2026-11-23T02:13:20Z


def request(args: Mapping[str, Any] | None = None, **claims: Any) -> AccessRequest:
    caller = Caller(
        subject=Subject("acme", "alice", "acme|alice"),
        chain=(Hop("urn:c", "coder", "exchange"), Hop("urn:p", "planner", "client-auth")),
        scopes=frozenset(),
        resources=frozenset(),
        exp=0,
        inbound=Inbound("acme", None, "sha-256:x"),
        presenter="coder",
        claims=MappingProxyType(claims),
    )
    return AccessRequest(caller, "tickets", "tools", "close_ticket", args, frozenset(), NOW)


@pytest.mark.parametrize(
    ("source", "holds"),
    [
        ("args.priority in ['P3', 'P4']", True),
        ("args.priority == 'P1'", False),
        ("has(args.missing)", False),
        ("args.n > 2.5 && args.n < 4", True),
        ("token.acr == 'gold'", True),
        ("token.nested.a.exists(x, x == 2)", True),
        ("chain[0].agent == 'coder' && chain[1].agent == 'planner'", True),
        ("chain.all(hop, hop.evidence != 'client-claim')", True),
        ("size(chain) == 2 && chain[0].id == 'urn:c'", True),
        ("now == timestamp('2026-11-23T02:13:20Z')", True),
        ("now.getHours() == 2 && now.getDayOfWeek() == 1", True),
        ("args.text.matches('^[a-z]+$') && args.text.startsWith('ab')", True),
        ("type(args.n) == int", True),
    ],
)
def test_evaluates_over_args_token_chain_and_now(source: str, holds: bool) -> None:
    args = {"priority": "P3", "n": 3, "text": "abc"}
    asked = request(args, acr="gold", nested={"a": [1, 2]})
    assert compile_condition(source).holds(asked) is holds


@pytest.mark.parametrize(
    "source",
    [
        "args.missing == 1",
        "args.n + 1",
        "'true'",
        "args.n",
        "args.n / 0 == 1",
        "args.text > 1",
        "args.text.matches(args.text)",
        "args.lone == 'x'",
        "chain[9].agent == 'x'",
        "null",
    ],
)
def test_fails_where_it_cannot_tell_and_echoes_no_value(source: str) -> None:
    asked = request({"n": 3, "text": "secret(", "lone": "\ud800"})
    with pytest.raises(ConditionFailed) as failure:
        compile_condition(source).holds(asked)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("huge", [2**63, 2**64, 2**70])
def test_a_huge_integer_stays_huge(huge: int) -> None:
    assert compile_condition("args.amount > 1000").holds(request({"amount": huge}))
    assert not compile_condition("args.amount > 1000").holds(request({"amount": -huge}))


def test_only_numbers_compare_with_numbers() -> None:
    for value in ("9999", True, None, [9999], {"a": 1}):
        with pytest.raises(ConditionFailed):
            compile_condition("args.amount < 1000").holds(request({"amount": value}))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("args.x ==", "no CEL expression"),
        ("", "no CEL expression"),
        ("user == 'alice'", "reads 'user'"),
        ("[1].all(x, y == 1)", "reads 'y'"),
        ("nofn(args.x)", r"calls nofn\(\)"),
        ("args.x.lowerAscii() == 'a'", r"calls lowerAscii\(\)"),
        ("args.x == '" + "a" * 2048 + "'", "longer than 2048 bytes"),
        ("args.x == '" + "\u00e9" * 1024 + "'", "longer than 2048 bytes"),
    ],
)
def test_refuses_at_load_what_could_never_evaluate(source: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refusal:
        compile_condition(source)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("depth", [50, 1000])
@pytest.mark.parametrize(("opening", "closing"), [("(", ")"), ("[", "]"), ("!", ""), ("-", "")])
def test_deep_nesting_is_answered_not_crashed(opening: str, closing: str, depth: int) -> None:
    source = (opening * depth + "true" + closing * depth)[:2048]
    try:
        condition = compile_condition(source)
    except ValueError:
        return
    try:
        assert condition.holds(request({})) in (True, False)
    except ConditionFailed:
        pass


@pytest.mark.parametrize(
    ("source", "over"),
    [
        ("args.x == 1", True),
        ("has(args.x) || token.a == 1", True),
        ("chain.exists(c, c.agent == args.agent)", True),
        ("[1].all(args, args == 1)", True),
        ("token.args == 'x'", False),
        ("token.kind == 'args.x'", False),
        ("now.getHours() < 18 && chain[0].agent == 'coder'", False),
    ],
)
def test_knows_whether_an_expression_reads_arguments(source: str, over: bool) -> None:
    assert compile_condition(source).over_arguments is over


def test_the_cel_library_is_imported_only_where_a_condition_is_compiled() -> None:
    code = (
        "import sys; from agentgw.policy.cel import compile_condition; from agentgw.app import convert;"
        "assert 'cel' not in sys.modules; compile_condition('true'); assert 'cel' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
