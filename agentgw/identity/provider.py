"""One OpenID provider as its relying party sees it: metadata, token endpoint, signed ID tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeVar

import httpx2

from agentgw.errors import UnverifiableToken, UpstreamFailed
from agentgw.identity import jose
from agentgw.identity.authorization_server import ASSERTION_TYPE, ClientAccount
from agentgw.identity.introspection import basic_credentials
from agentgw.identity.jwk import VerifyKey
from agentgw.identity.oidc import IssuerUnusable, answer_json, discover

METADATA_AGE = 300.0
METADATA_LAST = 86_400.0
"""Seconds after which metadata is asked for anew, and after which old metadata is of no use."""
RETRY_AFTER = 5.0
AT_ONCE = 16
ID_TOKEN_LIMIT = 64 * 1024
"""Bytes: an ID token travels in no header, and may list many groups."""

_T = TypeVar("_T")


class KeySource(Protocol):
    """The keys of the provider; oidc.OidcKeys is the one that fetches them."""

    async def find(self, kid: str | None, alg: str) -> VerifyKey: ...


class GenuineToken(NamedTuple):
    """What a JWT says whose signature holds; `typ` and `alg` are its header's."""

    claims: Mapping[str, Any]
    typ: str | None
    alg: str


class OpenIdProvider:
    """The provider `issuer`, of which we are the client `account`. Safe for concurrent use.

    Metadata is kept for five minutes, and through the provider's bad days for one. No redirect is
    followed; an answer may take `deadline` seconds in all and 256 KiB; without `dev` only https URLs of
    other hosts are asked. `client` is shared and stays its owner's; `clock` is monotonic seconds.
    """

    def __init__(
        self,
        issuer: str,
        account: ClientAccount,
        client: httpx2.AsyncClient,
        keys: KeySource,
        *,
        dev: bool = False,
        deadline: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._account = account
        self._client = client
        self._keys = keys
        self._dev = dev
        self._deadline = deadline
        self._clock = clock
        self._metadata: Mapping[str, Any] | None = None
        self._loaded_at = self._failed_at = -METADATA_LAST
        self._problem = ""
        self._one_at_a_time = asyncio.Lock()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def metadata(self) -> Mapping[str, Any]:
        """Its metadata, which names this very issuer (OIDC Discovery 4.3). Raises UpstreamFailed."""
        async with self._one_at_a_time:
            now = self._clock()
            if self._metadata is None or now - self._loaded_at >= METADATA_AGE:
                if now - self._failed_at >= RETRY_AFTER:
                    await self._load()
            if self._metadata is None or now - self._loaded_at >= METADATA_LAST:
                raise UpstreamFailed(self._problem)
            return self._metadata

    async def redeem(self, form: Mapping[str, str]) -> tuple[int, Any]:
        """Send a token request as ourselves; the status and the JSON of the answer. Raises UpstreamFailed."""
        metadata = await self.metadata()
        endpoint = metadata.get("token_endpoint")
        if not isinstance(endpoint, str):
            raise UpstreamFailed("its metadata has no token_endpoint")
        headers, proof = self._authenticate(metadata)
        async with self._turns:
            return await self._told(
                answer_json(
                    self._client,
                    "POST",
                    endpoint,
                    dev=self._dev,
                    deadline=self._deadline,
                    headers=headers,
                    form={**form, **proof},
                    accepted=(200, 400, 401, 403),
                )
            )

    async def id_token(self, token: str) -> GenuineToken:
        """What a JWT says that the provider signed. Raises InvalidToken, UpstreamFailed without its keys."""
        unverified = jose.split(token, ID_TOKEN_LIMIT)
        try:
            key = await self._keys.find(unverified.kid, unverified.alg)
        except UnverifiableToken as error:
            raise UpstreamFailed(error.reason) from None
        jose.verify(unverified, key)
        return GenuineToken(unverified.claims, unverified.typ, unverified.alg)

    async def userinfo(self, access_token: str) -> Any:
        """What it says of the user of an access token (OIDC Core 5.3). Raises UpstreamFailed."""
        endpoint = (await self.metadata()).get("userinfo_endpoint")
        if not isinstance(endpoint, str):
            raise UpstreamFailed("its metadata has no userinfo_endpoint")
        headers = {"authorization": f"Bearer {access_token}"}
        async with self._turns:
            _, said = await self._told(
                answer_json(
                    self._client,
                    "GET",
                    endpoint,
                    dev=self._dev,
                    deadline=self._deadline,
                    headers=headers,
                )
            )
            return said

    async def _load(self) -> None:
        try:
            found = await self._told(
                discover(self._issuer, self._client, self._dev, self._deadline)
            )
        except UpstreamFailed as error:
            self._failed_at, self._problem = self._clock(), error.reason
        else:
            self._metadata, self._loaded_at = found, self._clock()

    async def _told(self, asking: Awaitable[_T]) -> _T:
        """The answer, within the deadline. Raises UpstreamFailed, whatever went wrong."""
        try:
            async with asyncio.timeout(self._deadline):
                return await asking
        except TimeoutError:
            problem = f"it did not answer within {self._deadline:g} seconds"
        except IssuerUnusable as error:
            problem = str(error)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
            problem = f"it cannot be reached ({type(error).__name__})"
        raise UpstreamFailed(problem)

    def _authenticate(self, metadata: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
        """Headers and form parameters that prove us, in a way that the provider knows (RFC 8414 2)."""
        account = self._account
        named = {"client_id": account.client_id}
        if account.assertion is not None:
            return {}, {
                **named,
                "client_assertion_type": ASSERTION_TYPE,
                "client_assertion": account.assertion(),
            }
        if account.secret is None:
            return {}, named
        methods = metadata.get("token_endpoint_auth_methods_supported")
        # Where nothing is said, basic it is (OIDC Discovery section 3).
        known = methods if isinstance(methods, list) else ["client_secret_basic"]
        if "client_secret_post" in known and "client_secret_basic" not in known:
            return {}, {**named, "client_secret": account.secret}
        return {"authorization": basic_credentials(account.client_id, account.secret)}, {}
