"""Requests to what others name: a document, a token endpoint. Bounded in size and time, no redirects."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx2

from agentgw.errors import UpstreamFailed

BODY_LIMIT = 256 * 1024


class WebAnswer(NamedTuple):
    """The answer to one request; `document` is its JSON, None where it holds none."""

    status: int
    challenge: str | None
    document: Any


class Web:
    """Asks URLs that others named. Both clients are shared and stay their owner's.

    `guarded` connects to public addresses only. `origins` are those that the operator named: they may lie
    within, and `plain` asks them. `check` raises for any other URL that must not be asked at all. One
    request may take `deadline` seconds in all.
    """

    def __init__(
        self,
        guarded: httpx2.AsyncClient,
        plain: httpx2.AsyncClient,
        origins: Collection[str],
        check: Callable[[str], None],
        deadline: float,
    ) -> None:
        self._guarded = guarded
        self._plain = plain
        self._origins = frozenset(origins)
        self._check = check
        self._deadline = deadline

    async def get(self, url: str) -> WebAnswer:
        """Fetch a document. Raises UpstreamFailed."""
        return await self._ask("GET", url, {}, None)

    async def post_form(
        self, url: str, form: Mapping[str, str], headers: Mapping[str, str]
    ) -> WebAnswer:
        """Send a form. Raises UpstreamFailed."""
        lines = {**headers, "content-type": "application/x-www-form-urlencoded"}
        content = str(httpx2.QueryParams(dict(form))).encode("ascii")
        return await self._ask("POST", url, lines, content)

    async def knock(self, url: str) -> WebAnswer:
        """Post a ping of MCP without credentials, to be told what is missing. Raises UpstreamFailed."""
        lines = {
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
        }
        return await self._ask("POST", url, lines, b'{"jsonrpc":"2.0","id":1,"method":"ping"}')

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> WebAnswer:
        # Uncompressed, so that the size limit counts what we would hold.
        sent = {"accept": "application/json", "accept-encoding": "identity", **headers}
        try:
            client = self._client_for(url)
            async with asyncio.timeout(self._deadline):
                request = client.build_request(method, url, headers=sent, content=content)
                request.headers.pop("user-agent", None)
                response = await client.send(request, stream=True, follow_redirects=False)
                try:
                    body = await _read(response)
                finally:
                    await response.aclose()
        except UpstreamFailed:
            raise
        except TimeoutError:
            raise UpstreamFailed(f"it did not answer within {self._deadline:g} seconds") from None
        except Exception as error:
            # Whatever the client or its guard says may quote a URL, and that is another's word.
            raise UpstreamFailed(f"it cannot be asked ({type(error).__name__})") from None
        challenge = response.headers.get("www-authenticate")
        return WebAnswer(response.status_code, challenge, _parse(body))

    def _client_for(self, url: str) -> httpx2.AsyncClient:
        if origin_of(url) in self._origins:
            return self._plain
        self._check(url)
        return self._guarded


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL as they are asked for; "" for what is no plain web URL."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        return ""
    return f"{parts.scheme}://{parts.hostname}:{port or {'http': 80, 'https': 443}[parts.scheme]}"


async def _read(response: httpx2.Response) -> bytes:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise UpstreamFailed("it compressed an answer that was to be plain")
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > BODY_LIMIT:
            raise UpstreamFailed(f"its answer is larger than {BODY_LIMIT} bytes")
    return bytes(body)


def _parse(body: bytes) -> Any:
    try:
        text = body.decode("utf-8")
        if text.count("[") + text.count("{") > 4000:
            return None
        return json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found
