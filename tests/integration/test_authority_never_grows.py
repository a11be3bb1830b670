"""Random lives of an installation: whatever is exchanged, handed over, called and revoked, in whatever
order, no token ever does more than the token it came from, and the gateway says what the oracle says."""

from __future__ import annotations

import itertools
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, multiple, rule

from agentgw.core.consent import Consent
from agentgw.core.principal import Inbound, Issued
from agentgw.core.revocation import Kind
from agentgw.sts.keys import KeyRing
from tests.integration.delegation_oracle import Allowed, Only, Oracle, Power
from tests.integration.delegation_world import (
    AGENTS,
    CONDITIONS,
    GRANTS,
    ISSUERS,
    NOW,
    RESOURCES,
    SIBLINGS,
    TOOLS,
    US,
    World,
    agent_id,
    one_tool,
)

SCOPES = ("tickets.read", "tickets.write", "time.read")
ARGS = ({"id": 1}, {"id": 2})
CALLS = [
    (path, server, tool, args)
    for server, tool in (*TOOLS, *sorted(RESOURCES))
    for path in ("", server)
    for args in ARGS
]
STEPS: Counter[str] = Counter()
"""How often each rule ran, over all lives."""
ANSWERS: Counter[tuple[str, bool]] = Counter()
"""How often what was tried was let."""
CHAINS: Counter[int] = Counter()
"""How many tokens were issued with a chain of that many agents."""

CONSENTED: Counter[str] = Counter()
"""How often what was let came of a user's consent, and how often consent alone forbade a call."""


class Token(NamedTuple):
    """A token as it travels, and what the oracle holds it to be."""

    text: bytes
    power: Power
    inbound: Inbound


names = st.sampled_from(sorted(AGENTS))


def seldom(values: st.SearchStrategy[Any], of_ten: int = 1) -> st.SearchStrategy[Any]:
    """Mostly None: a life of nothing but accidents would prove little."""
    return st.integers(0, 9).flatmap(lambda n: st.none() if n < 10 - of_ten else values)


held = st.just(frozenset(SCOPES)) | st.frozensets(st.sampled_from(SCOPES), min_size=1)
some_scopes = seldom(st.frozensets(st.sampled_from(SCOPES)), 4)
tools = st.sampled_from(sorted(TOOLS))


