"""Bound tokens and their proofs."""

from __future__ import annotations

from typing import Any

import pytest

from agentgw.core.possession import (
    BARE,
    Binding,
    Presented,
    binding_of,
    check_presented,
    cnf_claim,
)
from agentgw.errors import InvalidToken


def test_a_token_without_cnf_is_bound_to_nothing() -> None:
    assert binding_of({"sub": "alice"}) is None
    check_presented(None, BARE)


@pytest.mark.parametrize("binding", [Binding(jkt="k"), Binding(x5t="c"), Binding("k", "c")])
def test_a_binding_survives_its_claim(binding: Binding) -> None:
    assert binding_of({"cnf": cnf_claim(binding)}) == binding


@pytest.mark.parametrize(
    "cnf", [None, [], {}, "k", {"jkt": ""}, {"jkt": 1}, {"jwk": {}}, {"jkt": "k", "kid": "x"}]
)
def test_refuses_a_cnf_that_nobody_here_can_check(cnf: Any) -> None:
    with pytest.raises(InvalidToken):
        binding_of({"cnf": cnf})


@pytest.mark.parametrize(
    ("binding", "presented"),
    [
        (Binding(jkt="k"), BARE),
        (Binding(jkt="k"), Presented(jkt="other")),
        (Binding(jkt="k"), Presented(x5t="k")),
        (Binding(x5t="c"), BARE),
        (Binding(x5t="c"), Presented(jkt="c")),
        (Binding("k", "c"), Presented(jkt="k")),
    ],
)
def test_refuses_a_bound_token_without_its_proof(binding: Binding, presented: Presented) -> None:
    with pytest.raises(InvalidToken):
        check_presented(binding, presented)


def test_takes_a_bound_token_with_its_proof() -> None:
    check_presented(Binding(jkt="k"), Presented(jkt="k"))
    check_presented(Binding("k", "c"), Presented("k", "c"))
