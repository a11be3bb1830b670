"""The endpoints of the authorization server, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from starlette.routing import Route

from agentgw.core.certificate import ClientCertificate
from agentgw.core.exchange import ExchangeRules
from agentgw.core.login_grants import LOGIN_GRANTS
from agentgw.core.principal import Issued
from agentgw.core.recorder import Recorder
from agentgw.core.revocation import Revoked
from agentgw.http.account import Logins
from agentgw.http.client_request import ClientRequests, Clients
from agentgw.http.device import DeviceFlow
from agentgw.http.introspection import IntrospectionEndpoint
from agentgw.http.issuing import ActorTokens, IssuedTokens, Issuing
from agentgw.http.login_grants import LoginGrants
from agentgw.http.metadata import AuthorizationServerMetadata
from agentgw.http.possession import Possession
from agentgw.http.public_clients import LoginClients, Unproven, WithPublicClients
from agentgw.http.pushed import PushedRequests
from agentgw.http.registration import RegistrationEndpoint, Registry
from agentgw.http.request import CountRefusal, Networks, Scope
from agentgw.http.revocation import RevocationEndpoint
from agentgw.http.subject_tokens import Children, SubjectTokens
from agentgw.http.token_endpoint import TokenEndpoint
from agentgw.identity.verifier import TokenVerifier
from agentgw.registry.hourly import Hourly
from agentgw.registry.one_time import OneTime
from agentgw.registry.refresh_tokens import RefreshTokens
from agentgw.registry.revocations import Revocations
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter

Today = Callable[[Issued], Awaitable[Issued]]


class Credentials(Clients, ActorTokens, Protocol):
    """What tells agents apart: by a whole request, or by an actor_token."""


class Entries(IssuedTokens, Children, Logins, Protocol):
    """The ledger."""

    async def find(self, jti: str) -> Issued | None:
        """What was issued under `jti`, or None. Raises Unavailable."""


class KnownClients(LoginClients, Registry, Protocol):
    """The clients that may send users here, and where new ones register."""

    @property
    def reads_documents(self) -> bool:
        """Whether a client may be known by a document at its `client_id`."""


class AuthorizationServer(NamedTuple):
    """`routes` are to be mounted at the root; `issuing` serves whoever needs a token without them."""

    routes: list[Route]
    issuing: Issuing


@dataclass(frozen=True, slots=True)
class Parts:
    """What the authorization server of `issuer` is made of.

    `verifier`, `rules`, `possession` and `auth_methods` give what is in use now, as reloads swap it.
    `spend(jti, exp)` is true the first time only, for all workers. `append` makes a record durable or
    raises Unavailable. `refresh_life` gives how long a refresh token may lie unused and `longest_login` for
    how long anything may come of a sign-in, both in seconds; `clock` gives Unix seconds.
    """

    issuer: str
    keyring: KeyRing
    minter: Minter
    clients: Credentials
    ledger: Entries
    spend: Callable[[str, int], bool]
    one_time: OneTime
    hourly: Hourly
    refresh_tokens: RefreshTokens
    login_clients: KnownClients
    refresh_life: Callable[[], int]
    longest_login: Callable[[], int]
    store: Revocations
    refresh: Callable[[], Awaitable[None]]
    revoked: Revoked
    verifier: Callable[[], TokenVerifier]
    rules: Callable[[], ExchangeRules]
    possession: Callable[[], Possession]
    auth_methods: Callable[[], Sequence[str]]
    recorder: Recorder
    clock: Callable[[], float]
    refused: CountRefusal
    trusted_proxies: Networks = ()
    certificate_of: Callable[[Scope], ClientCertificate | None] = lambda scope: None
    max_in_flight: int = 64


def authorization_server(parts: Parts, today: Today) -> AuthorizationServer:
    """Token endpoint, revocation, introspection, keys and metadata.

    `today` gives a login for who its user is by now; see `LoginGrants`.
    """
    requests = _requests(parts, parts.clients)
    issuing = Issuing(
        subjects=SubjectTokens(parts.verifier, parts.ledger, parts.spend, parts.clock),
        actors=parts.clients,
        ledger=parts.ledger,
        signer=parts.minter,
        revoked=parts.revoked,
        rules=parts.rules,
        recorder=parts.recorder,
        clock=parts.clock,
    )
    token, pushed, device = _login_faces(parts, issuing, today)
    metadata = AuthorizationServerMetadata(
        parts.issuer,
        parts.keyring,
        token.grant_types,
        parts.auth_methods,
        lambda: parts.possession().metadata,
        lambda: bool(parts.rules().let_in),
        lambda: _ways_in(parts),
    )
    tokens = (_revocation(parts), _introspection(parts, requests))
    faces = (token, pushed, device, _registration(parts), *tokens, metadata)
    return AuthorizationServer([route for face in faces for route in face.routes()], issuing)


def _login_faces(
    parts: Parts, issuing: Issuing, today: Today
) -> tuple[TokenEndpoint, PushedRequests, DeviceFlow]:
    """The token endpoint, and where clients ask before their user does: public clients too."""
    pushed, device = _before_login(parts)
    token = TokenEndpoint(
        requests=_requests(
            parts, WithPublicClients(parts.clients, parts.login_clients, LOGIN_GRANTS)
        ),
        issuing=issuing,
        logins=LoginGrants(
            issuing=issuing,
            codes=parts.one_time,
            tokens=parts.refresh_tokens,
            devices=device,
            login=parts.ledger.find,
            today=today,
            end=_ending(parts),
            revoked=parts.revoked,
            issuer=parts.issuer,
            life=parts.refresh_life,
            clock=parts.clock,
        ),
        signer=parts.minter,
        rules=parts.rules,
        possession=parts.possession,
        clock=parts.clock,
    )
    return token, pushed, device


def _before_login(parts: Parts) -> tuple[PushedRequests, DeviceFlow]:
    """Where clients ask before their user does, public ones too."""
    anyone = _requests(parts, WithPublicClients(parts.clients, parts.login_clients))
    unproven = Unproven(parts.hourly, parts.clock)
    pushed = PushedRequests(
        requests=anyone,
        clients=parts.login_clients,
        kept=parts.one_time,
        rules=parts.rules,
        possession=parts.possession,
        unproven=unproven,
        clock=parts.clock,
    )
    device = DeviceFlow(
        requests=anyone,
        clients=parts.login_clients,
        kept=parts.one_time,
        rules=parts.rules,
        unproven=unproven,
        clock=parts.clock,
    )
    return pushed, device


def _revocation(parts: Parts) -> RevocationEndpoint:
    return RevocationEndpoint(
        requests=_requests(parts, WithPublicClients(parts.clients, parts.login_clients)),
        verifier=parts.verifier,
        store=parts.store,
        refresh_tokens=parts.refresh_tokens,
        login=parts.ledger.find,
        refresh=parts.refresh,
        rules=parts.rules,
        recorder=parts.recorder,
        clock=parts.clock,
    )


def _introspection(parts: Parts, requests: ClientRequests) -> IntrospectionEndpoint:
    return IntrospectionEndpoint(
        requests=requests,
        verifier=parts.verifier,
        revoked=parts.revoked,
        rules=parts.rules,
        signer=parts.minter,
        recorder=parts.recorder,
        clock=parts.clock,
    )


def _registration(parts: Parts) -> RegistrationEndpoint:
    return RegistrationEndpoint(
        parts.login_clients,
        counts=parts.hourly,
        recorder=parts.recorder,
        clock=parts.clock,
        refused=parts.refused,
        trusted_proxies=parts.trusted_proxies,
    )


def _ways_in(parts: Parts) -> Mapping[str, object]:
    """What the metadata says to clients that the operator does not name (RFC 7591, CIMD)."""
    found: dict[str, object] = {}
    if parts.login_clients.reads_documents:
        found["client_id_metadata_document_supported"] = True
    if parts.login_clients.agent is not None:
        found["registration_endpoint"] = f"{parts.issuer}/oauth/register"
    return found


def _requests(parts: Parts, clients: Clients) -> ClientRequests:
    return ClientRequests(
        clients,
        parts.recorder.new_id,
        parts.refused,
        parts.trusted_proxies,
        parts.certificate_of,
        parts.max_in_flight,
    )


def _ending(parts: Parts) -> Callable[[str], Awaitable[None]]:
    """What takes a login or a sign-in back, and all that came of it."""

    async def end(key: str) -> None:
        until = int(parts.clock()) + parts.longest_login()
        await asyncio.to_thread(parts.store.revoke_token, key, until)
        await parts.refresh()

    return end
