"""The pages where users let agents in, put together."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from starlette.routing import Route

from agentgw.app import convert
from agentgw.app.authorization_server import Parts
from agentgw.config.model import Config
from agentgw.core.offer import Offer, within_reach
from agentgw.core.principal import Caller
from agentgw.gateway.offer import offer
from agentgw.gateway.surroundings import Surroundings
from agentgw.http.authorize import AuthorizationEndpoint
from agentgw.http.browser import Browser
from agentgw.http.consenting import Consenting
from agentgw.http.device_page import DevicePage
from agentgw.http.seal import Seal
from agentgw.policy.grants import GrantsPolicy
from agentgw.registry.consents import Consents


def consent_pages(
    parts: Parts,
    browser: Browser,
    consents: Consents,
    *,
    config: Callable[[], Config],
    here: Callable[[], Surroundings],
    policy: Callable[[], GrantsPolicy],
) -> list[Route]:
    """The authorization endpoint and the page for devices.

    `config`, `here` and `policy` give what is in use now.
    """

    async def offered(caller: Caller, resource: str) -> Offer:
        name, agent = convert.server_of(config(), resource), caller.chain[0].agent or ""
        reached = [
            server
            for server in here().servers
            if name in (None, server) and policy().offers(caller, server)
        ]
        return await offer(here(), caller, reached, within_reach(agent, parts.rules().agents))

    seal = Seal(parts.keyring.secret("cookies"), secrets.token_bytes)
    consenting = Consenting(
        offer=offered,
        scopes=lambda resource: convert.scopes_of(config(), convert.server_of(config(), resource)),
        remembered=consents,
        ledger=parts.ledger,
        revoked=parts.revoked,
        rules=parts.rules,
        longest=lambda: convert.consent_life(config()),
        max_age=lambda: convert.recheck_bounds(config()).max_age,
        recorder=parts.recorder,
        clock=parts.clock,
        trusted_proxies=parts.trusted_proxies,
    )
    authorize = AuthorizationEndpoint(
        browser,
        seal,
        clients=parts.login_clients,
        kept=parts.one_time,
        consenting=consenting,
        rules=parts.rules,
        refused=parts.refused,
        clock=parts.clock,
        trusted_proxies=parts.trusted_proxies,
    )
    device = DevicePage(
        browser,
        seal,
        clients=parts.login_clients,
        kept=parts.one_time,
        consenting=consenting,
        clock=parts.clock,
    )
    return [*authorize.routes(), *device.routes()]
