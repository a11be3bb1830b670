"""Turning one era's messages into the other's, losing nothing but what the other era has no word for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentgw.mcp import handshake, modern
from agentgw.mcp.message import INVALID_PARAMS

CACHEABLE = frozenset(
    {
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
    }
)
"""Methods whose complete 2026-07-28 results must carry `ttlMs` and `cacheScope`."""

_RESOURCE_NOT_FOUND_THEN = -32002
_PUSH_CAPABILITIES = ("listChanged", "subscribe")


def to_handshake_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Request params for a handshake server: the 2026-07-28 envelope leaves `_meta`, the rest stays."""
    out = dict(params)
    meta = out.get("_meta")
    if isinstance(meta, dict):
        kept = {key: value for key, value in meta.items() if key not in modern.ENVELOPE_KEYS}
        if kept:
            out["_meta"] = kept
        else:
            del out["_meta"]
    return out


def to_modern_params(params: Mapping[str, Any], client: Mapping[str, Any]) -> dict[str, Any]:
    """Request params for a 2026-07-28 server. `client` is the clientInfo to declare.

    No capability is declared: without one the server may not ask anything back (MRTR).
    """
    given = params.get("_meta")
    meta = dict(given) if isinstance(given, dict) else {}
    meta[modern.META_VERSION] = modern.VERSION
    meta[modern.META_CAPABILITIES] = {}
    meta[modern.META_CLIENT_INFO] = dict(client)
    return {**params, "_meta": meta}


def to_modern_result(
    method: str, result: Mapping[str, Any], server: Mapping[str, Any], ttl_ms: int = 0
) -> dict[str, Any]:
    """A handshake server's result as a 2026-07-28 one. `server` is the serverInfo to stamp."""
    out = dict(result)
    out.setdefault("resultType", "complete")
    if method in CACHEABLE:
        out.setdefault("ttlMs", ttl_ms)
        out["cacheScope"] = "private"
    meta = out.get("_meta")
    stamped = dict(meta) if isinstance(meta, dict) else {}
    stamped.setdefault(modern.META_SERVER_INFO, dict(server))
    out["_meta"] = stamped
    return out


def to_handshake_result(result: Mapping[str, Any]) -> dict[str, Any]:
    """A 2026-07-28 server's result as a handshake one: without the words only that era has."""
    out = {
        key: value
        for key, value in result.items()
        if key not in ("resultType", "ttlMs", "cacheScope")
    }
    meta = out.get("_meta")
    if isinstance(meta, dict) and modern.META_SERVER_INFO in meta:
        kept = {key: value for key, value in meta.items() if key != modern.META_SERVER_INFO}
        if kept:
            out["_meta"] = kept
        else:
            del out["_meta"]
    return out


def to_modern_error(error: Mapping[str, Any]) -> dict[str, Any]:
    """An error for a 2026-07-28 client, which must not see the retired -32002."""
    out = dict(error)
    if out.get("code") == _RESOURCE_NOT_FOUND_THEN:
        out["code"] = INVALID_PARAMS
    return out


def discover_result(
    capabilities: Mapping[str, Any],
    server: Mapping[str, Any],
    instructions: str | None,
    ttl_ms: int,
) -> dict[str, Any]:
    """Our answer to `server/discover`."""
    result: dict[str, Any] = {
        "supportedVersions": [modern.VERSION, *handshake.VERSIONS],
        "capabilities": dict(capabilities),
        "resultType": "complete",
        "ttlMs": ttl_ms,
        "cacheScope": "private",
        "_meta": {modern.META_SERVER_INFO: dict(server)},
    }
    if instructions is not None:
        result["instructions"] = instructions
    return result


def initialize_result(
    version: str,
    capabilities: Mapping[str, Any],
    server: Mapping[str, Any],
    instructions: str | None,
) -> dict[str, Any]:
    """Our answer to `initialize`."""
    result: dict[str, Any] = {
        "protocolVersion": version,
        "capabilities": dict(capabilities),
        "serverInfo": dict(server),
    }
    if instructions is not None:
        result["instructions"] = instructions
    return result


def without_push(capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """Capabilities less the promises of unasked messages, which cannot cross eras or processes."""
    out: dict[str, Any] = {}
    for name, value in capabilities.items():
        if name == "tasks":
            continue
        if isinstance(value, dict):
            value = {key: item for key, item in value.items() if key not in _PUSH_CAPABILITIES}
        out[name] = value
    return out
