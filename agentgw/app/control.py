"""What is served beside MCP: the authorization server, and the pages where people sign in and decide."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette

from agentgw.app.authorization_server import Parts, authorization_server
from agentgw.app.connected_accounts import connect_endpoint
from agentgw.app.consent_pages import consent_pages
from agentgw.app.issuer_keys import IssuerKeys
from agentgw.app.login import LoginPages
from agentgw.app.outbound import HttpClients
from agentgw.app.tables import Tables
from agentgw.app.upstreams import Upstreams
from agentgw.config.model import Config
from agentgw.gateway.surroundings import Surroundings
from agentgw.policy.grants import GrantsPolicy


class Control:
    """The control plane's faces on the data plane's port. `app` is their ASGI application.

    `config`, `here` and `policy` give what is in use now. `http` stays its owner's, as do
    `keys`. Raises ConfigError.
    """

    def __init__(
        self,
        parts: Parts,
        tables: Tables,
        upstreams: Upstreams,
        http: HttpClients,
        keys: IssuerKeys,
        *,
        config: Callable[[], Config],
        here: Callable[[], Surroundings],
        policy: Callable[[], GrantsPolicy],
    ) -> None:
        self.login = LoginPages(config(), parts, http, keys, upstreams.accounts, tables.vault_rows)
        oauth = authorization_server(parts, self.login.sign_ins.today)
        self.issuing = oauth.issuing
        browser = self.login.browser
        pages = consent_pages(
            parts, browser, tables.consents, config=config, here=here, policy=policy
        )
        connect = connect_endpoint(upstreams.accounts, browser, parts, config, upstreams.retry)
        faces = (oauth.routes, self.login.routes, pages, connect.routes())
        self.app = Starlette(routes=[route for routes in faces for route in routes])
        self.app.router.redirect_slashes = False

    async def close(self) -> None:
        """Wait for what is under way."""
        await self.login.sign_ins.close()
