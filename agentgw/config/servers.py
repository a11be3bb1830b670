"""Where tools live: the `servers` section. A pasted `mcpServers` entry is valid here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    StringConstraints,
    model_validator,
)

from agentgw.config.external_sts import Exchange, OwnAccount
from agentgw.config.sandbox import Sandbox, SandboxOrKind
from agentgw.config.upstream_oauth import UserAccounts
from agentgw.config.values import AgentName, FilePath, Scope, Seconds, Section, Text, Url, available

FRAMING = frozenset(
    {
        "accept", "connection", "content-length", "content-type", "host", "te", "trailer",
        "transfer-encoding", "upgrade", "last-event-id",
    }
)  # fmt: skip


def _header_name(name: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise ValueError("is no header name (RFC 9110 section 5.1)")
    if name.lower() in FRAMING or name.lower().startswith("mcp-"):
        raise ValueError("is a header the gateway writes itself")
    return name


def _header_value(value: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[\x20-\x7e\x80-\xff]*", value.get_secret_value()):
        raise ValueError("holds a character that may not stand in a header (RFC 9110 section 5.5)")
    return value


def _argument(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds a NUL character")
    return value


def _variable(value: SecretStr) -> SecretStr:
    _argument(value.get_secret_value())
    return value


Headers = Mapping[
    Annotated[str, AfterValidator(_header_name)],
    Annotated[SecretStr, AfterValidator(_header_value)],
]
Argument = Annotated[str, AfterValidator(_argument)]
VariableName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class ToolRule(Section):
    """What one tool asks for."""

    scope: Scope | None = Field(
        default=None,
        description="The scope a caller needs for it, which the per-call token then carries.",
    )
    approve: bool = Field(
        default=False, description="Whether each call waits for a person's approval."
    )

    @property
    def scopes(self) -> frozenset[str]:
        """The scope tokens a caller needs."""
        return frozenset((self.scope or "").split())


MODES = ("token", "exchange", "oauth", "client_credentials", "header", "none")
_MEMBER = {
    "exchange": "exchange",
    "oauth": "oauth",
    "client_credentials": "client_credentials",
    "header": "headers",
}
"""The member of `auth` that goes with a mode."""


def _mode_of(auth: Mapping[str, Any], server: Mapping[str, Any]) -> str:
    """The mode of an `auth` that names none."""
    for mode in MODES:
        if _MEMBER.get(mode, "") in auth:
            return mode
    return "token" if "url" in server else "none"


class ServerAuth(Section):
    """How the gateway shows itself to the server."""

    mode: Annotated[
        Literal["token", "exchange", "oauth", "client_credentials", "header", "none"],
        available(*MODES),
    ] = Field(
        default="token",
        description="`token`: a token of our own for each request; `exchange`: one of another authorization "
        "server for the caller; `oauth`: the user's own account there, which they connect; "
        "`client_credentials`: one account of the gateway's for all; `header`: fixed headers; `none`.",
    )
    audience: Url | None = Field(
        default=None,
        description="The `aud` of per-call tokens: the server's resource URI; default its url.",
    )
    headers: Headers = Field(default={}, description="For `mode: header`: the headers to send.")
    exchange: Exchange | None = Field(
        default=None,
        description="For `mode: exchange`: what to ask which authorization server for.",
    )
    oauth: UserAccounts | None = Field(
        default=None, description="For `mode: oauth`: how users connect their accounts."
    )
    client_credentials: OwnAccount | None = Field(
        default=None,
        description="For `mode: client_credentials`: the account, and what to ask for.",
    )


class CallToken(Section):
    """The shape of the per-call token this server understands."""

    alg: Literal["ES256", "EdDSA", "RS256"] = Field(
        default="ES256", description="Signature algorithm; EdDSA is Ed25519, RS256 has 3072 bits."
    )
    typ: Literal["at+jwt", "JWT"] = Field(default="at+jwt", description="The `typ` header.")
    life: int = Field(default=60, ge=30, le=120, description="Seconds until it expires.")
    actor_mode: Literal["agent", "gateway"] = Field(
        default="agent",
        description="Who is the outermost `act`: the agent; or the gateway, which then binds each token to a "
        "key of its own (`cnf`) and sends a DPoP proof along, for servers that check it.",
    )


class Server(Section):
    """One MCP server: either `command` (stdio) or `url` (streamable HTTP)."""

    type: Literal["stdio", "http", "streamable-http", "streamable_http"] | None = Field(
        default=None, description="As in pasted entries; it must agree with `command` or `url`."
    )
    transport: Literal["stdio", "http", "streamable-http", "streamable_http"] | None = Field(
        default=None, description="The same as `type`."
    )
    command: Text | None = Field(
        default=None, description="The program of a stdio server, found on its PATH."
    )
    args: tuple[Argument, ...] = Field(default=(), description="Its arguments.", repr=False)
    env: Mapping[VariableName, Annotated[SecretStr, AfterValidator(_variable)]] = Field(
        default={}, description="Its environment variables."
    )
    cwd: FilePath | None = Field(
        default=None,
        description="The folder it runs in; default one of its own in the state directory.",
    )
    sandbox: SandboxOrKind = Field(
        default=Sandbox(),
        description="How a stdio server is shut in: `none`, `bwrap`, `landlock`, or a section with more.",
    )
    isolation: Literal["shared", "subject"] = Field(
        default="shared",
        description="`shared`: one process of a stdio server for all users; `subject`: one for each, in a "
        "folder of its own, for a server that keeps users' credentials or what they did.",
    )
    url: Url | None = Field(default=None, description="The endpoint of a streamable HTTP server.")
    headers: Headers = Field(
        default={},
        description="As in pasted entries: the same as auth: {mode: header, headers: ...}.",
    )
    auth: ServerAuth = Field(
        default=ServerAuth(),
        description="How the gateway shows itself; default a token for `url`, nothing for `command`.",
    )
    tools: Mapping[Text, ToolRule] = Field(
        default={}, description="Scope and approval by the tools' original names."
    )
    trust: Literal["first-use"] | None = Field(
        default=None, description="`first-use` lets tools in that were not seen at approval."
    )
    agent: AgentName | None = Field(
        default=None,
        description="The agent this server is: it may exchange the per-call token of each tools/call, "
        "once, and go on for the user with the tool's scope.",
    )
    discovery: bool = Field(
        default=True,
        description="false hides from clients of `/mcp/NAME` that tokens can be had by OAuth, for those that "
        "drop the header they were given as soon as they see it.",
    )
    era: Literal["auto", "modern", "handshake"] = Field(
        default="auto",
        description="The MCP revisions it speaks: found out, 2026-07-28, or earlier ones.",
    )
    timeout: Seconds | None = Field(
        default=None, description="Seconds one call may take; default that of limits.call."
    )
    token: CallToken = Field(default=CallToken(), description="The shape of its per-call tokens.")

    @property
    def chain_assurance(self) -> Literal["token", "audit-only"]:
        """How far the chain of agents is shown: to the server in a token, or in our log only."""
        return "token" if self.auth.mode == "token" else "audit-only"

    @property
    def audience(self) -> str | None:
        """The `aud` of per-call tokens; None where none are sent."""
        return self.auth.audience if self.auth.mode == "token" else None

    @model_validator(mode="before")
    @classmethod
    def _fill_auth(cls, data: Any) -> Any:
        if not isinstance(data, dict) or not isinstance(data.get("auth", {}), dict):
            return data
        auth: dict[str, Any] = dict(data.get("auth", {}))
        if "headers" in data and "auth" not in data:
            auth["headers"] = data["headers"]
        if "mode" not in auth:
            auth["mode"] = _mode_of(auth, data)
        if auth["mode"] == "token" and "audience" not in auth and "url" in data:
            auth["audience"] = data["url"]
        return {**data, "auth": auth}

    @model_validator(mode="after")
    def _agree(self) -> Server:
        if (self.command is None) == (self.url is None):
            raise ValueError("should have exactly one of command and url")
        kind = "stdio" if self.command is not None else "http"
        for word in (self.type, self.transport):
            if word is not None and (word == "stdio") != (kind == "stdio"):
                raise ValueError(f"says {word}, but has {'command' if kind == 'stdio' else 'url'}")
        if kind == "stdio" and (self.auth.mode != "none" or self.headers):
            raise ValueError("is a stdio server, which takes neither tokens nor headers")
        if kind == "http":
            self._is_no_process()
        if self.headers and self.headers != self.auth.headers:
            raise ValueError("has headers both of its own and under auth")
        self._agree_on_auth()
        return self

    def _is_no_process(self) -> None:
        how = (self.args, self.env, self.cwd, self.sandbox.kind != "none")
        if any((*how, self.isolation != "shared")):
            raise ValueError("has a url, so args, env, cwd, sandbox and isolation have no meaning")

    def _agree_on_auth(self) -> None:
        mode = self.auth.mode
        for its, member in _MEMBER.items():
            if (mode == its) != bool(getattr(self.auth, member)):
                raise ValueError(f"should have auth.{member} with mode {its}, and only there")
        if mode in ("exchange", "client_credentials") and self.auth.audience is not None:
            raise ValueError(f"should have its audience under auth.{mode}")
        if mode == "oauth" and self.auth.audience is not None:
            raise ValueError("should name its resource under auth.oauth")
