"""What the two small MCP tool servers beside this file answer, without a word about transport."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

MODERN = "2026-07-28"
HANDSHAKE = ("2025-11-25", "2025-06-18", "2025-03-26")
SERVER_INFO = {"name": "echo-tools", "version": "1.0.0"}

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]

_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
_SECONDS = {"type": "object", "properties": {"seconds": {"type": "number"}}}
_STEPS = {
    "type": "object",
    "properties": {"steps": {"type": "integer"}, "seconds": {"type": "number"}},
}
TOOLS: list[Message] = [
    {"name": "echo", "description": "Give the arguments back.", "inputSchema": _TEXT},
    {"name": "fail", "description": "Answer with isError.", "inputSchema": _TEXT},
    {"name": "progress", "description": "Report each of `steps`.", "inputSchema": _STEPS},
    {
        "name": "structured",
        "description": "Give the arguments back as structured content.",
        "inputSchema": _TEXT,
        "outputSchema": {"type": "object", "properties": {"echo": {"type": "object"}}},
    },
    {"name": "slow", "description": "Answer after `seconds`.", "inputSchema": _SECONDS},
    {
        "name": "raw",
        "description": "Answer with the JSON in `result`, or with the error in `error`.",
        "inputSchema": {
            "type": "object",
            "properties": {"result": {"type": "string"}, "error": {"type": "string"}},
        },
    },
]
PROCESS_TOOLS: list[Message] = [
    {"name": "die", "description": "Exit with `code`.", "inputSchema": {"type": "object"}},
    {"name": "env", "description": "Names of the environment.", "inputSchema": {"type": "object"}},
]


async def respond(
    message: Message, send: Send, *, modern: bool, tools: list[Message]
) -> Message | None:
    """The response to `message`, None for a notification; progress goes to `send` before it."""
    if "id" not in message or "method" not in message:
        return None
    method = message["method"]
    params = message.get("params") or {}
    if method == "tools/call":
        answer = await _call(params, send, tools)
    else:
        answer = _describe(method, params, modern, tools)
    if modern and "result" in answer:
        meta = {"io.modelcontextprotocol/serverInfo": SERVER_INFO}
        answer["result"] = {"resultType": "complete", "_meta": meta} | answer["result"]
    return {"jsonrpc": "2.0", "id": message["id"]} | answer


def _describe(method: str, params: Message, modern: bool, tools: list[Message]) -> Message:
    lasting = {"ttlMs": 60000, "cacheScope": "public"} if modern else {}
    capabilities: Message = {"tools": {}}
    match method:
        case "server/discover" if modern:
            about = {"supportedVersions": [MODERN], "capabilities": capabilities}
            return {"result": about | lasting}
        case "initialize" if not modern:
            asked = params.get("protocolVersion")
            version = asked if asked in HANDSHAKE else HANDSHAKE[0]
            about = {"protocolVersion": version, "capabilities": capabilities}
            return {"result": about | {"serverInfo": SERVER_INFO}}
        case "ping" if not modern:
            return {"result": {}}
        case "tools/list":
            return {"result": {"tools": tools} | lasting}
    return {"error": {"code": -32601, "message": f"Method not found: {method}"}}


async def _call(params: Message, send: Send, tools: list[Message]) -> Message:
    name = params.get("name")
    arguments = params.get("arguments") or {}
    if name not in [tool["name"] for tool in tools]:
        return {"error": {"code": -32602, "message": f"Unknown tool: {name}"}}
    match name:
        case "fail":
            return {"result": {"content": _text("it failed on purpose"), "isError": True}}
        case "structured":
            echo = {"echo": arguments}
            return {"result": {"content": _text(echo), "structuredContent": echo, "isError": False}}
        case "raw":
            member = "error" if "error" in arguments else "result"
            return {member: json.loads(arguments[member])}
        case "progress":
            await _report(params, send, arguments)
        case "slow":
            await asyncio.sleep(arguments.get("seconds", 1))
        case "die":
            os._exit(arguments.get("code", 3))
        case "env":
            return {"result": {"content": _text(sorted(os.environ)), "isError": False}}
    return {"result": {"content": _text(arguments), "isError": False}}


async def _report(params: Message, send: Send, arguments: Message) -> None:
    token = (params.get("_meta") or {}).get("progressToken")
    steps = arguments.get("steps", 3)
    for step in range(1, steps + 1):
        await asyncio.sleep(arguments.get("seconds", 0))
        if token is not None:
            progress = {"progressToken": token, "progress": step, "total": steps}
            await send({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})


def _text(value: object) -> list[Message]:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [{"type": "text", "text": text}]


class Recorder:
    """Appends one JSON line per request to a file, in one write, before the request is answered."""

    def __init__(self, path: str | None) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = None if path is None else os.open(path, flags, 0o600)

    def record(self, request: Message) -> None:
        """Append `request`; nothing where no file was asked for."""
        if self._file is not None:
            os.write(self._file, json.dumps(request).encode() + b"\n")
