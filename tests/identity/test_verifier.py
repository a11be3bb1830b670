from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentgw.core.claims import admits
from agentgw.core.consent import Consent
from agentgw.core.possession import Binding
from agentgw.core.principal import Hop, Subject
from agentgw.errors import InvalidToken
from tests.identity.forge import (
    ACME,
    CODER,
    NOW,
    PLANNER,
    US,
    FixedKeys,
    OwnBooks,
    acme_rules,
    acme_token,
    build,
    coder_entry,
    ec_key,
    ed_key,
    jwk,
    own_token,
)

pytestmark = pytest.mark.anyio
CALL = {"type": "urn:agentgw:mcp-call:1", "actions": ["tools/call"]}


async def test_a_users_token_names_alice_and_planner() -> None:
    door = build()
    caller = await door.authenticate(acme_token(), NOW)
    assert caller.subject == Subject("acme", "alice", "acme|alice")
    assert caller.chain == (Hop(PLANNER.id, "planner", "client-auth"),)
    assert caller.scopes == {"tickets.read", "tickets.write"}
    assert caller.groups == {"acme:group:support"}
    assert caller.presenter == PLANNER.id
    assert (caller.inbound.iss, caller.inbound.jti) == (ACME, "idp-7c1")
    assert caller.inbound.hash.startswith("sha-256:")
    assert (caller.exp, caller.txn, caller.notes) == (NOW + 840, None, ())
    assert admits(caller, US, None) and admits(caller, US, "tickets")


async def test_an_exchanged_token_names_coder_after_planner() -> None:
    entry = coder_entry()
    door = build(own=OwnBooks(entries={"j-coder": entry}))
    caller = await door.authenticate(own_token(entry), NOW + 5)
    assert caller.chain == entry.chain
    assert (caller.subject, caller.groups, caller.txn) == (entry.subject, entry.groups, entry.txn)
    assert (caller.inbound.iss, caller.inbound.jti) == (US, "j-coder")
    assert caller.presenter == CODER.id


async def test_what_the_user_consented_to_comes_along() -> None:
    consent = Consent(frozenset({"tickets/read"}), frozenset(), frozenset())
    entry = replace(coder_entry(), consent=consent)
    door = build(own=OwnBooks(entries={"j-coder": entry}))
    assert (await door.authenticate(own_token(entry), NOW + 5)).consent == consent


async def test_the_ledgers_entry_of_a_login_is_no_token() -> None:
    entry = replace(coder_entry(), kind="login")
    door = build(own=OwnBooks(entries={"j-coder": entry}))
    for take in (door.authenticate, door.verify_subject_token):
        with pytest.raises(InvalidToken, match="not meant for this gateway"):
            await take(own_token(entry), NOW + 5)


async def test_a_verified_token_is_looked_up_without_asking_for_keys_again() -> None:
    keys = {"acme": FixedKeys([jwk(ec_key())]), "other": FixedKeys([])}
    door = build(keys=keys)
    token = acme_token()
    assert door.lookup(token, NOW) is None
    caller = await door.authenticate(token, NOW)
    assert door.lookup(token, NOW + 299) is caller
    assert keys["acme"].asked == 1
    assert door.lookup(token, NOW + 300) is None
    assert door.lookup(token[:-1], NOW) is None
    assert door.lookup(token + b"=", NOW) is None


async def test_a_remembered_token_ends_five_seconds_before_its_exp() -> None:
    door = build()
    token = acme_token(exp=NOW + 20)
    await door.authenticate(token, NOW)
    assert door.lookup(token, NOW + 14.9) is not None
    assert door.lookup(token, NOW + 15) is None
    with pytest.raises(InvalidToken, match="less than 5 seconds"):
        await door.authenticate(token, NOW + 16)
    with pytest.raises(InvalidToken, match="expired"):
        await door.authenticate(token, NOW + 20)


async def test_a_subject_token_is_remembered_like_one_at_the_door() -> None:
    keys = {"acme": FixedKeys([jwk(ec_key())]), "other": FixedKeys([])}
    revoked: set[str] = set()
    door = build(keys=keys, revoked=lambda inbound: inbound.hash in revoked)
    token = acme_token(exp=NOW + 100)
    verified = await door.verify_subject_token(token, NOW)
    assert await door.verify_subject_token(token, NOW + 94) is verified
    assert keys["acme"].asked == 1
    with pytest.raises(InvalidToken, match="less than 5 seconds"):
        await door.verify_subject_token(token, NOW + 96)
    revoked.add(verified.inbound.hash)
    with pytest.raises(InvalidToken, match="revoked"):
        await door.verify_subject_token(token, NOW)


