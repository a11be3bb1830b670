"""The trust bundle of one SPIFFE trust domain: from a file or its bundle endpoint, kept fresh.

SPIFFE Trust Domain and Bundle, section 4: a JWK Set whose members say by `use` what they verify.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from cryptography import x509

from agentgw.errors import InvalidToken
from agentgw.identity.jose import strict_json
from agentgw.identity.jwk import UnusableKey, VerifyKey, read_jwk
from agentgw.identity.oidc import BODY_LIMIT, KEYS_LIMIT, IssuerUnusable, ask_json

REFRESH_SECONDS = 300.0
"""Between two looks at a bundle endpoint that gives no hint; a hint counts from MIN to MAX."""

MIN_REFRESH, MAX_REFRESH = 10.0, 3600.0
RETRY_SECONDS = 30.0
COOL_DOWN = 10.0
FILE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one bundle document says. `refresh` is its hint in seconds, None without one."""

    certificates: tuple[x509.Certificate, ...] = ()
    keys: Mapping[str, VerifyKey] = field(default_factory=dict)
    refresh: float | None = None


class SpiffeBundle:
    """The bundle of a trust domain; `source` is a file or an https URL.

    Nothing is read before the first `refresh`, which its owner calls every few seconds. A bundle that
    cannot be had or used keeps the last good one; `problem` then says why, None while all is well. An
    unknown key asks again, once in `COOL_DOWN` seconds however many are tried.

    `client` stays its owner's; `clock` is monotonic seconds.
    """

    def __init__(
        self,
        source: Path | str,
        client: httpx2.AsyncClient,
        *,
        dev: bool = False,
        clock: Callable[[], float] = time.monotonic,
        deadline: float = 3.0,
    ) -> None:
        self._source = source
        self._client = client
        self._dev = dev
        self._clock = clock
        self._deadline = deadline
        self._bundle = Bundle()
        self._due = float("-inf")
        self._asked = float("-inf")
        self._lock = asyncio.Lock()
        self.problem: str | None = "its bundle has not been read yet"

    @property
    def certificates(self) -> tuple[x509.Certificate, ...]:
        """The authorities of the domain's X.509-SVIDs."""
        return self._bundle.certificates

    async def find(self, kid: str) -> VerifyKey:
        """The key of the domain's JWT-SVIDs under `kid`. Raises InvalidToken."""
        if kid not in self._bundle.keys and self._clock() - self._asked >= COOL_DOWN:
            await self.refresh(now=True)
        key = self._bundle.keys.get(kid)
        if key is None:
            raise InvalidToken("it was signed with a key that its trust domain does not publish")
        return key

    async def refresh(self, now: bool = False) -> bool:
        """Read the bundle if it is time to, or `now`. True where its authorities changed; never fails."""
        before = self._bundle.certificates
        asked = self._asked
        async with self._lock:
            if self._clock() < self._due and not (now and self._asked == asked):
                return False
            await self._read()
        return self._bundle.certificates != before

    async def _read(self) -> None:
        self._asked = self._clock()
        self._due = self._asked + RETRY_SECONDS
        try:
            async with asyncio.timeout(self._deadline):
                self._bundle = read_bundle(await self._document())
        except TimeoutError:
            self.problem = f"it did not answer within {self._deadline:g} seconds"
        except IssuerUnusable as error:
            self.problem = str(error)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
            self.problem = f"it cannot be had ({type(error).__name__})"
        else:
            self.problem = None
            hint = self._bundle.refresh or REFRESH_SECONDS
            wait = FILE_SECONDS if isinstance(self._source, Path) else hint
            self._due = self._asked + min(max(wait, MIN_REFRESH), MAX_REFRESH)

    async def _document(self) -> Any:
        if isinstance(self._source, str):
            url = self._source
            return await ask_json(self._client, "GET", url, dev=self._dev, deadline=self._deadline)
        return await asyncio.to_thread(_read_file, self._source)


def read_bundle(document: Any) -> Bundle:
    """What a bundle document holds; members of unknown use and unusable ones are skipped.

    Raises IssuerUnusable where nothing usable is left: an empty bundle must not replace a good one.
    """
    members = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(members, list):
        raise IssuerUnusable("it is no SPIFFE bundle (a JWK Set)")
    certificates: list[x509.Certificate] = []
    keys: dict[str, VerifyKey] = {}
    for member in members[:KEYS_LIMIT]:
        use = member.get("use") if isinstance(member, dict) else None
        if use == "x509-svid" and (certificate := _certificate(member)) is not None:
            certificates.append(certificate)
        elif use == "jwt-svid" and isinstance(kid := member.get("kid"), str) and kid not in keys:
            try:
                keys[kid] = read_jwk({**member, "use": "sig"})
            except UnusableKey:
                continue
    if not certificates and not keys:
        raise IssuerUnusable("its bundle holds no key we may use")
    hint = document.get("spiffe_refresh_hint")
    return Bundle(tuple(certificates), keys, float(hint) if type(hint) is int else None)


def _certificate(member: Mapping[str, Any]) -> x509.Certificate | None:
    """The one authority in `x5c`, None where there is not exactly one."""
    chain = member.get("x5c")
    if not isinstance(chain, list) or len(chain) != 1 or not isinstance(chain[0], str):
        return None
    try:
        return x509.load_der_x509_certificate(base64.b64decode(chain[0], validate=True))
    except (ValueError, binascii.Error):
        return None


def _read_file(path: Path) -> Any:
    with path.open("rb") as file:
        data = file.read(BODY_LIMIT + 1)
    if len(data) > BODY_LIMIT:
        raise IssuerUnusable(f"it is larger than {BODY_LIMIT} bytes")
    try:
        return strict_json(data, 24, "bundle")
    except InvalidToken:
        raise IssuerUnusable("it is not JSON") from None