class Life(RuleBasedStateMachine):
    """Two issuers, four agents, three users, two servers."""

    tokens: Bundle[Token] = Bundle("tokens")
    keyring: KeyRing

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self.folder.name), self.keyring)
        self.oracle = Oracle(
            AGENTS, GRANTS, CONDITIONS, TOOLS, SIBLINGS, RESOURCES,
            hands=self.world.hands, off=self.world.off,
        )  # fmt: skip
        self.numbers = itertools.count()
        self.every: list[Token] = []
        self.logins: dict[int, Issued] = {}

    @rule(
        target=tokens,
        user=st.sampled_from(("alice", "bob", "carol")),
        client=st.sampled_from((*sorted(AGENTS), "portal")),
        place=st.sampled_from(("", "", "tickets")),
        scopes=held,
        life=st.sampled_from((7200,) * 6 + (4, 60, 900)),
        lie=seldom(names, 2),
        may_act=seldom(names),
        tried=st.booleans(),
    )
    def issue_at_acme(
        self, user: str, client: str, place: str, scopes: frozenset[str], life: int,
        lie: str | None, may_act: str | None, tried: bool,
    ) -> Token:  # fmt: skip
        """acme vouches for users and clients; an `act` of its making is a lie. All agents may try it."""
        claims = self.claims(
            user, place, scopes, life, azp=client, groups=["support"] * (user != "bob")
        )
        if lie is not None:
            claims["act"] = {"sub": agent_id(lie)}
        if may_act is not None:
            claims["may_act"] = {"iss": US, "sub": agent_id(may_act)}
        agent = AGENTS.get(client)
        power = Power(
            f"acme|{user}", ("acme:group:support",) * (user != "bob"),
            (client if agent else f"?{client}",), scopes, place, self.world.now + life,
            (next(self.numbers),), first=True, client=client,
            unproven=agent is not None and not agent["client"], lied="act" in claims,
            acted="act" in claims, may_act=may_act,
        )  # fmt: skip
        token = self.issued("acme", claims, power)
        if tried:
            for name in sorted(AGENTS):
                self.exchanged("exchange", token, name, "/mcp", None, None)
        return token

    @rule(
        target=tokens,
        user=st.sampled_from(("bob", "alice")),
        chain=st.lists(names, min_size=1, max_size=3, unique=True),
        scopes=held,
    )
    def issue_at_partner(self, user: str, chain: list[str], scopes: frozenset[str]) -> Token:
        """partner may say who acted for whom."""
        act: Any = None
        for name in reversed(chain):
            act = {"iss": US, "sub": agent_id(name)} | ({} if act is None else {"act": act})
        claims = self.claims(user, "", scopes, 900, act=act)
        power = Power(
            f"partner|{user}", (), tuple(chain), scopes, "", self.world.now + 900,
            (next(self.numbers),), first=True, acted=True,
        )  # fmt: skip
        return self.issued("partner", claims, power)

    @rule(
        target=tokens,
        user=st.sampled_from(("alice", "bob")),
        agent=names,
        place=st.sampled_from(("", "", "tickets")),
        scopes=held,
        life=st.sampled_from((7200, 900, 60, 4)),
        ticked=st.frozensets(st.sampled_from(sorted(TOOLS)), min_size=1),
        servers=st.frozensets(st.sampled_from(("tickets", "time"))),
        heirs=st.frozensets(names) | st.just(frozenset(AGENTS)),
    )
    def let_in(
        self, user: str, agent: str, place: str, scopes: frozenset[str], life: int,
        ticked: frozenset[tuple[str, str]], servers: frozenset[str], heirs: frozenset[str],
    ) -> Any:  # fmt: skip
        """A user signs in for an agent, and ticks what it may do, whom it may hand work to, how long."""
        groups = ("acme:group:support",) * (user != "bob")
        until = self.world.now + life
        lineage = (next(self.numbers), next(self.numbers))
        expected = self.oracle.let_in(
            f"acme|{user}", groups, agent, place, scopes, until,
            Allowed(ticked, servers, heirs), self.world.now, lineage,
        )  # fmt: skip
        consent = Consent(frozenset("/".join(pair) for pair in ticked), servers, heirs)
        got = self.world.let_in(user, frozenset(groups), agent, place, scopes, until, consent)
        STEPS["let in"] += 1
        ANSWERS["let in", got is not None] += 1
        assert (got is None) == (expected is None), (agent, life)
        if got is None or expected is None:
            return multiple()
        login, text, made = got
        self.logins[lineage[0]] = login
        self.compare(made.issued, expected)
        return self.kept(Token(text, expected, Inbound(US, made.issued.jti, "-")))

    @rule(
        target=tokens,
        token=tokens,
        thief=seldom(names, 3),
        place=st.sampled_from(("", "", "/tickets", "/time")),
        scopes=some_scopes,
        only=st.none() | st.tuples(tools, st.none() | st.sampled_from(ARGS)),
    )
    def exchange(
        self, token: Token, thief: str | None, place: str, scopes: frozenset[str] | None, only: Any
    ) -> Any:
        """Whoever has a token tries to get one for the gateway."""
        client = thief or self.holder(token)
        return self.exchanged("exchange", token, client, f"/mcp{place}", scopes, only)

    @rule(target=tokens, token=tokens, heir=names, scopes=some_scopes)
    def hand_over(self, token: Token, heir: str, scopes: frozenset[str] | None) -> Any:
        """Whoever acts in a token tries to hand it on."""
        return self.exchanged("hand over", token, self.holder(token), heir, scopes, None)

    @rule(target=tokens, token=tokens, turns=st.lists(st.integers(0, 3), min_size=1, max_size=3))
    def pass_on(self, token: Token, turns: list[int]) -> Any:
        """A hand-over is taken up by handing it on, and so on, the last one by using it."""
        made: list[Token] = []
        for turn in turns:
            holder = self.holder(token)
            heirs = sorted(self.world.hands[holder]) or [holder]
            got = self.exchanged("hand over", token, holder, heirs[turn % len(heirs)], None, None)
            if not isinstance(got, Token):
                return multiple(*made)
            made.append(token := got)
        got = self.exchanged("exchange", token, self.holder(token), "/mcp", None, None)
        return multiple(*made, *([got] if isinstance(got, Token) else []))

    @rule(target=tokens, token=tokens, times=st.integers(2, 5))
    def take_up_again_and_again(self, token: Token, times: int) -> Any:
        """A token is exchanged more often than once."""
        got = [
            self.exchanged("exchange", token, self.holder(token), "/mcp", None, None)
            for _ in range(times)
        ]
        return multiple(*(one for one in got if isinstance(one, Token)))

    @rule(token=tokens, what=st.sampled_from(CALLS))
    def call(self, token: Token, what: tuple[str, str, str, Any]) -> None:
        """A token is used for a call."""
        STEPS["call"] += 1
        self.called(token, what)

    def called(self, token: Token, what: tuple[str, str, str, Any]) -> None:
        expected = self.oracle.call(token.power, *what, self.world.now)
        ANSWERS["call", expected] += 1
        if token.power.consent is not None:
            freely = replace(token.power, consent=None)
            CONSENTED["call"] += expected
            CONSENTED["refused"] += self.oracle.call(freely, *what, self.world.now) > expected
        assert self.world.call(token.text, *what) == expected, (token.power, what)

    @rule(token=tokens)
    def call_everything(self, token: Token) -> None:
        """A token is tried on all there is."""
        STEPS["call everything"] += 1
        for what in CALLS:
            self.called(token, what)

    @rule(
        token=tokens,
        what=st.sampled_from(
            ("token", "login", "agent", "user", "switch", "configure", "configure", "wait", "wait")
        ),
        agent=names,
        taker=names,
        user=st.sampled_from(("acme|alice", "acme|bob", "partner|bob")),
        good=st.sampled_from((True, True, True, False)),
        seconds=st.sampled_from((1, 58, 299, 1000)),
    )
    def something_happens(
        self, token: Token, what: str, agent: str, taker: str, user: str, good: bool, seconds: int
    ) -> None:
        """Something is revoked or let in again, switched, configured; or time passes."""
        STEPS[what] += 1
        match what:
            case "token":
                self.world.revoke_token(token.inbound, token.power.end)
                self.oracle.revoked.add(token.power.lineage[-1])
                self.call_everything(token)
            case "login" if token.power.lineage[0] in self.logins:
                login = self.logins[token.power.lineage[0]]
                self.world.revoke_token(Inbound(US, login.jti, "-"), login.exp)
                self.oracle.revoked.add(token.power.lineage[0])
                self.call_everything(token)
            case "agent" | "user":
                name = agent if what == "agent" else user
                kind: Kind = "agent" if what == "agent" else "subject"
                key = agent_id(agent) if what == "agent" else user
                (self.world.lift if good else self.world.revoke_party)(kind, key)
                (self.oracle.gone.discard if good else self.oracle.gone.add)(name)
            case "switch":
                (self.world.off.discard if good else self.world.off.add)(agent)
                self.world.reload()
            case "configure":
                hands = self.world.hands[agent]
                (hands.add if good else hands.discard)(taker)
                self.world.reload()
            case "wait":
                self.world.now += seconds
                self.world.revoked.expire(self.world.now)
        for known in self.every:
            self.called(known, CALLS[len(self.every) % len(CALLS)])
        for known in self.every[-5:]:
            self.exchanged("exchange", known, self.holder(known), "/mcp", None, None)

    def holder(self, token: Token) -> str:
        """The agent whose token it is."""
        name = token.power.heir or token.power.chain[0]
        return name if name in AGENTS else "coder"

    def teardown(self) -> None:
        self.world.close()
        self.folder.cleanup()

    def claims(
        self, user: str, place: str, scopes: frozenset[str], life: int, **more: Any
    ) -> dict[str, Any]:
        audience = f"{US}/mcp/{place}".rstrip("/")
        scope = " ".join(sorted(scopes))
        return {"sub": user, "aud": audience, "scope": scope, "exp": self.world.now + life, **more}

    def issued(self, issuer: str, claims: dict[str, Any], power: Power) -> Token:
        jti = f"{issuer}-{power.lineage[0]}"
        STEPS["issue"] += 1
        text = self.world.issue(issuer, **{**claims, "jti": jti})
        return self.kept(Token(text, power, Inbound(ISSUERS[issuer], jti, "-")))

    def exchanged(
        self, what: str, token: Token, client: str, target: str, scopes: frozenset[str] | None, only: Any
    ) -> Any:  # fmt: skip
        wanted: Only | None = None
        tool = None
        if only is not None:
            (server, name), args = only
            wanted = (server, name, None if args is None else str(args))
            tool = one_tool(server, name, args)
        expected = self.oracle.exchange(
            token.power, client, target, scopes, wanted, self.world.now, next(self.numbers)
        )
        url = agent_id(target) if target in AGENTS else f"{US}{target}"
        got = self.world.exchange(token.text, client, url, scopes, tool)
        STEPS[what] += 1
        ANSWERS[what, got is not None] += 1
        assert (got is None) == (expected is None), (client, target, scopes, only, token.power)
        if got is None or expected is None:
            return multiple()
        text, made = got
        CHAINS[len(expected.chain)] += 1
        CONSENTED[what] += expected.consent is not None
        self.compare(made.issued, expected)
        child = Token(text, expected, Inbound(US, made.issued.jti, "-"))
        self.never_more(token, child)
        return self.kept(child)

    def kept(self, token: Token) -> Token:
        self.every.append(token)
        return token

    def compare(self, issued: Any, power: Power) -> None:
        assert tuple(hop.agent for hop in issued.chain) == power.chain
        assert (issued.scopes, issued.exp, issued.subject.name) == (
            power.scopes,
            power.end,
            power.user,
        )
        assert (issued.kind == "hand-over") == (power.heir is not None)
        assert issued.resources == {f"{US}/mcp/{power.place}".rstrip("/")}

    def never_more(self, parent: Token, child: Token) -> None:
        """The child lives, reaches and does no more than what it came from."""
        assert child.power.end <= parent.power.end and child.power.scopes <= parent.power.scopes
        for call in CALLS:
            if self.world.call(child.text, *call):
                assert self.oracle.within(parent.power, *call), (parent.power, child.power, call)


