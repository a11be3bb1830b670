"""What a user consented to holds for all that comes of it, and gives nobody a right."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.core.consent import Consent, read_consent
from agentgw.core.exchange import SubjectToken
from agentgw.core.principal import Issued
from agentgw.errors import OAuthError
from tests.core.test_exchange import (
    FROM_IDP,
    MCP,
    UPSTREAM,
    agent_id,
    make_rules,
    present,
    refusal,
    run,
)

CONSENT = Consent(
    frozenset({"tickets/read_ticket", "time/now"}), frozenset({"time"}), frozenset({"coder"})
)
LOGGED_IN = replace(run(FROM_IDP, MCP), consent=CONSENT)


def handed_to(name: str, consent: Consent = CONSENT) -> Issued:
    return run(present(replace(LOGGED_IN, consent=consent)), agent_id(name))


def called(consent: Consent) -> SubjectToken:
    """The per-call token of a call to the server that coder stands behind."""
    entry = replace(LOGGED_IN, kind="call", audience=UPSTREAM, consent=consent)
    return present(replace(entry, resources=frozenset({MCP})))


@pytest.mark.parametrize(
    ("server", "kind", "name", "within"),
    [
        ("tickets", "tools", "read_ticket", True),
        ("tickets", "tools", "close_ticket", False),
        ("other", "tools", "read_ticket", False),
        ("tickets", "tools", "read_ticket/", False),
        ("tickets", "resources", "read_ticket", False),
        ("time", "resources", "clock://utc", True),
        ("time", "methods", "tasks/get", True),
        ("time", "tools", "later", False),
    ],
)
def test_a_tool_is_named_and_the_rest_goes_by_server(
    server: str, kind: str, name: str, within: bool
) -> None:
    assert CONSENT.admits(server, kind, name) is within


names = st.frozensets(st.text(min_size=1, max_size=8), max_size=4)


@given(st.builds(Consent, names, names, names))
def test_what_was_written_is_read_again(consent: Consent) -> None:
    assert read_consent(consent.shown()) == consent


def test_all_that_is_exchanged_keeps_it() -> None:
    handed = handed_to("coder")
    taken = run(present(handed), MCP, "coder")
    again = run(present(taken), MCP, "coder")
    assert [each.consent for each in (handed, taken, again)] == [CONSENT] * 3
    assert run(FROM_IDP, MCP).consent is None


def test_work_goes_to_nobody_whom_the_user_did_not_name() -> None:
    assert handed_to("coder").audience == agent_id("coder")
    subject = present(LOGGED_IN)
    assert refusal(lambda: run(subject, agent_id("tester"))) == "invalid_target"
    taken = present(run(present(handed_to("coder")), MCP, "coder"))
    assert refusal(lambda: run(taken, agent_id("tester"), "coder")) == "invalid_target"


def test_the_refusal_is_that_of_an_agent_that_does_not_exist() -> None:
    def told(target: str) -> str:
        with pytest.raises(OAuthError) as caught:
            run(present(LOGGED_IN), target)
        return caught.value.description

    assert told(agent_id("tester")) == told(agent_id("nobody"))


def test_a_hand_over_is_taken_up_by_nobody_whom_the_user_did_not_name() -> None:
    nobody = replace(CONSENT, hand_to=frozenset())
    handed = replace(handed_to("coder"), consent=nobody)
    assert refusal(lambda: run(present(handed), MCP, "coder")) == "invalid_grant"


def test_the_agent_behind_a_server_is_one_the_user_named() -> None:
    rules = make_rules("coder")
    assert run(called(CONSENT), MCP, "coder", rules=rules).consent == CONSENT
    nobody = replace(CONSENT, hand_to=frozenset())
    assert refusal(lambda: run(called(nobody), MCP, "coder", rules=rules)) == "invalid_grant"


@pytest.mark.parametrize(
    ("tools", "servers", "reached"),
    [({"time/now"}, set(), {"time"}), (set(), {"git"}, {"git"}), ({"timer/now"}, set(), set())],
)
def test_it_reaches_the_servers_it_speaks_of(
    tools: set[str], servers: set[str], reached: set[str]
) -> None:
    consent = Consent(frozenset(tools), frozenset(servers), frozenset())
    assert {server for server in ("time", "git") if consent.reaches(server)} == reached
