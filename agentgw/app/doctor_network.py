"""What `agentgw doctor` and `config check --online` find when they ask: issuers, tool servers, sandboxes.

Nobody is sent a token: a token that no record tells of must not exist. Only headers that the operator wrote
(`auth.mode: header`) go along.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2

from agentgw.app.doctor_settings import shown_as
from agentgw.app.outbound import HttpClients
from agentgw.app.stdio_command import shut_in, working_folder
from agentgw.app.upstreams import OWN_TIMEOUT, http_link
from agentgw.config.external_sts import AuthorizationServer
from agentgw.config.issuers import Issuer
from agentgw.config.model import Config
from agentgw.config.servers import Server
from agentgw.core.finding import BAD_CONFIG, UNREACHABLE, Finding, fine, warn, wrong
from agentgw.errors import CredentialRefused, UpstreamFailed
from agentgw.identity.oidc import IssuerUnusable, OidcKeys, discover
from agentgw.identity.spiffe import SpiffeBundle
from agentgw.upstream.http import HttpOrigin

DEADLINE = 5.0
SKEW_SECONDS = 5.0
"""A clock further off than this makes tokens look not yet valid, or too old."""


async def network(config: Config, clock: Callable[[], float]) -> list[Finding]:
    """Ask everybody at once; in the order of the file. `clock` gives Unix seconds."""
    async with contextlib.aclosing(HttpClients(lambda: config)) as http:
        asked = [
            *(_issuer(config, http, *each, clock) for each in config.issuers.items()),
            *(
                _server_of_tokens(config, http, *each)
                for each in config.authorization_servers.items()
            ),
            *(_bundle(config, http, name) for name in config.spiffe),
            *(_server(config, *each) for each in config.servers.items()),
            _gateway(config, http.plain),
        ]
        return [finding for found in await asyncio.gather(*asked) for finding in found]


async def _issuer(
    config: Config, http: HttpClients, alias: str, issuer: Issuer, clock: Callable[[], float]
) -> list[Finding]:
    client = http.of(issuer.issuer, issuer.jwks_uri)
    skews: list[float] = []

    async def compare(response: httpx2.Response) -> None:
        with contextlib.suppress(ValueError):
            said = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
            # Whole seconds are told, of which on average half is gone.
            skews.append(said + 0.5 - clock())

    client.event_hooks = {"response": [compare]}
    keys = OidcKeys(issuer.issuer, client, jwks_uri=issuer.jwks_uri, dev=config.dev)
    problem = await keys.warm()
    if problem is None and issuer.jwks_uri is not None and _needs_metadata(config, alias, issuer):
        problem = await _metadata(client, issuer.issuer, config.dev)
    if problem is not None:
        return [
            _unreachable("issuer", alias, f"{issuer.issuer}: {problem}", "its tokens are refused")
        ]
    found = [fine("issuer", f"{issuer.issuer} answers, and its keys can be had", alias)]
    far = [skew for skew in skews if abs(skew) > SKEW_SECONDS]
    if far:
        off = f"its clock is {abs(far[-1]):.0f} s {'ahead of' if far[-1] > 0 else 'behind'} ours"
        why = "tokens may look not yet valid, or expired"
        found.append(warn("issuer", off, why, "set both clocks (NTP)", alias))
    return found


def _needs_metadata(config: Config, alias: str, issuer: Issuer) -> bool:
    """Whether discovery is asked although the file says where the keys are."""
    asked = issuer.introspection is not None and issuer.introspection.endpoint is None
    return asked or (config.login is not None and config.login.issuer == alias)


async def _metadata(client: httpx2.AsyncClient, issuer: str, dev: bool) -> str | None:
    """What is wrong with the discovery document, if anything."""
    try:
        async with asyncio.timeout(DEADLINE):
            await discover(issuer, client, dev, DEADLINE)
    except TimeoutError:
        return f"it did not answer within {DEADLINE:g} seconds"
    except IssuerUnusable as error:
        return str(error)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RuntimeError) as error:
        return f"it cannot be reached ({type(error).__name__})"
    return None


async def _server_of_tokens(
    config: Config, http: HttpClients, name: str, wanted: AuthorizationServer
) -> list[Finding]:
    client = http.of(wanted.issuer, wanted.jwks_uri)
    problem = None
    if wanted.token_endpoint is None:
        problem = await _metadata(client, wanted.issuer, config.dev)
    if problem is None and wanted.tokens == "jwt":
        keys = OidcKeys(wanted.issuer, client, jwks_uri=wanted.jwks_uri, dev=config.dev)
        problem = await keys.warm()
    check = "authorization_server"
    if problem is not None:
        why = "the calls that need its tokens fail"
        return [_unreachable(check, name, f"{wanted.issuer}: {problem}", why)]
    return [fine(check, f"{wanted.issuer} answers", name)]


async def _bundle(config: Config, http: HttpClients, name: str) -> list[Finding]:
    source = config.spiffe[name].source
    bundle = SpiffeBundle(source, http.plain, dev=config.dev)
    await bundle.refresh(now=True)
    if bundle.problem is None:
        return [fine("spiffe", "its bundle can be had", name)]
    why = "its workloads cannot prove themselves"
    if isinstance(source, str):
        return [_unreachable("spiffe", name, bundle.problem, why)]
    return [wrong("spiffe", bundle.problem, why, "see spiffe.*.bundle", name, code=BAD_CONFIG)]


async def _server(config: Config, name: str, server: Server) -> list[Finding]:
    if server.command is not None:
        return await _stdio(config, name, server)
    link = http_link(config, name, server, HttpOrigin(server.url or ""))
    takes_ours = server.auth.mode not in ("header", "none")
    how = shown_as(server)
    try:
        async with asyncio.timeout(OWN_TIMEOUT):
            info = await link.info(_no_token)
    except CredentialRefused as error:
        if takes_ours:
            asks = f"answers, and asks for credentials (HTTP {error.status}); gets {how}"
            return [fine("server", asks, name)]
        why, fix = f"it gets {how}", f"see servers.{name}.auth"
        return [wrong("server", error.reason, why, fix, name)]
    except (UpstreamFailed, TimeoutError) as error:
        reason = getattr(error, "reason", f"it did not answer within {OWN_TIMEOUT:g} seconds")
        return [_unreachable("server", name, f"{server.url}: {reason}", "calls to it fail")]
    finally:
        await link.close()
    speaks = f"answers as MCP {info.version}"
    if takes_ours:
        why = "whoever reaches it can use it without the gateway"
        fix = "let it demand our tokens (docs/tool-servers.md)"
        return [warn("server", f"{speaks} without any credentials; gets {how}", why, fix, name)]
    return [fine("server", f"{speaks}; gets {how}", name)]


async def _no_token(_method: str, _params: Mapping[str, Any]) -> bytes | None:
    return None


async def _stdio(config: Config, name: str, server: Server) -> list[Finding]:
    found = [fine("server", f"its command is found: {server.command}", name)]
    kind = server.sandbox.kind
    if kind == "none":
        why = "it may do whatever the gateway's own user may"
        fix = "sandbox: bwrap or landlock, if it needs no more than that leaves it"
        return [*found, warn("server", "sandbox none", why, fix, name)]
    if kind == "uid":
        return [*found, fine("server", f"sandbox uid: it runs as {server.sandbox.user}", name)]
    problem = await _sandbox_problem(config, name, server)
    if problem is not None:
        why, fix = f"it cannot be started: {problem}", "docs/stdio-servers.md"
        return [*found, wrong("server", f"sandbox {kind} does not work", why, fix, name)]
    where = "with the network" if server.sandbox.network else "without network"
    return [*found, fine("server", f"sandbox {kind} works ({where})", name)]


async def _sandbox_problem(config: Config, name: str, server: Server) -> str | None:
    """What the sandbox says when it is to run a program that does nothing."""
    nothing = shutil.which("true")
    if nothing is None:
        return None
    # The folder of its own is made when it starts; looking makes none.
    own = working_folder(config, name, server, None)
    workdir = own if own.is_dir() else Path("/")
    return await _said(*shut_in(config, server, workdir, nothing, ()))


async def _said(program: str, arguments: Sequence[str]) -> str | None:
    process = await asyncio.create_subprocess_exec(
        program,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            _, words = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return f"it took longer than {DEADLINE:g} seconds"
    if process.returncode == 0:
        return None
    lines = words.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:200] if lines else f"exit code {process.returncode}"


async def _gateway(config: Config, client: httpx2.AsyncClient) -> list[Finding]:
    """Whether a gateway answers at the public URL, as seen from here."""
    where = f"{config.public_url}/livez"
    try:
        async with asyncio.timeout(DEADLINE):
            status = (await client.get(where)).status_code
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, TimeoutError) as error:
        return [fine("gateway", f"nobody answers at {config.public_url} ({type(error).__name__})")]
    if status == 200:
        return [fine("gateway", f"it answers at {config.public_url}")]
    what = f"{where} answers HTTP {status}"
    why = "what answers there is no gateway, or its Host header was changed on the way (421)"
    return [warn("gateway", what, why, "see public_url, and the terminator before it")]


def _unreachable(check: str, name: str, what: str, why: str) -> Finding:
    fix = "start it, or see the URL, DNS and firewall"
    return wrong(check, what, why, fix, name, code=UNREACHABLE)
