from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from agentgw.core.principal import Caller, Hop, Inbound, Subject
from agentgw.core.revocation import Revocation, Revoked, check_parties, token_key, user_key
from agentgw.errors import OAuthError, Unavailable

GATEWAY = "https://gw.example.com"
IDP = "https://idp.example.com"
OURS = Inbound(GATEWAY, "j-1", "sha-256:a")
THEIRS = Inbound(IDP, "j-1", "sha-256:b", "sha-256:signed")
PLANNER = Hop(f"{GATEWAY}/a2a/planner", "planner", "client-auth")
CODER = Hop(f"{GATEWAY}/a2a/coder", "coder", "exchange")
CALLER = Caller(
    subject=Subject("acme", "alice", "acme|alice", known_as="alice@example.com"),
    chain=(CODER, PLANNER),
    scopes=frozenset(),
    resources=frozenset(),
    exp=900,
    inbound=OURS,
    presenter=CODER.id,
)


def revoked(*changes: Revocation) -> Revoked:
    made = Revoked(GATEWAY)
    made.apply(changes)
    return made


def is_quiet(known: Revoked) -> bool:
    return known.quiet


def token(inbound: Inbound, until: int = 900, **more: bool) -> Revocation:
    return Revocation(1, "token", token_key(inbound, GATEWAY), until, **more)


def test_tokens_of_two_issuers_with_one_jti_are_two() -> None:
    assert token_key(OURS, GATEWAY) != token_key(THEIRS, GATEWAY)
    assert not revoked(token(THEIRS)).has_token(OURS)
    assert not revoked(token(OURS)).has_token(THEIRS)
    assert revoked(token(THEIRS)).has_token(THEIRS)


def test_a_token_without_jti_is_known_by_what_was_signed() -> None:
    bare = replace(THEIRS, jti=None)
    rewritten = replace(bare, hash="sha-256:other signature")
    assert revoked(token(bare)).has_token(rewritten)
    assert revoked(token(replace(bare, signed=None))).has_token(replace(bare, signed=None))


def test_nothing_revoked_is_quiet_and_something_is_not() -> None:
    known = Revoked(GATEWAY)
    assert is_quiet(known) and known.why(CALLER) is None
    known.apply([token(OURS)])
    assert not is_quiet(known) and known.why(CALLER) == "the token"
    known.apply([token(OURS, lifted=True)])
    assert is_quiet(known)


def test_not_knowing_is_never_quiet() -> None:
    known = Revoked(GATEWAY)
    known.stale = True
    assert not is_quiet(known)
    with pytest.raises(Unavailable):
        check_parties(known, CALLER.subject, CALLER.chain)
    known.stale = False
    assert is_quiet(known)
    check_parties(known, CALLER.subject, CALLER.chain)


def test_either_token_a_caller_stands_on_counts() -> None:
    assert revoked(token(THEIRS)).tokens_of(replace(CALLER, actor=THEIRS))
    assert not revoked(token(THEIRS)).tokens_of(CALLER)


@pytest.mark.parametrize("hop", [PLANNER, CODER])
def test_a_revoked_agent_bars_every_chain_it_stands_in(hop: Hop) -> None:
    known = revoked(Revocation(1, "agent", hop.id, None))
    assert known.why(CALLER) == f"agent {hop.agent}"
    assert known.party(None, [replace(hop, agent=None)]) == f"agent {hop.id}"
    with pytest.raises(OAuthError, match=str(hop.agent)):
        check_parties(known, CALLER.subject, CALLER.chain)


@pytest.mark.parametrize("name", ["alice", "alice@example.com"])
def test_a_user_is_revoked_under_either_name_and_at_their_own_issuer_only(name: str) -> None:
    assert revoked(Revocation(1, "subject", user_key("acme", name), None)).why(CALLER) == (
        "user alice"
    )
    for other in ("laptop|alice", "acme|bob", "alice"):
        assert revoked(Revocation(1, "subject", other, None)).why(CALLER) is None


def test_what_has_an_end_ends_and_the_rest_stays() -> None:
    known = revoked(token(OURS, until=100), Revocation(2, "agent", CODER.id, 200))
    known.expire(100)
    assert known.has_token(OURS)
    known.expire(101)
    assert not known.has_token(OURS) and known.party(None, [CODER])
    known.expire(201)
    assert is_quiet(known)
    forever = revoked(Revocation(1, "agent", CODER.id, None))
    forever.expire(10**12)
    assert forever.party(None, [CODER])


def test_who_was_spared_is_judged_anew_after_each_change() -> None:
    known = revoked(token(THEIRS))
    for _ in range(2):
        assert known.why(CALLER) is None and not known.tokens_of(CALLER)
    known.apply([token(OURS)])
    assert known.why(CALLER) == "the token" and known.tokens_of(CALLER)
    known.apply([token(OURS, lifted=True), Revocation(3, "agent", PLANNER.id, None)])
    assert known.why(CALLER) == "agent planner"


def test_who_is_spared_while_a_change_comes_is_judged_anew() -> None:
    known = revoked(token(THEIRS))

    class Chain(tuple[Hop, ...]):
        """Hops of which one is revoked, by another thread, just after they were looked at."""

        def __iter__(self) -> Iterator[Hop]:
            yield from super().__iter__()
            known.apply([Revocation(2, "agent", PLANNER.id, None)])

    caller = replace(CALLER, chain=Chain(CALLER.chain))
    assert known.why(caller) is None
    assert known.why(caller) == "agent planner"
