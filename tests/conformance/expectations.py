"""What must come of each of the suite's scenarios for clients, where that is not a plain success."""

from __future__ import annotations

from typing import NamedTuple

from tests.conformance.client_role import Run


class Fails(NamedTuple):
    """Checks of a scenario that fail, and must go on failing to stand here; and why."""

    checks: frozenset[str]
    reason: str


BY_HAND = (
    "Dynamic registration is not made: the gateway is the client that its operator registered, or the one "
    "of its own metadata document."
)
NAMED = (
    "Without metadata of its own (RFC 9728, which MCP demands since 2025-06-18) a server has no "
    "authorization server: guessing one would let its host ask for credentials."
)
BEARER = (
    "Tokens for a tool server's own authorization server are bearer tokens; DPoP there (an extension) is "
    "not asked for."
)
REGISTRATION = Fails(frozenset({"client-registration"}), BY_HAND)
FLOW = {"client-registration", "authorization-request", "token-request"}
DPOP = {
    f"sep-1932-client-{what}" for what in ("token-request-proof", "dpop-auth-scheme", "fresh-proof")
}

FAILS: dict[str, Fails] = {
    "auth/metadata-default": REGISTRATION,
    "auth/metadata-var1": REGISTRATION,
    "auth/metadata-var2": REGISTRATION,
    "auth/metadata-var3": REGISTRATION,
    "auth/authorization-server-migration": Fails(
        frozenset({"sep-2352-reregister-on-as-change"}),
        BY_HAND + " A new authorization server gets nothing before the operator names it.",
    ),
    "auth/basic-cimd": Fails(
        frozenset({"cimd-client-id-used"}),
        "The suite wants one fixed URL; the gateway's client_id is the URL of its own document.",
    ),
    "auth/2025-03-26-oauth-metadata-backcompat": Fails(
        frozenset({"authorization-server-metadata", *FLOW}), NAMED
    ),
    "auth/2025-03-26-oauth-endpoint-fallback": Fails(frozenset(FLOW), NAMED),
    "auth/enterprise-managed-authorization": Fails(
        frozenset({"complete-flow-token-exchange", "complete-flow-jwt-bearer"}),
        "The suite's user comes with an ID token, which the gateway refuses at its door: it takes access "
        "tokens, and shows these to the identity provider.",
    ),
    "auth/dpop": Fails(frozenset(DPOP), BEARER),
    "auth/dpop-nonce": Fails(
        frozenset({*DPOP, "sep-1932-client-as-nonce", "sep-1932-client-rs-nonce"}), BEARER
    ),
    "auth/wif-jwt-bearer": Fails(
        frozenset({"wif-assertion-malformed"}),
        "The gateway signs its assertions itself; one that somebody else signed cannot be configured.",
    ),
}

FOREIGN = "the answer is that of another authorization server"
UNNAMED = "it has no metadata that names its authorization server"

REFUSED: dict[str, str] = {
    "auth/scope-retry-limit": "it refused the gateway's credentials (HTTP 403)",
    "auth/resource-mismatch": "its metadata is that of another resource than its URL",
    "auth/metadata-issuer-mismatch": "its authorization server's metadata is that of another issuer",
    "auth/iss-supported-missing": "the answer does not say which authorization server it is from",
    "auth/iss-wrong-issuer": FOREIGN,
    "auth/iss-unexpected": FOREIGN,
    "auth/iss-normalized": FOREIGN,
    "auth/authorization-server-migration": "another authorization server than the configured",
    "auth/2025-03-26-oauth-metadata-backcompat": UNNAMED,
    "auth/2025-03-26-oauth-endpoint-fallback": UNNAMED,
    "auth/enterprise-managed-authorization": "HTTP 401",
    "auth/wif-jwt-bearer": "its authorization server refused",
}
"""Where the tool must stay uncalled: what the agent or its user is told."""


def judge(scenario: str, run: Run) -> None:
    """Compare what came of a scenario with what must."""
    expected = FAILS.get(scenario)
    assert run.failed == (set() if expected is None else expected.checks), (run.said, run.failed)
    told = REFUSED.get(scenario)
    if told is None:
        assert run.said["called"] and run.said["listed"]["result"]["tools"], run.said
    else:
        assert not run.said["called"] and told in run.told, run.said
