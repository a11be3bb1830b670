"""One token against one message: who calls, for whom, through whom, and that it is this very call."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import httpx2
import jwt

from agentgw.verify.canonical import tool_digest
from agentgw.verify.keys import JwksCache, KeysUnavailable
from agentgw.verify.proof import PROOF_LIMIT, ProofFault, bound_key, check_proof
from agentgw.verify.receipts import (
    RECEIPT_TYP,
    ReceiptFault,
    check_receipts,
    compact_receipts,
)
from agentgw.verify.replay import MemoryReplay, ReplayStore
from agentgw.verify.request import InvalidCall, about_of, take_apart

CALL_DETAILS = "urn:agentgw:mcp-call:1"
LEEWAY = 5
MAX_DEPTH = 16
AT_ONCE = 256 * 1024
"""Bodies up to this many bytes are read on the event loop, larger ones in a thread."""
_KEY_HEADERS = ("crit", "b64", "zip", "jku", "jwk", "x5u", "x5c")

Seen = MutableMapping[str, tuple[str, "VerifiedCall"]]
request_window: ContextVar[Seen | None] = ContextVar("request_window", default=None)
"""Tokens verified within the request now served; only the middleware opens and ends it."""


@dataclass(frozen=True, slots=True)
class VerifiedCall:
    """A verified call.

    `subject` is the user (`alias|sub`), `agent` the id of the agent that acts (None: the gateway asks
    for itself), `prior_agents` those before it, latest first: they explain, they give no right
    (RFC 8693 section 4.1). `identifier` is the tool, prompt, URI or task, `tool` the same for
    `tools/call` only. `exp` is in Unix seconds.
    """

    subject: str
    agent: str | None
    prior_agents: tuple[str, ...]
    scope: frozenset[str]
    txn: str
    jti: str
    method: str
    identifier: str | None
    tool: str | None
    evidence: str | None
    exp: int
    claims: Mapping[str, Any] = field(repr=False)


class CallVerifier:
    """Checks per-call tokens of `issuer` (the gateway's public URL) for `audience` (this server's URI).

    `tools` maps tool names to definitions as this server lists them; with it, a call made for another
    definition is refused. `replay` must be shared where several processes serve one audience; with a
    MemoryReplay, tokens issued before it began are refused, as it cannot know whether they were used.
    With `require_receipts`, each agent of the chain must have its signed receipt; receipts that a token
    carries are checked in any case.
    `url` is where the gateway reaches this server, for the proofs of tokens bound to its key (`token:
    {actor_mode: gateway}` there); the audience by default.
    `jwks_uri` is `{issuer}/oauth/jwks.json` by default; `clock` gives Unix seconds.
    """

    def __init__(
        self,
        issuer: str,
        audience: str,
        *,
        replay: ReplayStore | None = None,
        tools: Mapping[str, Mapping[str, Any]] | None = None,
        jwks_uri: str | None = None,
        client: httpx2.AsyncClient | None = None,
        require_receipts: bool = False,
        url: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuer = issuer
        self._audience = audience
        self._url = audience if url is None else url
        self._replay: ReplayStore = MemoryReplay(clock=clock) if replay is None else replay
        self._tools = None if tools is None else {name: tool_digest(tools[name]) for name in tools}
        self._keys = JwksCache(jwks_uri or f"{issuer}/oauth/jwks.json", client=client)
        self._require_receipts = require_receipts
        self._clock = clock
        self._since = -math.inf
        if isinstance(self._replay, MemoryReplay):
            self._since = self._replay.since - LEEWAY

    async def verify(
        self, token: str, message: Mapping[str, Any] | bytes, proof: str | None = None
    ) -> VerifiedCall:
        """Check `token` against the JSON-RPC `message` it came with. Raises InvalidCall.

        `proof` is the DPoP header that came along, where the scheme of `Authorization` was DPoP.
        A token passes once; only within one request served through the middleware a second look
        gives the same answer again.
        """
        return await self.verify_message(token, await self.check_token(token, proof), message)

    async def verify_opening(
        self, token: str, http_method: str, proof: str | None = None
    ) -> VerifiedCall:
        """Check the token of a GET or DELETE, which has no message. Raises InvalidCall."""
        claims = await self.check_token(token, proof, http_method)
        return await self._check(token, claims, http_method, None, None)

    async def check_token(
        self, token: str, proof: str | None = None, http_method: str = "POST"
    ) -> Mapping[str, Any]:
        """The claims of a token the gateway signed for this server and for now. Raises InvalidCall.

        Enough to read a body for, and no more: what the token was made for is still to be compared.
        """
        window = request_window.get()
        if window is not None and token in window:
            return window[token][1].claims
        claims = await self._signed_claims(token)
        self._check_registered_claims(claims)
        self._check_proof(token, claims, proof, http_method)
        await self._check_receipts(claims)
        return claims

    async def verify_message(
        self, token: str, claims: Mapping[str, Any], message: Mapping[str, Any] | bytes
    ) -> VerifiedCall:
        """Check `message` against the `claims` that `check_token` gave for `token`. Raises InvalidCall."""
        if isinstance(message, bytes) and len(message) > AT_ONCE:
            about = await asyncio.to_thread(about_of, self._audience, message)
        else:
            about = about_of(self._audience, message)
        return await self._check(token, claims, *about)

    async def close(self) -> None:
        """Let go of the HTTP client, if this verifier made one."""
        await self._keys.close()

    async def _check(
        self,
        token: str,
        claims: Mapping[str, Any],
        method: str,
        identifier: str | None,
        digest: str | None,
    ) -> VerifiedCall:
        about = f"{method} {digest}"
        window = request_window.get()
        if window is not None and token in window and window[token][0] == about:
            return window[token][1]
        # Again: the body may have taken so long that the replay store has forgotten this token.
        self._check_registered_claims(claims)
        details = self._check_details(claims, method, identifier)
        if details.get("params_digest") != digest:
            raise InvalidCall("the token was made for other params")
        self._check_tool(method, identifier, details)
        call = _call(claims, details, method, identifier, self._issuer)
        if not await self._first_time(call):
            raise InvalidCall("the token was used before")
        if window is not None:
            window[token] = (about, call)
        return call

    async def _signed_claims(
        self, token: str, types: Sequence[str] = ("at+jwt", "JWT")
    ) -> Mapping[str, Any]:
        header, claims = take_apart(token)
        kid, alg = header.get("kid"), header.get("alg")
        if header.get("typ") not in types:
            raise InvalidCall(f"typ is not {' or '.join(types)}")
        if any(name in header for name in _KEY_HEADERS):
            raise InvalidCall("the header names a key or an extension")
        if not isinstance(kid, str) or len(kid) > 200:
            raise InvalidCall("kid is missing")
        if claims.get("iss") != self._issuer:
            raise InvalidCall("iss is not the gateway")
        try:
            key = await self._keys.find(kid)
            if key is None or key.algorithm_name != alg:
                raise InvalidCall("no key of the gateway has this kid and alg")
            jwt.decode_complete(token, key, algorithms=[alg], options=_SIGNATURE_ONLY)
        except KeysUnavailable as error:
            raise InvalidCall(str(error)) from None
        except jwt.PyJWTError:
            raise InvalidCall("the signature does not hold") from None
        return claims

    async def _check_receipts(self, claims: Mapping[str, Any]) -> None:
        agents = [sub for sub in _actors(claims.get("act")) if sub != self._issuer]
        try:
            compact = compact_receipts(claims, len(agents), self._require_receipts)
            signed = [await self._signed_claims(item, (RECEIPT_TYP,)) for item in compact]
            check_receipts(compact, signed, claims, agents)
        except ReceiptFault as fault:
            raise InvalidCall(str(fault)) from None

    def _check_registered_claims(self, claims: Mapping[str, Any]) -> None:
        now = self._clock()
        if claims.get("aud") != self._audience:
            raise InvalidCall("aud is not this server alone")
        if claims.get("client_id") != self._issuer:
            raise InvalidCall("client_id is not the gateway")
        for name in ("iat", "nbf", "exp"):
            if type(claims.get(name)) is not int:
                raise InvalidCall(f"{name} is missing")
        if claims["exp"] <= now - LEEWAY:
            raise InvalidCall("the token has expired")
        if max(claims["iat"], claims["nbf"]) > now + LEEWAY:
            raise InvalidCall("the token is not valid yet")
        if claims["iat"] < self._since:
            raise InvalidCall("the token is older than this server's memory of used ones")
        for name in ("sub", "jti", "txn"):
            if not isinstance(claims.get(name), str) or not claims[name]:
                raise InvalidCall(f"{name} is missing")
        if not isinstance(claims.get("scope", ""), str):
            raise InvalidCall("scope is no string")

    def _check_proof(
        self, token: str, claims: Mapping[str, Any], proof: str | None, http_method: str
    ) -> None:
        """A token comes with a proof if and only if it is bound to a key (RFC 9449 section 7.1)."""
        try:
            jkt = bound_key(claims)
            if (jkt is None) != (proof is None):
                raise ProofFault(
                    "the token is bound to no key: it comes as Bearer"
                    if jkt is None
                    else "the token is bound to a key: it comes as DPoP, with a proof"
                )
            if jkt is None or proof is None:
                return
            if len(proof) > PROOF_LIMIT:
                raise ProofFault(f"the proof is larger than {PROOF_LIMIT} bytes")
            header, said = take_apart(proof)
            check_proof(
                proof, header, said, jkt=jkt, token=token, method=http_method, url=self._url,
                now=self._clock(),
            )  # fmt: skip
        except (ProofFault, InvalidCall) as fault:
            raise InvalidCall(str(fault), by_proof=True) from None

    def _check_details(
        self, claims: Mapping[str, Any], method: str, identifier: str | None
    ) -> Mapping[str, Any]:
        listed = claims.get("authorization_details")
        if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
            raise InvalidCall("authorization_details is not exactly one object")
        details = listed[0]
        if details.get("type") != CALL_DETAILS:
            raise InvalidCall(f"the authorization_details are no {CALL_DETAILS}")
        if details.get("locations") != [self._audience]:
            raise InvalidCall("the token was made for another server")
        if details.get("actions") != [method]:
            raise InvalidCall("the token was made for another method")
        if details.get("identifier") != identifier:
            raise InvalidCall("the token was made for another tool or object")
        if details.get("max_uses") != 1:
            raise InvalidCall("max_uses is not 1")
        return details

    def _check_tool(self, method: str, identifier: str | None, details: Mapping[str, Any]) -> None:
        if self._tools is None or method != "tools/call":
            return
        if identifier is None or details.get("tool_digest") != self._tools.get(identifier, ""):
            raise InvalidCall("the call was decided on another definition of this tool")

    async def _first_time(self, call: VerifiedCall) -> bool:
        try:
            return await self._replay.once(call.jti, call.exp + LEEWAY + 1)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise InvalidCall("the replay store cannot answer") from error


_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    **dict.fromkeys(
        ("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss", "verify_sub",
         "verify_jti"), False
    ),
}  # fmt: skip


def _call(
    claims: Mapping[str, Any],
    details: Mapping[str, Any],
    method: str,
    identifier: str | None,
    issuer: str,
) -> VerifiedCall:
    # With actor_mode gateway the gateway stands in front; the agent is the first that is not it.
    agents = [sub for sub in _actors(claims.get("act")) if sub != issuer]
    if not agents and claims["sub"] != issuer:
        raise InvalidCall("the token names a user but no agent")
    evidence = details.get("evidence")
    return VerifiedCall(
        subject=claims["sub"],
        agent=agents[0] if agents else None,
        prior_agents=tuple(agents[1:]),
        scope=frozenset(claims.get("scope", "").split()),
        txn=claims["txn"],
        jti=claims["jti"],
        method=method,
        identifier=identifier,
        tool=identifier if method == "tools/call" else None,
        evidence=evidence if isinstance(evidence, str) else None,
        exp=claims["exp"],
        claims=MappingProxyType(dict(claims)),
    )


def _actors(act: Any) -> list[str]:
    subs: list[str] = []
    while act is not None:
        sub = act.get("sub") if isinstance(act, dict) else None
        if not isinstance(sub, str) or not sub or len(subs) == MAX_DEPTH:
            raise InvalidCall("act is malformed or nested too deep")
        subs.append(sub)
        act = act.get("act")
    return subs
