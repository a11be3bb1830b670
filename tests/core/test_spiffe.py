from __future__ import annotations

import pytest

from agentgw.core.spiffe import is_trust_domain, parse_spiffe_id


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("spiffe://example.org/coder", "example.org"),
        ("spiffe://example.org/ns/agents/sa/Coder_1.2-x", "example.org"),
        ("spiffe://a_b-c.1/x", "a_b-c.1"),
    ],
)
def test_the_trust_domain_of_an_id(text: str, domain: str) -> None:
    assert parse_spiffe_id(text) == domain and is_trust_domain(domain)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/a/",
        "spiffe://example.org//a",
        "spiffe://example.org/./a",
        "spiffe://example.org/../a",
        "spiffe://example.org/a%20b",
        "spiffe://example.org/a?b",
        "spiffe://example.org/a#b",
        "spiffe://example.org:443/a",
        "spiffe://user@example.org/a",
        "spiffe://Example.org/a",
        "SPIFFE://example.org/a",
        "https://example.org/a",
        "spiffe:/example.org/a",
        "spiffe:///a",
        f"spiffe://{'a' * 256}/a",
        f"spiffe://example.org/{'a' * 2048}",
        "spiffe://example.org/a\n",
    ],
)
def test_what_is_no_id_of_a_workload(text: str) -> None:
    with pytest.raises(ValueError):
        parse_spiffe_id(text)
