"""Agents that speak raw MCP over HTTP, in either era, and the schemas their messages are held against."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest

from tests.harness import MODERN, ROOT, modern_headers, modern_message

HANDSHAKES = ("2025-06-18", "2025-11-25")
SCHEMAS = ROOT.parent / "shared" / "vectors" / "mcp-schema"

Document = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """One HTTP answer: `messages` are its JSON-RPC messages in order, the response last."""

    status: int
    headers: httpx2.Headers
    messages: list[Document]
    text: str

    @property
    def final(self) -> Document:
        """The response."""
        assert self.messages, f"HTTP {self.status} without a message: {self.text}"
        return self.messages[-1]

    @property
    def result(self) -> Document:
        """The result of the response."""
        assert "result" in self.final, self.final
        result: Document = self.final["result"]
        return result

    @property
    def error(self) -> Document:
        """The error of the response."""
        assert "error" in self.final, self.final
        error: Document = self.final["error"]
        return error

    @property
    def event_id(self) -> str:
        """The id of its records."""
        return self.headers["Agentgw-Event-Id"]


@dataclass
class Agent:
    """Speaks `version` to one URL with one token; a handshake agent opens its session on first use."""

    url: str
    token: str
    version: str = MODERN
    capabilities: Document = field(default_factory=dict)
    extra_headers: Mapping[str, str] = field(default_factory=dict)
    session: str | None = None
    opened: Document | None = None
    ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 100_000)))
    http: httpx2.Client = field(
        default_factory=lambda: httpx2.Client(trust_env=False, timeout=30, follow_redirects=False)
    )

    def close(self) -> None:
        """Give back its connections."""
        self.http.close()

    def ask(
        self, method: str, params: Document | None = None, request_id: int | str | None = None
    ) -> Answered:
        """Send one request and read its answer to the end."""
        self.open()
        message = self.message(method, params or {}, request_id)
        return self.send(message)

    def call(self, tool: str, arguments: Document | None = None, **more: Any) -> Answered:
        """Call a tool; `more` are further members of params."""
        return self.ask("tools/call", {"name": tool, "arguments": arguments or {}, **more})

    def tools(self) -> list[str]:
        """The names of the tools it may see."""
        return [tool["name"] for tool in self.ask("tools/list").result["tools"]]

    def message(
        self, method: str, params: Document, request_id: int | str | None = None
    ) -> Document:
        """A request of its era."""
        chosen = next(self.ids) if request_id is None else request_id
        if self.version == MODERN:
            return modern_message(method, params, chosen)
        return {"jsonrpc": "2.0", "id": chosen, "method": method, "params": params}

    def open(self) -> None:
        """Open the session of a handshake agent, once."""
        if self.version == MODERN or self.opened is not None:
            return
        params = {
            "protocolVersion": self.version,
            "capabilities": self.capabilities,
            "clientInfo": {"name": "tests", "version": "1"},
        }
        answer = self.send(self.message("initialize", params))
        self.opened = answer.result
        self.session = answer.headers.get("mcp-session-id")
        done = self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert done.status == 202, done

    def headers(self, message: Document) -> dict[str, str]:
        """What goes with `message`."""
        if self.version == MODERN:
            return {**modern_headers(message, self.token), **self.extra_headers}
        headers = {
            "Accept": "application/json, text/event-stream",
            "Authorization": f"Bearer {self.token}",
            **self.extra_headers,
        }
        if message.get("method") != "initialize":
            headers["MCP-Protocol-Version"] = self.version
            if self.session is not None:
                headers["Mcp-Session-Id"] = self.session
        return headers

    def send(self, message: Document) -> Answered:
        """Post one message as it is."""
        answer = self.http.post(self.url, json=message, headers=self.headers(message))
        return Answered(answer.status_code, answer.headers, _messages(answer), answer.text)

    @contextmanager
    def streaming(self, message: Document) -> Iterator[Iterator[Document]]:
        """Post one message and read the messages of its answer as they come."""
        with self.http.stream(
            "POST", self.url, json=message, headers=self.headers(message)
        ) as answer:
            assert answer.status_code == 200, answer.read()
            yield events(answer)

    @contextmanager
    def listening(self) -> Iterator[Iterator[Document]]:
        """The stream of a GET."""
        headers = {**self.headers({}), "Accept": "text/event-stream"}
        with self.http.stream("GET", self.url, headers=headers) as answer:
            assert answer.status_code == 200, answer.read()
            yield events(answer)

    def bare(self, method: str) -> httpx2.Response:
        """A request without a message (GET, DELETE)."""
        return self.http.request(method, self.url, headers=self.headers({}))


def events(answer: httpx2.Response) -> Iterator[Document]:
    """The JSON-RPC messages of an event stream."""
    for line in answer.iter_lines():
        if line.startswith("data:") and line[5:].strip():
            yield json.loads(line[5:])


def _messages(answer: httpx2.Response) -> list[Document]:
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        lines = answer.text.splitlines()
        return [json.loads(line[5:]) for line in lines if line.startswith("data:")]
    try:
        return [answer.json()]
    except ValueError:
        return []


@cache
def _validator(version: str, name: str) -> jsonschema.protocols.Validator:
    file: Path = SCHEMAS / version / "schema.json"
    schema: Document = json.loads(file.read_text("utf-8"))
    place = "$defs" if "$defs" in schema else "definitions"
    assert name in schema[place], name
    whole = {**schema, "$ref": f"#/{place}/{name}"}
    return jsonschema.validators.validator_for(whole)(whole)


def conforms(version: str, name: str, value: Any) -> None:
    """Hold `value` against the type `name` of a protocol revision's published schema."""
    if not SCHEMAS.is_dir():
        pytest.skip("the protocol's JSON Schemas are not beside this checkout")
    _validator(version, name).validate(value)
