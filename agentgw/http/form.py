"""Reading one form strictly (RFC 6749 section 3.2, appendix B)."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

from agentgw.errors import OAuthError
from agentgw.http.connection import body_at_once

BODY_LIMIT = 64 * 1024
BODY_DEADLINE = 10.0
FORM = "application/x-www-form-urlencoded"


async def read_form(
    request: Request, *, fields: int = 100, limit: int = BODY_LIMIT
) -> dict[str, str]:
    """The form's parameters, each once; those without a value count as absent (RFC 6749 section 3.2).

    Raises OAuthError for anything but one well-formed form of at most so many `fields` and bytes (`limit`).
    """
    if request.scope.get("query_string"):
        raise _invalid_request("send parameters in the body, never in the URL")
    kinds = request.headers.getlist("content-type")
    if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != FORM:
        raise _invalid_request(f"send the parameters as {FORM}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise _invalid_request("send the form without a content encoding")
    try:
        text = (await _read_body(request, limit)).decode("ascii")
        pairs = parse_qsl(
            text,
            keep_blank_values=True,
            strict_parsing=bool(text),
            errors="strict",
            max_num_fields=fields,
        )
    except ValueError:
        raise _invalid_request("the body is no well-formed form in UTF-8") from None
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise _invalid_request("a parameter stands twice")
    if any("\0" in value for _, value in pairs):
        raise _invalid_request("a parameter holds a NUL")
    return {name: value for name, value in pairs if value}


async def _read_body(request: Request, limit: int) -> bytes:
    whole = body_at_once(request.scope)
    if whole is not None:
        return bytes(_within_limit(whole, limit))
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_DEADLINE):
            async for chunk in request.stream():
                body += chunk
                _within_limit(body, limit)
    except TimeoutError:
        raise _invalid_request("the body did not arrive in time") from None
    except ClientDisconnect:
        raise _invalid_request("the body did not arrive") from None
    return bytes(body)


def _within_limit(body: bytes | bytearray, limit: int) -> bytes | bytearray:
    if len(body) > limit:
        raise _invalid_request(f"the body is larger than {limit} bytes")
    return body


def _invalid_request(description: str) -> OAuthError:
    return OAuthError("invalid_request", description)
