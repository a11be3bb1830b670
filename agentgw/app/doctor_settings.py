"""What `agentgw doctor` says of the configuration itself, without asking anybody."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509

from agentgw.config.model import Config
from agentgw.config.servers import Server
from agentgw.config.values import is_loopback, split_url
from agentgw.core.finding import FAILED, Finding, fine, warn, wrong

LITERAL_SECRET = "a secret stands in the file itself"  # noqa: S105 - a message
CERTIFICATE_DAYS = 14
"""Days before the end of the certificate from which on it is worth a warning."""


def settings(config: Config, now: float) -> Iterator[Finding]:
    """What the file says and what follows from it; `now` is Unix seconds."""
    sections = ("issuers", "agents", "servers", "grants")
    counts = ", ".join(f"{name}: {len(getattr(config, name))}" for name in sections)
    yield fine("config", f"{config.path} is valid ({counts})")
    yield from literal_secrets(config)
    yield from _exposure(config)
    if config.tls is not None:
        yield _certificate(config, now)
    yield from _rights(config)
    many = "one process" if config.workers == 1 else f"{config.workers} processes on one socket"
    yield fine("workers", many)


def literal_secrets(config: Config) -> Iterator[Finding]:
    """Agents' secrets that are written out."""
    for name, agent in config.agents.items():
        loc = ("agents", name, "auth", "secret")
        written = loc in config.places and config.places[loc].kind == "file"
        if agent.auth and agent.auth.secret and written and loc not in config.references:
            yield warn(
                "config",
                f"{config.path}:{config.places[loc].line}: {LITERAL_SECRET}",
                "whoever reads the file has it",
                "${env:X} or ${file:X} keep it out",
            )


def _exposure(config: Config) -> Iterator[Finding]:
    public = split_url(config.public_url)
    at_home = is_loopback(public.hostname or "")
    if public.scheme == "https" or at_home:
        yield fine("public_url", f"{config.public_url} is {'loopback' if at_home else 'https'}")
    else:
        yield warn(
            "public_url",
            f"{config.public_url} is plain http beyond loopback",
            "tokens can be read on the way",
            "use https",
        )
    if config.dev:
        yield warn(
            "dev",
            "dev: true is on",
            "issuers may be plain http, and what others name may lead to this host",
            "leave dev out in production",
        )
    if config.insecure:
        yield warn(
            "insecure",
            "insecure: true is on",
            "plain http is allowed beyond loopback",
            "leave insecure out and use https",
        )


def _certificate(config: Config, now: float) -> Finding:
    assert config.tls is not None
    try:
        certificate = x509.load_pem_x509_certificate(config.tls.cert.read_bytes())
    except (OSError, ValueError):
        return wrong(
            "tls", "the certificate cannot be read", "no client can connect", "see tls.cert"
        )
    ends = certificate.not_valid_after_utc
    left = (ends - datetime.fromtimestamp(now, UTC)).total_seconds() / 86_400
    until = f"{ends:%Y-%m-%dT%H:%M:%SZ}"
    renew = "renew it, then SIGHUP"
    if left < 0:
        return wrong(
            "tls", f"the certificate ended {until}", "clients refuse it", renew, code=FAILED
        )
    if left < CERTIFICATE_DAYS:
        return warn("tls", f"the certificate ends {until}", "clients then refuse it", renew)
    return fine("tls", f"the certificate is good until {until}")


def _rights(config: Config) -> Iterator[Finding]:
    if config.login is None:
        yield fine("login", "not configured: nobody can sign in here, agents bring their tokens")
    else:
        yield fine("login", f"people sign in at {config.login.issuer}")
    if not config.issuers:
        yield warn("issuers", "there are none", "no user can be told by a token", "name one")
    if not config.grants:
        yield warn("grants", "there are none", "every call is denied", "allow something")


def shown_as(server: Server) -> str:
    """How the gateway shows itself to a server, in words without secrets."""
    auth = server.auth
    match auth.mode:
        case "token":
            return f"a token of ours for each request, audience {auth.audience}"
        case "exchange" if auth.exchange is not None:
            return f"tokens of {auth.exchange.authorization_server} for the caller"
        case "oauth":
            return "each user's own account, which they connect"
        case "client_credentials" if auth.client_credentials is not None:
            account = auth.client_credentials
            return f"one account at {account.authorization_server} for everybody"
        case "header":
            return f"fixed headers ({', '.join(auth.headers)}) for everybody"
    return "no credentials"
