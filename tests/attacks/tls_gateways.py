"""Gateways that see their clients' certificates: in their own handshake, or told by a terminator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from tests.certificates import LOOPBACK, client_context, issue
from tests.harness import Gateway

AUTHORITY = issue("authority of agents", ca=True)
SERVERS = issue("authority of servers", ca=True)


@contextmanager
def with_own_tls(gateway: Gateway) -> Iterator[Gateway]:
    """It serves TLS itself; its terminators are elsewhere. Configured for an https URL."""
    own = str(issue("127.0.0.1", SERVERS, LOOPBACK).write(gateway.folder / "server.pem"))
    gateway.config["tls"] = {"cert": own, "key": own}
    gateway.config["trusted_proxies"] = ["10.0.0.0/8"]
    gateway.transport = lambda: httpx2.HTTPTransport(verify=client_context(SERVERS))
    try:
        yield gateway.start()
    finally:
        gateway.stop()


@contextmanager
def behind_a_terminator(gateway: Gateway) -> Iterator[Gateway]:
    """Its terminator is this very process."""
    gateway.config["trusted_proxies"] = ["127.0.0.0/8"]
    try:
        yield gateway.start()
    finally:
        gateway.stop()
