"""The bytes on the wire: one canned tools/call, its canned answer, and how to tell the answer arrived."""

from __future__ import annotations

import json
import socket
from typing import Any, Final

import httptools

REVISION: Final = "2026-07-28"
SERVER: Final = "bench"
TOOL: Final = "search_tickets"
CALL_ID: Final = 7

_ARGUMENTS: Final = {
    "query": "payment fails with a timeout after the second retry",
    "project": "checkout",
    "sort": "updated_at:desc",
    "labels": ["backend", "payments", "customer-visible"],
    "created_after": "2026-10-01T00:00:00Z",
    "limit": 20,
}
_META: Final = {
    "io.modelcontextprotocol/protocolVersion": REVISION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1.0.0"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
CONTENT: Final = [
    {
        "type": "text",
        "text": "CHK-4411 payment provider times out on retry (open, P2); "
        "CHK-4398 double charge after a timeout (closed); "
        "CHK-4377 retry budget ignored by the worker (open, P3); "
        "CHK-4370 no idempotency key on the second attempt (open, P2); "
        "CHK-4369 slow refunds (closed, P4)",
    }
]
TOOL_DEFINITION: Final[dict[str, Any]] = {
    "name": TOOL,
    "description": "Searches tickets by words, project and labels.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "query": {"type": "string"},
            "project": {"type": "string"},
            "sort": {"type": "string"},
            "labels": {"type": "array", "items": {"type": "string"}},
            "created_after": {"type": "string"},
            "limit": {"type": "integer"},
        },
        "required": ["query"],
    },
}


def _dump(message: Any) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


CALL_BODY: Final = _dump(
    {
        "jsonrpc": "2.0",
        "id": CALL_ID,
        "method": "tools/call",
        "params": {"name": TOOL, "arguments": _ARGUMENTS, "_meta": _META},
    }
)


def call_answer(message_id: Any) -> bytes:
    """The JSON-RPC answer of the static upstream to a tools/call (about 470 bytes)."""
    server_info = {"name": "static-upstream", "version": "1.0.0"}
    result = {
        "content": CONTENT,
        "isError": False,
        "resultType": "complete",
        "_meta": {"io.modelcontextprotocol/serverInfo": server_info},
    }
    return _dump({"jsonrpc": "2.0", "id": message_id, "result": result})


CALL_ANSWER: Final = call_answer(CALL_ID)


def call_request(port: int, path: str, token: str) -> bytes:
    """The whole HTTP request (head and body) of one call, with headers a real client sends.

    Args:
        port: the port on 127.0.0.1, for the Host header.
        path: for example `/mcp/bench`.
        token: the bearer token, about 530 bytes.
    """
    head = (
        f"POST {path} HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {token}\r\n"
        "Accept: application/json, text/event-stream\r\n"
        "Accept-Encoding: identity\r\n"
        "Content-Type: application/json\r\n"
        "User-Agent: agentgw-bench/1.0\r\n"
        f"MCP-Protocol-Version: {REVISION}\r\n"
        "Mcp-Method: tools/call\r\n"
        f"Mcp-Name: {TOOL}\r\n"
        f"Content-Length: {len(CALL_BODY)}\r\n"
        "\r\n"
    )
    return head.encode() + CALL_BODY


def is_expected(body: bytes) -> bool:
    """Whether `body` (JSON, or one JSON message as a server-sent event) answers the call as canned."""
    text = body
    if not body.startswith(b"{"):
        data = [line[5:] for line in body.splitlines() if line.startswith(b"data:")]
        text = data[-1] if data else b""
    try:
        message = json.loads(text)
        return bool(message["id"] == CALL_ID and message["result"]["content"] == CONTENT)
    except (ValueError, KeyError, TypeError):
        return False


class AnswerParser:
    """Reads one HTTP answer fed in pieces; `complete` tells when it is whole."""

    def __init__(self) -> None:
        self.complete = False
        self.body = b""
        self._parser = httptools.HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, data: bytes) -> None:
        """Take the next piece. Raises httptools.HttpParserError on anything but HTTP."""
        self._parser.feed_data(data)

    @property
    def status(self) -> int:
        return int(self._parser.get_status_code())


def exchange(port: int, request: bytes, timeout: float) -> tuple[int, bytes]:
    """Send one request to 127.0.0.1:`port` and return status and body. Raises OSError.

    `timeout` (seconds) bounds each wait for bytes.
    """
    parser = AnswerParser()
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(request)
        while not parser.complete:
            data = connection.recv(65536)
            if not data:
                raise ConnectionError(
                    "the server closed the connection before its answer was whole"
                )
            try:
                parser.feed(data)
            except httptools.HttpParserError as error:
                raise ConnectionError(f"the answer is not HTTP: {error}") from None
    return parser.status, parser.body
