"""The configuration: one frozen model, a sentence per field. This is the reference manual."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PrivateAttr,
    StringConstraints,
    model_validator,
)

from agentgw.config.agents import Agent
from agentgw.config.client_auth import ClientCertificates, TrustDomain, TrustDomainName
from agentgw.config.dpop import Dpop
from agentgw.config.external_sts import AuthorizationServer
from agentgw.config.grants import Grant
from agentgw.config.issuers import Issuer
from agentgw.config.keys import Keys
from agentgw.config.login import Login
from agentgw.config.references import References
from agentgw.config.servers import Server
from agentgw.config.source import Loc, Place, place_of
from agentgw.config.values import (
    AgentName,
    Alias,
    Count,
    FilePath,
    Listen,
    Network,
    Origin,
    Seconds,
    Section,
    Size,
    is_loopback,
    split_url,
)
from agentgw.errors import ConfigError

MIB = 1024 * 1024


class Tls(Section):
    """The gateway's own certificate."""

    cert: FilePath = Field(description="PEM file of the certificate chain.")
    key: FilePath = Field(description="PEM file of its private key.")


class Limits(Section):
    """What one request or one agent may take."""

    body: Size = Field(default=4 * MIB, description="Bytes of a request body.")
    answer: Size = Field(default=16 * MIB, description="Bytes of an upstream's answer.")
    depth: Annotated[int, Field(ge=4, le=256)] = Field(default=64, description="Nesting of JSON.")
    claims_depth: Annotated[int, Field(ge=2, le=256)] = Field(
        default=24, description="Nesting of the claims of a token."
    )
    token: Size = Field(default=16 * 1024, description="Bytes of a token.")
    headers: Size = Field(default=32 * 1024, description="Bytes of all request headers.")
    header_count: Count = Field(default=100, description="Number of request headers.")
    header_deadline: Seconds = Field(default=10, description="Seconds until the headers are in.")
    body_deadline: Seconds = Field(default=30, description="Seconds until the body is in.")
    call: Seconds = Field(
        default=60, description="Seconds one call may take, unless its server says else."
    )
    streams_per_agent: Count = Field(default=100, description="Open streams per agent.")
    sessions_per_agent: Count | None = Field(
        default=None, description="Sessions per agent; not available in this version."
    )
    tools_per_server: Count = Field(default=1000, description="Tools taken from one server.")
    list_pages: Count = Field(default=20, description="Pages of a list asked of one server.")
    processes_per_server: Annotated[int, Field(ge=2, le=10_000)] = Field(
        default=32,
        description="Processes of a stdio server with `isolation: subject` at a time, one for us included; "
        "one that is idle makes way for the next user's.",
    )
    process_idle: Seconds = Field(
        default=600, description="Seconds after its last call until such a process ends."
    )


class Outbound(Section):
    """Where URLs may lead that somebody else names: agents, tool servers, authorization servers."""

    private_networks: tuple[Network, ...] = Field(
        default=(),
        description="Networks that such URLs may lead to besides public addresses; with `dev: true` this "
        "host may be reached too.",
    )


class Audit(Section):
    """The record."""

    checkpoint_seconds: Seconds = Field(
        default=1, description="Seconds between signed checkpoints."
    )
    checkpoint_records: Count = Field(
        default=1000, description="Records after which one is signed earlier."
    )


class Sts(Section):
    """The gateway as issuer of tokens for its own endpoints."""

    token_life: int = Field(
        default=300, ge=30, le=3600, description="Seconds a token from the exchange lives at most."
    )
    max_siblings: int = Field(
        default=100, ge=1, description="How often one hand-over may be exchanged."
    )
    receipts: Literal["actor-receipts-00"] | None = Field(
        default=None,
        description="Signed receipts for each agent of a chain, by this version of a draft; default none.",
    )


def default_state_dir(env: Mapping[str, str]) -> Path:
    """`agentgw` in the XDG state directory."""
    return _xdg(env, "XDG_STATE_HOME", ".local/state") / "agentgw"


def default_config_path(env: Mapping[str, str]) -> Path:
    """`AGENTGW_CONFIG`, else agentgw.yaml in the XDG configuration directory; never the working one."""
    if env.get("AGENTGW_CONFIG"):
        return Path(os.path.expanduser(env["AGENTGW_CONFIG"]))
    return _xdg(env, "XDG_CONFIG_HOME", ".config") / "agentgw" / "agentgw.yaml"


def _xdg(env: Mapping[str, str], variable: str, fallback: str) -> Path:
    folder = Path(env.get(variable, ""))
    # The XDG specification: relative paths in these variables are to be ignored.
    if folder.is_absolute():
        return folder
    home = env.get("HOME", "")
    return (Path(home) if home else Path.home()) / fallback


