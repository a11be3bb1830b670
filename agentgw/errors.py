"""One root, and types that say who is to blame: the caller, policy, the upstream, or us.

Every message states what happened and what would mend it; none ever holds a token or a secret.
"""

from __future__ import annotations


class AgentgwError(Exception):
    """Root of all errors this package raises on purpose."""


class CallerError(AgentgwError):
    """The caller sent something we must refuse before policy is asked."""


class InvalidToken(CallerError):
    """A credential that names nobody: forged, expired, foreign or malformed (RFC 6750 section 3.1).

    `reason` says which check failed, in words that hold no part of the token.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class UnverifiableToken(InvalidToken):
    """A credential that may be genuine: the keys that would tell cannot be had now."""


class InvalidProof(InvalidToken):
    """A token that did not come with the DPoP proof it needs (RFC 9449 section 7.1).

    `error` is the code to answer: `invalid_dpop_proof`, `use_dpop_nonce`, or `invalid_token` where the
    proof is sound but the token is bound otherwise.
    """

    def __init__(self, reason: str, error: str = "invalid_dpop_proof") -> None:
        super().__init__(reason)
        self.error = error


class MalformedMessage(CallerError):
    """Bytes that are no acceptable JSON-RPC message, with the HTTP status and JSON-RPC code to answer.

    `request_id` is that of the message, once one could be read (JSON-RPC 2.0 section 5).
    """

    def __init__(
        self, status: int, code: int, message: str, data: dict[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.data = data
        self.request_id: str | int | None = None


class OAuthError(CallerError):
    """A refusal of the OAuth endpoints: `error` is the RFC's code, `status` the HTTP status.

    `claimed` is the client that a request without proof said it came from: the word of a stranger.
    """

    claimed: str | None = None

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.status = status


class UpstreamFailed(AgentgwError):
    """A tool server was unreachable, slow, too large or broke the protocol. `reason` is safe to show."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CredentialRefused(UpstreamFailed):
    """A tool server did not take the credential it was sent: its HTTP `status`, and its `challenge`
    (WWW-Authenticate), where there was one."""

    def __init__(self, reason: str, status: int, challenge: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.challenge = challenge


class ConnectRequired(UpstreamFailed):
    """Nobody connected the account that a tool server wants; `scopes` are those to ask for.

    `link` lets the user whose account it would be connect it; None where there is no such user.
    """

    def __init__(self, reason: str, scopes: frozenset[str], link: str | None = None) -> None:
        super().__init__(reason)
        self.scopes = scopes
        self.link = link


class AnswerRefused(UpstreamFailed):
    """An authorization server answered with another credential than was asked for.

    `difference` says which member differs, what was expected of it and what it was; for the record.
    """

    def __init__(self, reason: str, difference: dict[str, object]) -> None:
        super().__init__(reason)
        self.difference = difference


class Unavailable(AgentgwError):
    """We cannot do our duty (log or store cannot be written): nothing is done, 503 is answered."""


class Unreadable(Unavailable):
    """Something sealed does not open: it was altered or moved, or the key it was sealed under is gone."""


class ConfigError(AgentgwError):
    """The configuration is wrong: where (file, line from 1 or 0 if unknown), what, and what would mend it."""

    def __init__(self, file: str, line: int, message: str, hint: str = "") -> None:
        place = f"{file}:{line}" if line else file
        super().__init__(f"{place}: {message}" + (f" ({hint})" if hint else ""))
        self.file = file
        self.line = line
        self.message = message
        self.hint = hint
