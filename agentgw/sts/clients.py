"""Which agent stands at the token endpoint: client authentication (RFC 6749 section 2.3)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus

from agentgw.core.certificate import ClientCertificate
from agentgw.core.exchange_rules import ActorToken
from agentgw.errors import InvalidToken, OAuthError
from agentgw.sts.client_auth.api_key import is_one_of
from agentgw.sts.client_auth.assertion import (
    ASSERTION_ALGORITHMS,
    ASSERTION_TYPE,
    Assertion,
    AssertionCheck,
    ReplayStore,
)
from agentgw.sts.client_auth.certificate import (
    SELF_SIGNED,
    TLS_CLIENT_AUTH,
    CertificateCheck,
    CertificateSubject,
    RegisteredKeys,
)
from agentgw.sts.client_auth.spiffe import (
    SPIFFE_ASSERTION_TYPE,
    SPIFFE_JWT,
    SPIFFE_X509,
    SpiffeCheck,
)

__all__ = [
    "ASSERTION_ALGORITHMS",
    "ASSERTION_TYPE",
    "METHODS",
    "AuthenticatedClient",
    "Client",
    "ClientAuthenticator",
]

METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt")
"""The methods that work whatever is configured; those by certificate need an authority or a key."""


@dataclass(frozen=True, slots=True)
class Client:
    """An agent's credentials, of one kind or several.

    `keys` are whatever the assertion verifier takes; each may have a `kid`. `subject` says which
    certificate of a configured authority is the agent's, `registered` which it registered itself,
    `api_keys` are digests, `spiffe_id` is the workload that the agent is.
    """

    agent: str
    secret: str | None = field(default=None, repr=False)
    keys: tuple[Any, ...] = ()
    subject: CertificateSubject | None = None
    registered: RegisteredKeys | None = None
    api_keys: tuple[str, ...] = ()
    spiffe_id: str | None = None


@dataclass(frozen=True, slots=True)
class AuthenticatedClient:
    """An agent that proved itself: by which method, and the evidence its hop gets for that.

    `method` is one of those of the metadata, or `api_key` for a client secret that is one; it is `none` for
    a public client, which has proven nothing. `client_id` is None where it is the agent's name.
    """

    agent: str
    method: str
    evidence: str = "exchange"
    client_id: str | None = None

    @property
    def id(self) -> str:
        """Its `client_id`."""
        return self.client_id or self.agent

    @property
    def is_stranger(self) -> bool:
        """Whether anybody can be such a client: a user let it in, and no operator knows it."""
        return self.evidence == "consent"


class ClientAuthenticator:
    """Authenticates clients whose `client_id` is the agent's name.

    `clients` gives the credentials by agent name as configured now. `split(token)` takes a JWT apart
    and `verify(unverified, key)` checks its signature; both raise InvalidToken. `clock` gives Unix
    seconds. `issuer` is the one audience an assertion may have. Without `certificates` none counts,
    and without `spiffe` no workload does.
    """

    def __init__(
        self,
        clients: Callable[[], Mapping[str, Client]],
        issuer: str,
        *,
        split: Callable[[str], Assertion],
        verify: Callable[[Any, Any], None],
        used: ReplayStore,
        clock: Callable[[], float],
        certificates: CertificateCheck | None = None,
        spiffe: SpiffeCheck | None = None,
    ) -> None:
        self._clients = clients
        self._split = split
        self._assertions = AssertionCheck(issuer, verify, used, clock)
        self._certificates = certificates
        self._spiffe = spiffe

    async def authenticate(
        self,
        authorization: str | None,
        form: Mapping[str, str],
        certificate: ClientCertificate | None = None,
    ) -> AuthenticatedClient:
        """The one agent that the `Authorization` value, the form parameters or, where they hold no
        credentials, the connection's certificate prove.

        Raises OAuthError: invalid_request for more than one method, else invalid_client (401).
        Raises Unavailable when a used assertion cannot be remembered.
        """
        try:
            return await self._authenticate(authorization, form, certificate)
        except OAuthError as error:
            error.claimed = self._claimed(authorization, form)
            raise

    async def _authenticate(
        self,
        authorization: str | None,
        form: Mapping[str, str],
        certificate: ClientCertificate | None,
    ) -> AuthenticatedClient:
        in_body = "client_secret" in form
        by_assertion = "client_assertion" in form or "client_assertion_type" in form
        if (authorization is not None) + in_body + by_assertion > 1:
            raise OAuthError("invalid_request", "authenticate with one method, not several")
        if by_assertion:
            return await self._by_assertion(form)
        if authorization is not None:
            name, secret = _basic(authorization)
            if form.get("client_id", name) != name:
                raise OAuthError("invalid_request", "client_id names another client")
            return self._by_secret(name, secret, "client_secret_basic")
        if in_body:
            return self._by_secret(form.get("client_id", ""), form["client_secret"], METHODS[1])
        if certificate is not None:
            return self._by_certificate(form.get("client_id"), certificate)
        raise _invalid_client(
            "this endpoint needs an authenticated client; public ones get nothing"
        )

    def _claimed(self, authorization: str | None, form: Mapping[str, str]) -> str | None:
        """The client that a request names, whether it comes from that one or not."""
        with suppress(OAuthError, InvalidToken):
            if authorization is not None:
                return _basic(authorization)[0]
            if "client_assertion" in form:
                sub = self._split(form["client_assertion"]).claims.get("sub")
                return sub if isinstance(sub, str) else None
        return form.get("client_id")

    async def prove_actor(self, token: str) -> ActorToken:
        """The agent whose client assertion an actor_token is: as strict as any, and serving once.

        Raises OAuthError invalid_request (RFC 8693 section 2.2.2), or Unavailable.
        """
        form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": token}
        try:
            proven = await self._by_assertion(form)
        except OAuthError as error:
            description = f"the actor_token was refused: {error.description}"
            raise OAuthError("invalid_request", description) from None
        claims = self._split(token).claims
        return ActorToken(proven.agent, claims["exp"], "act" in claims or "may_act" in claims)

    def _by_secret(self, name: str, secret: str, method: str) -> AuthenticatedClient:
        client = self._clients().get(name)
        if client is not None and is_one_of(secret, client.api_keys):
            return AuthenticatedClient(name, "api_key")
        kept = None if client is None else client.secret
        # Digests have one length, so the comparison tells nothing of the secret's.
        same = hmac.compare_digest(_hash(secret), _hash(kept or ""))
        if not kept or not same:
            raise _invalid_client("the client or its secret is unknown")
        return AuthenticatedClient(name, method)

    async def _by_assertion(self, form: Mapping[str, str]) -> AuthenticatedClient:
        kind = form.get("client_assertion_type")
        if kind not in (ASSERTION_TYPE, SPIFFE_ASSERTION_TYPE):
            raise OAuthError("invalid_request", f"client_assertion_type must be {ASSERTION_TYPE}")
        if "client_assertion" not in form:
            raise OAuthError("invalid_request", "client_assertion is missing")
        try:
            assertion = self._split(form["client_assertion"])
            if kind == SPIFFE_ASSERTION_TYPE:
                return await self._by_svid(assertion, form.get("client_id"))
            client = self._named_by(assertion, form.get("client_id"))
            await self._assertions.check(assertion, client.agent, client.keys)
        except InvalidToken as error:
            raise _invalid_client(f"the client_assertion was refused: {error.reason}") from None
        return AuthenticatedClient(client.agent, "private_key_jwt")

    def _named_by(self, assertion: Assertion, client_id: str | None) -> Client:
        sub, iss = assertion.claims.get("sub"), assertion.claims.get("iss")
        if not isinstance(sub, str) or iss != sub or client_id not in (None, sub):
            raise InvalidToken("iss, sub and client_id are not one and the same client")
        client = self._clients().get(sub)
        if client is None or not client.keys:
            raise InvalidToken("no keys are registered for this client")
        return client

    async def _by_svid(self, svid: Assertion, client_id: str | None) -> AuthenticatedClient:
        client = self._workload(svid.claims.get("sub"))
        if client is None or client.spiffe_id is None or self._spiffe is None:
            raise InvalidToken("sub is no SPIFFE ID that is registered here")
        if client_id not in (None, client.agent, client.spiffe_id):
            raise InvalidToken("client_id names another client than sub")
        await self._spiffe.by_jwt(svid, client.spiffe_id)
        return AuthenticatedClient(client.agent, SPIFFE_JWT)

    def _workload(self, spiffe_id: object) -> Client | None:
        found = (client for client in self._clients().values() if client.spiffe_id == spiffe_id)
        return None if spiffe_id is None else next(found, None)

    def _by_certificate(
        self, client_id: str | None, certificate: ClientCertificate
    ) -> AuthenticatedClient:
        if client_id is None:
            raise _invalid_client("send client_id: a certificate alone names no client")
        client = self._clients().get(client_id) or self._workload(client_id)
        if client is None:
            raise _invalid_client("the client is unknown, or its certificate is")
        try:
            return AuthenticatedClient(client.agent, self.method_of(client, certificate), "mtls")
        except InvalidToken as error:
            raise _invalid_client(f"the certificate was refused: {error.reason}") from None

    def proves(self, agent: str, certificate: ClientCertificate) -> None:
        """`certificate` is that of the agent, by one of its ways. Raises InvalidToken."""
        client = self._clients().get(agent)
        if client is None:
            raise InvalidToken("this client does not authenticate at all")
        self.method_of(client, certificate)

    def method_of(self, client: Client, certificate: ClientCertificate) -> str:
        """The method by which `certificate` proves that its holder is `client`. Raises InvalidToken."""
        failure = InvalidToken("this client does not authenticate with a certificate")
        for method, check in self._certificate_checks(client, certificate):
            try:
                check()
            except InvalidToken as error:
                failure = error
            else:
                return method
        raise failure

    def _certificate_checks(
        self, client: Client, shown: ClientCertificate
    ) -> Iterator[tuple[str, Callable[[], None]]]:
        """The ways in which this client may use a certificate; each check raises InvalidToken."""
        judge, spiffe = self._certificates, self._spiffe
        registered, subject, workload = client.registered, client.subject, client.spiffe_id
        if judge is not None and registered is not None:
            yield SELF_SIGNED, lambda: judge.by_registration(shown, registered)
        if judge is not None and subject is not None:
            yield TLS_CLIENT_AUTH, lambda: judge.by_subject(shown, subject)
        if spiffe is not None and workload is not None:
            yield SPIFFE_X509, lambda: spiffe.by_certificate(shown, workload)


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise _invalid_client("the one Authorization scheme here is Basic")
    try:
        pair = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
        name, colon, secret = pair.partition(":")
        name, secret = unquote_plus(name, errors="strict"), unquote_plus(secret, errors="strict")
    except (binascii.Error, ValueError):
        raise _invalid_client("the Basic credentials cannot be read") from None
    if not colon:
        raise _invalid_client("the Basic credentials hold no colon")
    return name, secret


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _invalid_client(description: str) -> OAuthError:
    return OAuthError("invalid_client", description, status=401)