class Config(Section):
    """The whole of agentgw.yaml."""

    version: Literal[1] = Field(description="The version of this format: 1.")
    public_url: Origin = Field(
        description="The origin under which clients reach the gateway; its URLs and token issuer."
    )
    listen: Listen = Field(
        default="127.0.0.1:7117", description="Where to listen: host:port, or unix:/path."
    )
    tls: Tls | None = Field(default=None, description="Certificate and key to serve https with.")
    state_dir: FilePath = Field(
        default_factory=lambda: default_state_dir(os.environ),
        description="Where keys, database and log are; default agentgw in the XDG state directory.",
    )
    dev: bool = Field(
        default=False,
        description="Allows http and loopback issuers; never with a public public_url.",
    )
    insecure: bool = Field(
        default=False, description="Allows plain http beyond loopback, to clients and to servers."
    )
    trusted_proxies: tuple[Network, ...] = Field(
        default=(),
        description="Networks of TLS terminators. From these the `source` in records is the last address of "
        "X-Forwarded-For that is none of theirs; nothing else is taken from forwarding headers.",
    )
    hosts: tuple[
        Annotated[
            str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+(:\d+)?$|^\[[0-9a-fA-F:]+\](:\d+)?$")
        ],
        ...,
    ] = Field(default=(), description="Further values of the Host header to answer to.")
    origins: tuple[Origin, ...] = Field(
        default=(), description="Origins whose web pages may call us."
    )
    client_certificates: ClientCertificates = Field(
        default=ClientCertificates(), description="Whose TLS certificates may prove an agent."
    )
    spiffe: Mapping[TrustDomainName, TrustDomain] = Field(
        default={}, description="SPIFFE trust domains whose workloads may be agents, by name."
    )
    workers: int = Field(default=1, ge=1, le=128, description="Processes to serve with.")
    issuers: Mapping[Alias, Issuer] = Field(
        default={}, description="Who vouches for users, by alias."
    )
    authorization_servers: Mapping[Alias, AuthorizationServer] = Field(
        default={},
        description="Who else makes tokens that tool servers take (`auth: {mode: exchange}`), by name.",
    )
    login: Login | None = Field(
        default=None,
        description="Lets users sign in and allow agents to act for them; absent, nobody can.",
    )
    agents: Mapping[AgentName, Agent] = Field(
        default={}, description="Who acts for users, by name."
    )
    servers: Mapping[Alias, Server] = Field(default={}, description="Where tools live, by name.")
    grants: tuple[Grant, ...] = Field(
        default=(), description="Who may do what; all else is denied."
    )
    limits: Limits = Field(default=Limits(), description="What one request or agent may take.")
    discovery: bool = Field(
        default=True,
        description="false hides from clients of `/mcp` that tokens can be had by OAuth, as "
        "`servers.*.discovery` does for those of one server. Where all paths are hidden so, the gateway's "
        "own metadata as an authorization server is, too.",
    )
    outbound: Outbound = Field(
        default=Outbound(), description="Where URLs that others name may lead."
    )
    audit: Audit = Field(default=Audit(), description="How often the log is sealed.")
    keys: Keys = Field(default=Keys(), description="How the gateway keeps its own keys.")
    sts: Sts = Field(default=Sts(), description="How long the gateway's own tokens live.")
    dpop: Dpop = Field(default=Dpop(), description="What is asked of DPoP proofs (RFC 9449).")

    _path: str = PrivateAttr("configuration")
    _digest: str = PrivateAttr("")
    _places: Mapping[Loc, Place] = PrivateAttr(default_factory=dict)
    _references: References = PrivateAttr(default_factory=References)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        """Row ids by position."""
        rows = data.get("grants") if isinstance(data, dict) else None
        if not isinstance(rows, list):
            return data
        numbered = [
            {"id": f"g{number}", **row} if isinstance(row, dict) else row
            for number, row in enumerate(rows, start=1)
        ]
        return {**data, "grants": numbered}

    @property
    def path(self) -> str:
        """The file this came from, as it was named."""
        return self._path

    @property
    def digest(self) -> str:
        """`sha-256:...` over what was configured (file, environment, flags), references unresolved."""
        return self._digest

    @property
    def places(self) -> Mapping[Loc, Place]:
        """Where each value that is no default was given: a line of the file, a variable, a flag."""
        return self._places

    @property
    def references(self) -> Mapping[Loc, str]:
        """The values that were given by reference, as written."""
        return self._references.written

    def redact(self, text: str) -> str:
        """`text` with each value that came by reference replaced by the reference."""
        return self._references.redact(text)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        # Arguments and URLs may hold secrets that came by reference.
        return [("path", self._path), ("digest", self._digest)]

    @property
    def address(self) -> tuple[str, int] | Path:
        """Where to listen: host and port, or the path of a unix socket."""
        if self.listen.startswith("unix:"):
            return Path(self.listen.removeprefix("unix:"))
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Values of the Host header to answer to, in lower case, ports as in `public_url`."""
        own = {split_url(self.public_url).netloc, *(host.lower() for host in self.hosts)}
        if isinstance(self.address, tuple) and is_loopback(self.address[0]):
            own |= {self.listen.lower(), f"localhost:{self.address[1]}"}
        return frozenset(own)

    @property
    def allowed_origins(self) -> frozenset[str]:
        """Values of the Origin header to answer to."""
        return frozenset({self.public_url, *self.origins})

    def call_timeout(self, server: Server) -> float:
        """Seconds one call to a server may take."""
        return self.limits.call if server.timeout is None else server.timeout

    def agent_id(self, name: str) -> str:
        """The URI of an agent: audience, `act.sub` and `may_act.sub` are this one string."""
        return f"{self.public_url}/a2a/{name}"

    def error(self, loc: Loc, message: str, hint: str = "") -> ConfigError:
        """A ConfigError that points at the value at `loc`, or at the nearest one around it."""
        place = place_of(self._places, loc)
        return ConfigError(place.name, place.line, message, hint)
