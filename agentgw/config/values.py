"""The kinds of value a configuration file holds: sizes, paths, origins, secrets, names."""

from __future__ import annotations

import ipaddress
import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
)

SIZE = re.compile(r"(\d{1,12})\s*(B|KiB|MiB|GiB)?")
DURATION = re.compile(r"(\d{1,9})\s*(s|m|h|d)?")
ALIAS = r"^[a-z0-9-]{1,20}$"
AGENT_NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
DURATIONS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
UNITS = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
PRIVATE_SUFFIXES = (".localhost", ".local", ".internal", ".test", ".home.arpa", ".lan")


class Section(BaseModel):
    """A part of the file: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def parse_size(value: Any) -> Any:
    """Bytes of `4MiB`, `16 KiB` or a bare number; other types are left to the model to refuse."""
    if not isinstance(value, str):
        return value
    match = SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError("should be a number of bytes, such as 4MiB, 16KiB or 1000")
    return int(match[1]) * UNITS[match[2] or ""]


def _network(value: Any) -> Any:
    """A number would be read as an address, and `true` as one, too."""
    if isinstance(value, bool | int | float | bytes | list | tuple):
        raise ValueError("should be a network as text, such as 10.0.0.0/8")
    return value


WIDEST = {4: 8, 6: 7}
"""The shortest prefixes of networks that are somebody's own: 10.0.0.0/8 and fc00::/7."""


def is_too_wide(network: IPv4Network | IPv6Network) -> bool:
    """Whether a network covers so much that listing it means nothing: half the Internet, or all of IPv4 in
    IPv6's way."""
    mapped = network.version == 6 and network.overlaps(IPv6Network("::ffff:0:0/96"))
    return network.prefixlen < WIDEST[network.version] or (mapped and network.prefixlen <= 96 + 8)


def available(*choices: str) -> BeforeValidator:
    """Refuse what is planned but not built, so that nobody believes in it."""

    def check(value: Any) -> Any:
        if isinstance(value, str) and value not in choices:
            allowed = " or ".join(choices)
            raise ValueError(f"is not available in this version, only {allowed}")
        return value

    return BeforeValidator(check)


def split_url(value: str) -> SplitResult:
    """The parts of an absolute http or https URL without userinfo. Raises ValueError."""
    try:
        parts = urlsplit(value)
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("should be an absolute https URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_sound:
        raise ValueError("should be an absolute https URL")
    if "@" in parts.netloc:
        raise ValueError("should hold no user name or password")
    if any(character <= " " or character in "\x7f\\" for character in value):
        raise ValueError("should hold no spaces, control characters or backslashes")
    return parts


def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8, ::1 and localhost names (RFC 6761 section 6.3)."""
    host = host.strip("[]").lower()
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_public(host: str) -> bool:
    """True where the Internet may know the host: a global address, or a dotted name of no private zone."""
    host = host.strip("[]").lower().rstrip(".")
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith(PRIVATE_SUFFIXES)


def _url(value: str) -> str:
    if split_url(value).fragment or value.endswith("#"):
        raise ValueError("should hold no fragment (#)")
    return value


def _origin(value: str) -> str:
    parts = split_url(value)
    if f"{parts.scheme}://{parts.netloc}" != value:
        raise ValueError(
            "should be an origin only: scheme, host and port, without path, query or trailing slash"
        )
    if value != value.lower():
        raise ValueError("should be written in lower case")
    return value


def _path(value: Path, info: ValidationInfo) -> Path:
    """Relative paths count from the configuration file's folder (validation context `base`)."""
    # Unlike Path.expanduser, this leaves the ~ of an unknown user alone instead of failing.
    value = Path(os.path.expanduser(value))
    if "\0" in str(value):
        raise ValueError("holds a NUL character")
    base = (info.context or {}).get("base")
    return base / value if base is not None else value


def _scope(value: str) -> str:
    if not re.fullmatch(r"[\x21\x23-\x5b\x5d-\x7e]+( [\x21\x23-\x5b\x5d-\x7e]+)*", value):
        raise ValueError("should be scope tokens with one space between (RFC 6749 section 3.3)")
    return value


def _listen(value: str) -> str:
    if value.startswith("unix:"):
        if not value.removeprefix("unix:").startswith("/"):
            raise ValueError("should name an absolute socket path, such as unix:/run/agentgw.sock")
        return value
    host, _, port = value.rpartition(":")
    if not host or not port.isdecimal() or not port.isascii() or int(port) > 65535:
        raise ValueError("should be host:port or unix:/path, such as 127.0.0.1:7117")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("should have its IPv6 address in brackets, such as [::1]:7117")
    return value


def parse_duration(value: Any) -> Any:
    """Seconds of `30d`, `12 h`, `90m` or a bare number; other types are left to the model to refuse."""
    if not isinstance(value, str):
        return value
    match = DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError("should be a time such as 30d, 12h, 90m or a number of seconds")
    return int(match[1]) * DURATIONS[match[2] or "s"]


Duration = Annotated[
    int,
    BeforeValidator(parse_duration),
    Field(gt=0, le=10 * 365 * 86_400),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "string", "pattern": f"^{DURATION.pattern}$"},
            ]
        }
    ),
]
"""Seconds, written as a number or with s, m, h or d."""

Size = Annotated[
    int,
    BeforeValidator(parse_size),
    Field(gt=0, le=2**40),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "exclusiveMinimum": 0},
                {"type": "string", "pattern": f"^{SIZE.pattern}$"},
            ]
        }
    ),
]
"""Bytes, written as a number or with B, KiB, MiB or GiB."""

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Scope = Annotated[str, StringConstraints(min_length=1), AfterValidator(_scope)]
Url = Annotated[str, AfterValidator(_url)]
Origin = Annotated[str, AfterValidator(_origin)]
Listen = Annotated[str, AfterValidator(_listen)]
FilePath = Annotated[Path, AfterValidator(_path)]

Alias = Annotated[str, StringConstraints(pattern=ALIAS)]
"""Names of issuers and servers: they become parts of subjects, tool names and paths."""

Network = Annotated[IPvAnyNetwork, BeforeValidator(_network)]
"""A network by its prefix, or one address."""
AgentName = Annotated[str, StringConstraints(pattern=AGENT_NAME)]
"""Names of agents: they become parts of `/a2a/{agent}`."""