def live(folder: Path, runs: int, length: int) -> None:
    """That many lives of at most that many steps."""
    for counter in (STEPS, ANSWERS, CHAINS, CONSENTED):
        counter.clear()
    Life.keyring = KeyRing(folder, clock=lambda: NOW)
    Life.TestCase.settings = settings(
        max_examples=runs,
        stateful_step_count=length,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    Life.TestCase().runTest()


def test_authority_never_grows_in_two_thousand_steps(tmp_path: Path) -> None:
    live(tmp_path, 45, 50)
    assert STEPS.total() >= 2000
    # Lives in which nothing was let, or nobody came far, would prove nothing.
    for what in ("exchange", "hand over", "call"):
        assert ANSWERS[what, True] > 20 and ANSWERS[what, False] > 20, ANSWERS
    assert CONSENTED["exchange"] > 20 and CONSENTED["hand over"] > 1, CONSENTED
    assert CONSENTED["call"] > 20 and CONSENTED["refused"] > 20, CONSENTED
    assert CHAINS[2] > 20 and CHAINS[3] > 5, CHAINS


@pytest.mark.slow
def test_authority_never_grows_in_a_hundred_thousand_steps(tmp_path: Path) -> None:
    live(tmp_path, 1500, 50)
    assert STEPS.total() >= 100_000
