"""One token exchange by hand, as an agent would make it (RFC 8693 section 2.1)."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote_plus

import httpx2

from agentgw.config.values import is_loopback, split_url
from agentgw.core.exchange_request import ACCESS_TOKEN, GRANT_TYPE
from agentgw.errors import AgentgwError
from agentgw.sts.client_assertion import ClientKey, client_assertion, read_client_key
from agentgw.sts.clients import ASSERTION_TYPE

ANSWER_LIMIT = 256 * 1024


class Unreachable(AgentgwError):
    """The gateway could not be asked, or cannot answer now."""


class Denied(AgentgwError):
    """The gateway refused: `error` is the RFC's code, `event_id` leads operators to its record."""

    def __init__(self, error: str, description: str, event_id: str | None) -> None:
        super().__init__(f"{error}: {description}" if description else error)
        self.error = error
        self.description = description
        self.event_id = event_id


@dataclass(frozen=True, slots=True)
class Credential:
    """How the agent `name` proves itself: by one of `secret` and `key`."""

    name: str
    secret: str | None = field(default=None, repr=False)
    key: ClientKey | None = None

    def prove(self, issuer: str) -> tuple[dict[str, str], dict[str, str]]:
        """(headers, form parameters) that prove it to `issuer` (RFC 6749 section 2.3.1, RFC 7523)."""
        if self.secret is not None:
            pair = f"{quote_plus(self.name)}:{quote_plus(self.secret)}"
            return {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}, {}
        assert self.key is not None
        jti = secrets.token_urlsafe(16)
        assertion = client_assertion(self.key, self.name, issuer, time.time(), jti)
        return {}, {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion}


def read_key(path: Path, kid: str | None) -> ClientKey:
    """The private key of a PEM file, which the gateway knows as `kid`. Raises AgentgwError."""
    try:
        return read_client_key(path.read_bytes(), kid)
    except OSError as error:
        raise AgentgwError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise AgentgwError(f"{path} cannot be used: {error}") from None


def request_exchange(
    issuer: str, credential: Credential, subject_token: str, target: str, scope: str | None
) -> tuple[dict[str, Any], str | None]:
    """Ask the gateway at `issuer` for a token; its answer and the event id.

    Raises Denied or Unreachable.
    """
    headers, proof = credential.prove(issuer)
    form = {
        "grant_type": GRANT_TYPE,
        "subject_token": subject_token,
        "subject_token_type": ACCESS_TOKEN,
        "audience" if "/a2a/" in target else "resource": target,
        **proof,
        **({} if scope is None else {"scope": scope}),
    }
    return ask(issuer, "/oauth/token", form, "access_token", headers)


def ask(
    issuer: str,
    path: str,
    form: Mapping[str, str],
    expected: str,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> tuple[dict[str, Any], str | None]:
    """Post a form to the gateway at `issuer`; its answer, which has the text member `expected`, and the
    event id. Raises Denied or Unreachable, and AgentgwError for a URL to which nothing goes."""
    _check_url(issuer)
    try:
        answer = httpx2.post(
            f"{issuer}{path}", data=form, headers=headers, timeout=30, follow_redirects=False
        )
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        why = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise Unreachable(f"the gateway at {issuer} cannot be reached: {why}") from None
    return _judge(answer, issuer, expected), answer.headers.get("agentgw-event-id")


def _check_url(issuer: str) -> None:
    """Refuse what is no URL, or would have tokens cross a network in the clear (RFC 6749 section 3.2)."""
    try:
        parts = split_url(issuer)
    except ValueError as error:
        raise AgentgwError(f"{issuer} {error}") from None
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise AgentgwError(f"{issuer} is plain http, and tokens go over https only: use that")


def _judge(answer: httpx2.Response, issuer: str, expected: str) -> dict[str, Any]:
    body = _members(answer)
    if answer.status_code == 200 and _is_token(body.get(expected)):
        return body
    error, description = str(body.get("error", "")), str(body.get("error_description", ""))
    if answer.status_code >= 500 or answer.status_code == 429:
        raise Unreachable(
            f"the gateway cannot answer now ({answer.status_code}): {description or 'try again'}"
        )
    if not error:
        raise AgentgwError(f"{issuer} answered {answer.status_code} and is no gateway of ours")
    raise Denied(error, description, answer.headers.get("agentgw-event-id"))


def _members(answer: httpx2.Response) -> dict[str, Any]:
    if len(answer.content) > ANSWER_LIMIT:
        return {}
    try:
        body = json.loads(answer.content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def _is_token(value: object) -> bool:
    """Visible ASCII (RFC 6750 section 2.1): a token is printed, and must not move a terminal's cursor."""
    return isinstance(value, str) and value.isascii() and value.isprintable()
