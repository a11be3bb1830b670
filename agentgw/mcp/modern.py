"""Revision 2026-07-28: stateless requests whose headers mirror the body."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from agentgw.errors import MalformedMessage
from agentgw.mcp.message import INVALID_PARAMS, Message

VERSION = "2026-07-28"
HEADER_MISMATCH = -32020
UNSUPPORTED_VERSION = -32022

META_VERSION = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
META_CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
META_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
META_LOG_LEVEL = "io.modelcontextprotocol/logLevel"
ENVELOPE_KEYS = frozenset({META_VERSION, META_CAPABILITIES, META_CLIENT_INFO, META_LOG_LEVEL})

INPUT_METHODS = frozenset({"tools/call", "prompts/get", "resources/read"})
"""The requests whose result may say that input is required."""

CONNECT_INPUT = "agentgw.connect"
"""The name under which we ask for a URL to be opened, and the answer comes back."""

URL_REQUIRED = -32042
"""URLElicitationRequiredError of 2025-11-25, which 2026-07-28 retired."""

NAME_BEARING = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}

_SENTINEL = re.compile(r"=\?base64\?(?P<payload>.*)\?=")
_PLAIN = re.compile(r"[\x20-\x7e]*")
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_SUBSCHEMAS = frozenset(
    "items contains unevaluatedItems additionalProperties propertyNames unevaluatedProperties not if "
    "then else contentSchema".split()
)
_SUBSCHEMA_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_SUBSCHEMA_MAPS = frozenset({"patternProperties", "dependentSchemas", "$defs", "definitions"})


def check_request(message: Message, version: str, method: str | None, name: str | None) -> None:
    """Hold the mirrored headers of a request or notification against its body.

    (2026-07-28, transports, standard headers.) A notification carries no envelope and may leave out its
    headers; those it has must agree.

    `version`, `method` and `name` are the values of MCP-Protocol-Version, Mcp-Method and Mcp-Name, None
    where absent. Raises MalformedMessage with -32602, -32020 or -32022.
    """
    if message.kind == "request":
        _check_envelope(message.meta, version)
    if version != VERSION:
        raise MalformedMessage(
            400,
            UNSUPPORTED_VERSION,
            "Unsupported protocol version",
            {"supported": [VERSION], "requested": version[:40]},
        )
    if method is None and message.kind == "notification":
        return
    if method is None or method.strip(" \t") != message.method:
        raise _mismatch("Mcp-Method")
    key = NAME_BEARING.get(message.method)
    if key is not None and (name is None or decode_header(name) != message.params.get(key)):
        raise _mismatch("Mcp-Name")


def _check_envelope(meta: Mapping[str, Any], version: str) -> None:
    if not isinstance(meta.get(META_VERSION), str) or not isinstance(
        meta.get(META_CAPABILITIES), dict
    ):
        raise MalformedMessage(
            400, INVALID_PARAMS, f"params._meta must carry {META_VERSION} and {META_CAPABILITIES}"
        )
    if meta[META_VERSION] != version:
        raise _mismatch("MCP-Protocol-Version")


def elicits(capabilities: Any) -> bool:
    """Whether a client's capabilities have URL mode elicitation."""
    elicitation = capabilities.get("elicitation") if isinstance(capabilities, dict) else None
    return isinstance(elicitation, dict) and isinstance(elicitation.get("url"), dict)


def without_own_input(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """`params` less the answer to what we asked, which is not for the server; None where there is none."""
    answers = params.get("inputResponses")
    if not isinstance(answers, dict) or CONNECT_INPUT not in answers:
        return None
    left = {name: answer for name, answer in answers.items() if name != CONNECT_INPUT}
    others = {name: value for name, value in params.items() if name != "inputResponses"}
    return {**others, "inputResponses": left} if left else others


def _mismatch(header: str) -> MalformedMessage:
    return MalformedMessage(
        400, HEADER_MISMATCH, f"the {header} header is missing or differs from the body"
    )


def decode_header(value: str) -> str | None:
    """The text of a mirrored header value; None where it is neither ASCII nor well-formed base64."""
    value = value.strip(" \t")
    found = _SENTINEL.fullmatch(value) if value.startswith("=?") else None
    if found is None:
        return value if value.isascii() else None
    payload = found.group("payload")
    try:
        decoded = base64.b64decode(payload, validate=True)
        if base64.b64encode(decoded).decode("ascii") != payload:
            return None
        return decoded.decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None


def encode_header(value: str) -> str:
    """`value` as a mirrored header: itself where visible ASCII, else `=?base64?...?=`."""
    if _PLAIN.fullmatch(value) and value == value.strip() and not _SENTINEL.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode('utf-8')).decode('ascii')}?="


def param_headers(input_schema: Any) -> dict[tuple[str, ...], str] | None:
    """Which arguments a tool wants mirrored: property path to `Mcp-Param-*` token.

    None where an `x-mcp-header` breaks the rules, in which case the tool must be withheld.
    """
    wanted: dict[tuple[str, ...], str] = {}
    for path, schema in _positions(input_schema):
        if "x-mcp-header" not in schema:
            continue
        token = schema["x-mcp-header"]
        if not path or not isinstance(token, str) or not _TOKEN.fullmatch(token):
            return None
        if schema.get("type") not in ("string", "integer", "boolean"):
            return None
        if token.lower() in {taken.lower() for taken in wanted.values()}:
            return None
        wanted[path] = token
    return wanted


def _positions(root: Any) -> Iterator[tuple[tuple[str, ...] | None, dict[str, Any]]]:
    """Every schema position with its path of `properties` keys, or None once another keyword was crossed."""
    stack: list[tuple[tuple[str, ...] | None, Any]] = [((), root)]
    while stack:
        path, node = stack.pop()
        if not isinstance(node, dict):
            continue
        yield path, node
        for keyword, value in node.items():
            if keyword == "properties" and isinstance(value, dict):
                stack.extend(
                    (None if path is None else (*path, name), schema)
                    for name, schema in value.items()
                )
            elif keyword in _SUBSCHEMAS:
                stack.append((None, value))
            elif keyword in _SUBSCHEMA_LISTS and isinstance(value, list):
                stack.extend((None, schema) for schema in value)
            elif keyword in _SUBSCHEMA_MAPS and isinstance(value, dict):
                stack.extend((None, schema) for schema in value.values())


def request_headers(
    method: str, params: Mapping[str, Any], wanted: Mapping[tuple[str, ...], str]
) -> bytes:
    """The mirrored header lines of a request to a 2026-07-28 server, built from the body alone."""
    key = NAME_BEARING.get(method)
    name = params.get(key) if key is not None else None
    lines = _routing_lines(method, name if isinstance(name, str) else None)
    if not wanted:
        return lines.encode("ascii")
    for path, token in wanted.items():
        text = _scalar(params.get("arguments"), path)
        if text is not None:
            lines += f"Mcp-Param-{token}: {encode_header(text)}\r\n"
    return lines.encode("ascii")


@lru_cache(maxsize=1024)
def _routing_lines(method: str, name: str | None) -> str:
    lines = f"MCP-Protocol-Version: {VERSION}\r\nMcp-Method: {method}\r\n"
    return lines if name is None else lines + f"Mcp-Name: {encode_header(name)}\r\n"


def _scalar(node: Any, path: tuple[str, ...]) -> str | None:
    for key in path:
        if not isinstance(node, dict):
            return None
        node = node.get(key)
    match node:
        case bool():
            return "true" if node else "false"
        case str():
            return node
        case int() | float():
            return str(node)
    return None
