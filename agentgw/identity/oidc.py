"""The keys of one OpenID Connect issuer: found by discovery, cached, and kept through its bad days."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2

from agentgw.errors import InvalidToken, UnverifiableToken
from agentgw.identity.jose import strict_json
from agentgw.identity.jwk import UnusableKey, VerifyKey, read_jwk

BODY_LIMIT = 256 * 1024
COOL_DOWN = 30.0
DEADLINE = 3.0
KEYS_LIMIT = 100
# A removed key must be refused within ten minutes; a verified token is remembered for up to five.
REFRESH_AFTER = 240.0
MAX_AGE = 300.0
RETRY_WHILE_EMPTY = 5.0
SETTLED = 1.0


class IssuerUnusable(Exception):
    """The issuer could not be asked, or its answer not be used; the message says why."""


class OidcKeys:
    """The signing keys of one issuer (OpenID Connect Discovery 1.0, RFC 8414, RFC 7517).

    Nothing is fetched before the first `find` or `warm`. One fetch runs at a time. Keys are refreshed
    in the background from `REFRESH_AFTER` seconds of age and before use from `MAX_AGE`; a failed
    fetch keeps the last good set, for `last_resort` seconds in all. An unknown kid asks again, at most once
    per `cool_down` seconds however many are tried, and at once where none was asked for lately. Redirects are
    not followed; an answer may take `deadline` seconds in all and `BODY_LIMIT` bytes.

    `client` is shared and stays its owner's; `clock` is monotonic seconds. Without `dev` only https
    URLs of hosts other than this one are asked.
    """

    def __init__(
        self,
        issuer: str,
        client: httpx2.AsyncClient,
        *,
        jwks_uri: str | None = None,
        dev: bool = False,
        clock: Callable[[], float] = time.monotonic,
        cool_down: float = COOL_DOWN,
        deadline: float = DEADLINE,
        last_resort: float = math.inf,
    ) -> None:
        self._issuer = issuer
        self._client = client
        self._last_resort = last_resort
        self._configured = jwks_uri
        self._jwks_uri = jwks_uri
        self._dev = dev
        self._clock = clock
        self._cool_down = cool_down
        self._deadline = deadline
        self._keys: tuple[VerifyKey, ...] = ()
        self._loaded_at: float | None = None
        self._asked_at = self._searched_at = -math.inf
        self._flight: asyncio.Task[None] | None = None
        self.problem: str | None = "its keys have not been fetched yet"
        """Why the last fetch failed, None while all is well; safe to show to operators."""

    async def find(self, kid: str | None, alg: str) -> VerifyKey:
        """The key a token with header `kid` and `alg` must be verified under.

        A token without kid finds a key only where exactly one fits. Raises InvalidToken where there
        is none or the issuer was never reachable.
        """
        age = None if self._loaded_at is None else self._clock() - self._loaded_at
        if age is None or age >= MAX_AGE:
            await self._refresh()
        elif age >= REFRESH_AFTER:
            self._start()
        if self._loaded_at is not None and self._clock() - self._loaded_at >= self._last_resort:
            self._keys, self._loaded_at = (), None
        key = self._select(kid, alg)
        if key is None:
            await self._refresh(searching=True)
            key = self._select(kid, alg)
        if key is not None:
            return key
        if self._loaded_at is None:
            raise UnverifiableToken(
                f"the keys of the token's issuer are not available: {self.problem}"
            )
        raise InvalidToken("the token was signed with a key that its issuer does not publish")

    async def warm(self) -> str | None:
        """Fetch the keys if there are none yet. Never raises; returns the problem, if any."""
        if self._loaded_at is None:
            await self._refresh()
        return self.problem

    async def aclose(self) -> None:
        """Stop a fetch in flight."""
        if self._flight is not None and not self._flight.done():
            self._flight.cancel()
            await asyncio.wait([self._flight])

    def _select(self, kid: str | None, alg: str) -> VerifyKey | None:
        fitting = [
            key for key in self._keys if alg in key.algorithms and (kid is None or key.kid == kid)
        ]
        # Two keys of one name are a riddle, and guessing is what an attacker would have us do.
        return fitting[0] if len(fitting) == 1 else None

    async def _refresh(self, *, searching: bool = False) -> None:
        flight = self._start(searching)
        if flight is not None:
            # Shielded: a caller who goes away must not take the others' fetch along.
            await asyncio.shield(flight)

    def _start(self, searching: bool = False) -> asyncio.Task[None] | None:
        """A fetch, unless it is too early for one; `searching` for a key that the last one did not bring."""
        if self._flight is not None and not self._flight.done():
            return self._flight
        now = self._clock()
        if now - self._asked_at < self._pause(searching):
            return None
        if searching:
            if now - self._searched_at < self._cool_down:
                return None
            self._searched_at = now
        self._asked_at = now
        self._flight = asyncio.create_task(self._fetch())
        return self._flight

    def _pause(self, searching: bool) -> float:
        """Seconds between two fetches. A key may be new since the last one, however it came about."""
        if self._loaded_at is None:
            return min(self._cool_down, RETRY_WHILE_EMPTY)
        return SETTLED if searching else self._cool_down

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                if self._jwks_uri is None:
                    self._jwks_uri = await self._discover()
                self._keys = read_key_set(await self._get(self._jwks_uri))
        except TimeoutError:
            self._failed(f"it did not answer within {self._deadline:g} seconds")
        except IssuerUnusable as error:
            self._failed(str(error))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
            self._failed(f"it cannot be reached ({type(error).__name__})")
        else:
            self._loaded_at = self._clock()
            self.problem = None

    def _failed(self, problem: str) -> None:
        self.problem = problem
        # The keys may have moved: ask discovery again next time.
        self._jwks_uri = self._configured

    async def _discover(self) -> str:
        document = await discover(self._issuer, self._client, self._dev, self._deadline)
        jwks_uri = document.get("jwks_uri")
        if not isinstance(jwks_uri, str):
            raise IssuerUnusable("its discovery document has no jwks_uri")
        return jwks_uri

    async def _get(self, url: str) -> Any:
        return await ask_json(self._client, "GET", url, dev=self._dev, deadline=self._deadline)


async def discover(
    issuer: str, client: httpx2.AsyncClient, dev: bool, deadline: float
) -> Mapping[str, Any]:
    """The issuer's metadata document (OpenID Connect Discovery 1.0, RFC 8414). Raises IssuerUnusable."""
    problem = IssuerUnusable("it has no discovery document")
    for url in well_known_urls(issuer):
        try:
            document = await ask_json(client, "GET", url, dev=dev, deadline=deadline)
        except IssuerUnusable as error:
            problem = error
            continue
        if isinstance(document, dict) and document.get("issuer") == issuer:
            return document
        problem = IssuerUnusable("its discovery document names another issuer")
    raise problem