async def test_a_subject_token_of_ours_is_looked_up_each_time() -> None:
    entry = coder_entry()
    books = OwnBooks(entries={entry.jti: entry})
    door = build(own=books)
    assert await door.verify_subject_token(own_token(entry), NOW + 5)
    books.entries.clear()
    with pytest.raises(InvalidToken, match="not in our ledger"):
        await door.verify_subject_token(own_token(entry), NOW + 5)


async def test_the_memory_of_tokens_is_bounded_and_drops_the_oldest_use() -> None:
    door = build(cache_size=2)
    first, second, third = (acme_token(jti=name) for name in ("a", "b", "c"))
    await door.authenticate(first, NOW)
    await door.authenticate(second, NOW)
    assert door.lookup(first, NOW)
    await door.authenticate(third, NOW)
    assert door.lookup(first, NOW) and door.lookup(third, NOW)
    assert door.lookup(second, NOW) is None


async def test_a_bad_signature_is_remembered_for_a_moment_only() -> None:
    keys = {"acme": FixedKeys([jwk(ec_key("stranger"))]), "other": FixedKeys([])}
    door = build(keys=keys)
    token = acme_token()
    for now in (NOW, NOW + 1, NOW + 2):
        with pytest.raises(InvalidToken, match="does not hold"):
            await door.authenticate(token, now)
    assert keys["acme"].asked == 1
    keys["acme"].jwks = [jwk(ec_key())]
    assert await door.authenticate(token, NOW + 4)


async def test_a_passing_failure_is_not_remembered() -> None:
    keys = {"acme": FixedKeys([]), "other": FixedKeys([])}
    door = build(keys=keys)
    with pytest.raises(InvalidToken):
        await door.authenticate(acme_token(), NOW)
    keys["acme"].jwks = [jwk(ec_key())]
    assert await door.authenticate(acme_token(), NOW)


async def test_only_the_issuers_configured_algorithms_pass() -> None:
    door = build(acme_rules(algorithms=frozenset({"RS256"})))
    with pytest.raises(InvalidToken, match="alg"):
        await door.authenticate(acme_token(), NOW)


async def test_a_bare_client_is_refused_at_the_door_and_shown_to_the_exchange() -> None:
    door = build()
    token = acme_token(azp="coder")
    with pytest.raises(InvalidToken, match="nothing proves"):
        await door.authenticate(token, NOW)
    verified = await door.verify_subject_token(token, NOW)
    assert verified.chain == (Hop(CODER.id, "coder", "client-claim"),)
    assert (verified.issuer, verified.client_id, verified.has_act) == ("acme", "coder", False)
    assert verified.resources == {f"{US}/mcp"}


async def test_may_act_of_any_issuer_binds_at_the_door() -> None:
    door = build()
    with pytest.raises(InvalidToken, match="may_act"):
        await door.authenticate(acme_token(may_act={"sub": "coder"}), NOW)
    assert await door.authenticate(acme_token(may_act={"sub": "planner"}), NOW)
    verified = await door.verify_subject_token(acme_token(may_act={"sub": "coder"}), NOW)
    assert verified.may_act == CODER.id


async def test_a_dropped_act_is_noted_at_the_door_and_shown_to_the_exchange() -> None:
    door = build()
    token = acme_token(act={"sub": "coder"})
    caller = await door.authenticate(token, NOW)
    assert caller.notes and caller.chain[0].agent == "planner"
    assert (await door.verify_subject_token(token, NOW)).dropped_act


async def test_a_hand_over_token_is_for_the_exchange_only() -> None:
    entry = coder_entry(
        jti="j-handover", kind="hand-over", audience=CODER.id, chain=(coder_entry().chain[1],)
    )
    door = build(own=OwnBooks(entries={"j-handover": entry}))
    token = own_token(entry, may_act={"iss": US, "sub": CODER.id})
    with pytest.raises(InvalidToken, match="hand-over"):
        await door.authenticate(token, NOW + 5)
    assert door.lookup(token, NOW + 5) is None
    verified = await door.verify_subject_token(token, NOW + 5)
    assert verified.issued is entry
    assert verified.issued is not None
    assert (verified.issued.audience, verified.may_act) == (CODER.id, CODER.id)
    assert (verified.resources, verified.issuer) == (frozenset(), US)


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "acme|bob"},
        {"aud": f"{US}/mcp/tickets"},
        {"aud": [f"{US}/mcp"]},
        {"scope": "tickets.write admin"},
        {"scope": None},
        {"txn": "t-other"},
        {"exp": NOW + 299},
        {"client_id": "coder"},
        {"act": None},
        {"act": {"iss": US, "sub": CODER.id}},
        {"act": {"iss": US, "sub": PLANNER.id, "act": {"iss": US, "sub": CODER.id}}},
        {"act": {"iss": ACME, "sub": CODER.id, "act": {"iss": US, "sub": PLANNER.id}}},
        {"act": "coder"},
        {"jti": "j-unknown"},
        {"jti": None},
        {"jti": ["j-coder"]},
        {"authorization_details": [CALL]},
        {"authorization_details": [{"type": "other"}, CALL]},
        {"authorization_details": "x"},
        {"authorization_details": ["x"]},
        {"cnf": {"jkt": "x"}},
    ],
)
async def test_refuses_a_token_of_ours_that_differs_from_the_ledger(
    changes: dict[str, Any],
) -> None:
    entry = coder_entry()
    door = build(own=OwnBooks(entries={"j-coder": entry}))
    assert await door.authenticate(own_token(entry), NOW + 5)
    with pytest.raises(InvalidToken):
        await door.authenticate(own_token(entry, **changes), NOW + 5)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "ES256", "kid": "own-1", "typ": "JWT"},
        {"alg": "ES256", "kid": "own-1"},
        {"alg": "ES256", "kid": "k1", "typ": "at+jwt"},
        {"alg": "ES256", "typ": "at+jwt"},
        {"alg": "EdDSA", "kid": "own-1", "typ": "at+jwt"},
    ],
)
async def test_refuses_a_token_of_ours_under_a_wrong_header(header: dict[str, Any]) -> None:
    entry = coder_entry()
    door = build(own=OwnBooks(entries={"j-coder": entry}))
    with pytest.raises(InvalidToken):
        await door.authenticate(own_token(entry, header), NOW + 5)


