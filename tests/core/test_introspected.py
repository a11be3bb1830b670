from __future__ import annotations

from typing import Any

import pytest

from agentgw.core.claims import IssuerRules
from agentgw.core.introspected import active_claims, typ_of_opaque
from agentgw.errors import InvalidToken

ACME = "https://idp.example"


def rules(**changes: Any) -> IssuerRules:
    return IssuerRules("acme", ACME, {}, **changes)


def test_an_active_token_has_the_claims_of_the_answer_and_the_issuer_asked() -> None:
    answer = {"active": True, "sub": "alice", "exp": 1}
    assert active_claims(answer, ACME) == {"sub": "alice", "exp": 1, "iss": ACME}


def test_an_inactive_token_has_none_whatever_else_is_said() -> None:
    assert active_claims({"active": False, "sub": "alice"}, ACME) is None


@pytest.mark.parametrize(
    "answer",
    [None, [], "active", {}, {"active": "true"}, {"active": 1}, {"active": None}, {"sub": "alice"}],
)
def test_an_answer_that_does_not_plainly_say_active_is_none(answer: Any) -> None:
    with pytest.raises(InvalidToken, match="does not say whether it is active"):
        active_claims(answer, ACME)


@pytest.mark.parametrize("iss", ["https://evil.example", f"{ACME}/", None, 7])
def test_an_issuer_speaks_of_its_own_tokens_only(iss: Any) -> None:
    with pytest.raises(InvalidToken, match="another issued it"):
        active_claims({"active": True, "iss": iss}, ACME)


@pytest.mark.parametrize("kind", ["Bearer", "bearer", "DPoP", "access_token"])
def test_a_token_type_marks_an_access_token(kind: str) -> None:
    assert typ_of_opaque({"token_type": kind}, rules()) == "at+jwt"


@pytest.mark.parametrize("claims", [{}, {"scope": "x"}, {"token_type": "refresh_token"}])
def test_without_a_mark_it_may_be_a_refresh_token(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken, match="nothing marks"):
        typ_of_opaque(claims, rules())
    assert typ_of_opaque(claims, rules(marker={"kind": "access"})) == "jwt"
