"""The guarded client by itself, as the gateway makes it."""

from __future__ import annotations

import ssl

import httpx2

from agentgw.app.guarded_http import GuardedTransport, Resolve, cookieless, resolve_host
from agentgw.core.addresses import Network


def guarded(
    *allowed: Network,
    plain_http: bool = True,
    resolve: Resolve = resolve_host,
    verify: ssl.SSLContext | bool = True,
) -> httpx2.AsyncClient:
    """A client that may go to public addresses and to the `allowed` networks only."""
    return cookieless(GuardedTransport(lambda: allowed, lambda: plain_http, resolve, verify))