async def test_a_ledger_entry_for_a_foreign_audience_opens_nothing() -> None:
    entry = coder_entry(audience="https://tickets.example.com/mcp")
    door = build(own=OwnBooks(entries={"j-coder": entry}))
    with pytest.raises(InvalidToken, match="not meant for this gateway"):
        await door.authenticate(own_token(entry), NOW + 5)


async def test_a_revoked_token_of_ours_is_refused_after_a_reload() -> None:
    entry = coder_entry()
    books = OwnBooks(entries={"j-coder": entry})
    door = build(own=books)
    await door.authenticate(own_token(entry), NOW + 5)
    del books.entries["j-coder"]
    door = build(own=books)
    token = own_token(entry)
    assert door.lookup(token, NOW + 5) is None
    with pytest.raises(InvalidToken, match="ledger"):
        await door.authenticate(token, NOW + 5)


async def test_a_disabled_agent_of_an_older_hop_is_nobody_now() -> None:
    entry = coder_entry()
    agents = (replace(PLANNER, disabled=True), CODER)
    door = build(own=OwnBooks(entries={"j-coder": entry}), agents=agents)
    caller = await door.authenticate(own_token(entry), NOW + 5)
    assert [hop.agent for hop in caller.chain] == ["coder", None]


def test_an_issuer_listed_twice_or_called_like_us_is_refused() -> None:
    for rules in (acme_rules(issuer=US), acme_rules(issuer="https://idp.other.example")):
        with pytest.raises(ValueError, match="issuer"):
            build(rules)


async def test_an_issuer_configured_for_eddsa_may_call_it_ed25519() -> None:
    keys = {"acme": FixedKeys([jwk(ed_key())]), "other": FixedKeys([])}
    door = build(acme_rules(algorithms=frozenset({"EdDSA"})), keys=keys)
    for alg in ("EdDSA", "Ed25519"):
        token = acme_token(ed_key(), {"alg": alg, "kid": "k1", "typ": "at+jwt"}, "EdDSA")
        assert await door.authenticate(token, NOW)


async def test_a_bound_token_names_its_key_and_what_its_proof_will_show() -> None:
    caller = await build().authenticate(acme_token(cnf={"jkt": "k"}), NOW)
    assert caller.binding == Binding(jkt="k")
    assert caller.chain == (Hop(PLANNER.id, "planner", "dpop"),)
    assert (await build().authenticate(acme_token(), NOW)).binding is None


async def test_a_proof_does_not_show_who_a_public_client_is() -> None:
    # Anybody may log in under a public client's name and bind the token to a key of their own.
    door = build(acme_rules(accept_evidence=frozenset({"client-claim"})))
    caller = await door.authenticate(acme_token(azp="coder", cnf={"jkt": "k"}), NOW)
    assert caller.chain == (Hop(CODER.id, "coder", "client-claim"),)


@pytest.mark.parametrize(
    ("require", "cnf"),
    [
        ("dpop", None), ("dpop", {"x5t#S256": "c"}), ("mtls", None), ("mtls", {"jkt": "k"}),
    ],
)  # fmt: skip
async def test_an_agent_that_must_prove_possession_is_nobody_without(
    require: str, cnf: dict[str, str] | None
) -> None:
    door = build(agents=(replace(PLANNER, require=require), CODER))
    with pytest.raises(InvalidToken, match="must use tokens bound"):
        await door.authenticate(acme_token(cnf=cnf), NOW)
    both = {"jkt": "k", "x5t#S256": "c"}
    assert await door.authenticate(acme_token(cnf=both), NOW)
