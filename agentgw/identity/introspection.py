"""What an issuer says of a token that we cannot read ourselves: an RFC 7662 client with a short memory."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import httpx2

from agentgw.core.introspected import active_claims
from agentgw.core.recent import remember
from agentgw.errors import InvalidToken, UnverifiableToken
from agentgw.identity.oidc import DEADLINE, IssuerUnusable, ask_json, discover

MEMORY = 60.0
"""Seconds an answer may be used: how long a token revoked at its issuer may go on here."""

INACTIVE_MEMORY = 5.0
CACHE_SIZE = 10_000
AT_ONCE = 16
WAITING = 1_000


@dataclass(frozen=True, slots=True)
class Introspected:
    """The claims of an active token, and until when (Unix seconds) they may be used."""

    claims: Mapping[str, Any]
    until: float


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What one request brought: an active token, an inactive one (both None), or a problem."""

    found: Introspected | None = None
    problem: str | None = None


class Introspection:
    """Asks one issuer about tokens (RFC 7662), each token once a minute at most.

    `client_id` and `client_secret` are ours at that issuer, `endpoint` its introspection endpoint (None:
    its metadata names it). Answers are kept by the SHA-256 of the whole token: active ones for `MEMORY`
    seconds or to the token's `exp`, inactive ones for `INACTIVE_MEMORY`; problems are not kept. One request
    runs per token, `AT_ONCE` in all; each may take `deadline` seconds, the wait for its turn included.
    Without an answer there is no access.

    `client` is shared and stays its owner's. Without `dev` only https URLs of other hosts are asked.
    """

    def __init__(
        self,
        issuer: str,
        client: httpx2.AsyncClient,
        client_id: str,
        client_secret: str,
        *,
        endpoint: str | None = None,
        dev: bool = False,
        deadline: float = DEADLINE,
    ) -> None:
        self._issuer = issuer
        self._client = client
        self._headers = {"authorization": basic_credentials(client_id, client_secret)}
        self._configured = endpoint
        self._endpoint = endpoint
        self._dev = dev
        self._deadline = deadline
        self._active: OrderedDict[bytes, Introspected] = OrderedDict()
        self._inactive: OrderedDict[bytes, float] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[_Outcome]] = {}
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def ask(self, token: bytes, now: float) -> Introspected:
        """What the issuer says of `token` at Unix time `now`, lately or just now.

        Raises InvalidToken where it is not active, UnverifiableToken where nobody can tell now.
        """
        key = hashlib.sha256(token).digest()
        known = self._active.get(key)
        if known is not None and now < known.until:
            self._active.move_to_end(key)
            return known
        if now < self._inactive.get(key, 0.0):
            raise _inactive()
        # Shielded: a caller who goes away must not take the others' answer along.
        outcome = await asyncio.shield(self._flight(key, token, now))
        if outcome.problem is not None:
            raise UnverifiableToken(
                f"the token's issuer could not be asked about it: {outcome.problem}"
            )
        if outcome.found is None:
            raise _inactive()
        return outcome.found

    def _flight(self, key: bytes, token: bytes, now: float) -> asyncio.Task[_Outcome]:
        flight = self._flights.get(key)
        if flight is not None:
            return flight
        if len(self._flights) >= WAITING:
            raise UnverifiableToken("the token's issuer could not be asked about it: too many wait")
        flight = asyncio.create_task(self._ask(key, token, now))
        self._flights[key] = flight
        flight.add_done_callback(lambda _: self._flights.pop(key, None))
        return flight

    async def _ask(self, key: bytes, token: bytes, now: float) -> _Outcome:
        try:
            async with asyncio.timeout(self._deadline), self._turns:
                claims = active_claims(await self._request(token), self._issuer)
        except TimeoutError:
            return self._failed(f"it did not answer within {self._deadline:g} seconds")
        except IssuerUnusable as error:
            return self._failed(str(error))
        except InvalidToken as error:
            return self._failed(error.reason)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
            return self._failed(f"it cannot be reached ({type(error).__name__})")
        if claims is None:
            remember(self._inactive, key, now + INACTIVE_MEMORY, CACHE_SIZE)
            return _Outcome()
        exp = claims.get("exp")
        until = min(now + MEMORY, exp) if type(exp) is int else now + MEMORY
        found = Introspected(MappingProxyType(dict(claims)), until)
        remember(self._active, key, found, CACHE_SIZE)
        return _Outcome(found)

    async def _request(self, token: bytes) -> Any:
        if self._endpoint is None:
            document = await discover(self._issuer, self._client, self._dev, self._deadline)
            endpoint = document.get("introspection_endpoint")
            if not isinstance(endpoint, str):
                raise IssuerUnusable("its discovery document has no introspection_endpoint")
            self._endpoint = endpoint
        return await ask_json(
            self._client,
            "POST",
            self._endpoint,
            dev=self._dev,
            deadline=self._deadline,
            headers=self._headers,
            form={"token": token.decode("ascii"), "token_type_hint": "access_token"},
        )

    def _failed(self, problem: str) -> _Outcome:
        # The endpoint may have moved: ask the metadata again next time.
        self._endpoint = self._configured
        return _Outcome(problem=problem)


def _inactive() -> InvalidToken:
    return InvalidToken("the token's issuer says that it is not active")


def basic_credentials(client_id: str, client_secret: str) -> str:
    """The Authorization value of HTTP Basic, both parts form-encoded (RFC 6749 section 2.3.1)."""
    pair = f"{quote(client_id, safe='')}:{quote(client_secret, safe='')}"
    return "Basic " + base64.b64encode(pair.encode("ascii")).decode("ascii")