async def ask_json(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    dev: bool,
    deadline: float,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
) -> Any:
    """The JSON an issuer answers at `url`, strictly parsed, of `BODY_LIMIT` bytes at most.

    `deadline` is seconds per step of the connection. Raises IssuerUnusable, or what httpx2 raises.
    """
    _, document = await answer_json(
        client, method, url, dev=dev, deadline=deadline, headers=headers, form=form
    )
    return document


async def answer_json(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    dev: bool,
    deadline: float,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    accepted: Collection[int] = (200,),
) -> tuple[int, Any]:
    """As `ask_json`, with the status, which is one of `accepted`."""
    check_url(url, dev)
    # Uncompressed, so that the size limit counts what we would hold.
    sent = {"accept": "application/json", "accept-encoding": "identity", **(headers or {})}
    body = bytearray()
    async with client.stream(
        method, url, headers=sent, data=form, follow_redirects=False, timeout=deadline
    ) as response:
        if response.status_code not in accepted:
            raise IssuerUnusable(f"it answered {response.status_code}")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise IssuerUnusable("it compressed an answer that was to be plain")
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > BODY_LIMIT:
                raise IssuerUnusable(f"its answer is larger than {BODY_LIMIT} bytes")
    try:
        return response.status_code, strict_json(bytes(body), 24, "issuer's document")
    except InvalidToken:
        raise IssuerUnusable("its answer is not JSON") from None


def read_key_set(document: Any) -> tuple[VerifyKey, ...]:
    """The usable keys of a JWK Set (RFC 7517 section 5); unusable members are skipped.

    Raises IssuerUnusable where it is no JWK Set or holds no usable key: an empty set must not replace
    a good one.
    """
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise IssuerUnusable("its answer is not a JWK Set")
    keys: list[VerifyKey] = []
    for member in members[:KEYS_LIMIT]:
        if isinstance(member, dict):
            try:
                keys.append(read_jwk(member))
            except UnusableKey:
                continue
    if not keys:
        raise IssuerUnusable("its JWK Set holds no key we may use")
    return tuple(keys)


def well_known_urls(issuer: str) -> tuple[str, ...]:
    """Where an issuer's metadata may lie, in the order to ask (OIDC Discovery 4.1, RFC 8414 3.1)."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    root = f"{parts.scheme}://{parts.netloc}"
    urls = (
        f"{root}{path}/.well-known/openid-configuration",
        f"{root}/.well-known/oauth-authorization-server{path}",
        f"{root}/.well-known/openid-configuration{path}",
    )
    return tuple(dict.fromkeys(urls))


def check_url(url: str, dev: bool) -> None:
    """Refuse URLs we must not ask: not https, with user names, or of this host unless `dev`.

    Raises IssuerUnusable.
    """
    try:
        parts = urlsplit(url)
        host, user = parts.hostname, parts.username
    except ValueError:
        raise IssuerUnusable("its URL cannot be read") from None
    if not host or user is not None or parts.scheme not in ("https", "http"):
        raise IssuerUnusable("its URL is not an https URL without user name")
    if dev:
        return
    if parts.scheme != "https":
        raise IssuerUnusable("its URL is not https, which only dev: true permits")
    if _is_local(host):
        raise IssuerUnusable("its URL points at this host, which only dev: true permits")


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_link_local or address.is_unspecified
