"""Bound tokens at our doors: what came along with one, and whether it proves what the token demands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from agentgw.core.certificate import ClientCertificate
from agentgw.core.possession import Binding, Presented, check_presented
from agentgw.errors import InvalidProof, InvalidToken, OAuthError
from agentgw.http.request import Scope

_DPOP = b"dpop"


class Nonces(Protocol):
    """Gives the nonce that proofs are to carry (RFC 9449 section 8)."""

    def current(self, now: float) -> str: ...


class Proofs(Protocol):
    """Verifies the DPoP proof of a request. Raises InvalidProof or Unavailable."""

    @property
    def nonces(self) -> Nonces | None: ...

    async def verify(
        self,
        proofs: Sequence[bytes],
        *,
        method: str,
        url: str,
        now: float,
        token: bytes | None = None,
        jkt: str | None = None,
    ) -> str: ...


@dataclass(frozen=True, slots=True)
class Possession:
    """Sees to it that bound tokens are proven, at `/mcp` and at the token endpoint.

    `algorithms` are those a proof may be signed with; `certificate_of` gives the TLS certificate that
    the client of a request showed, and is None where none can arrive; it may raise RefusedRequest.
    """

    proofs: Proofs
    public_url: str
    algorithms: tuple[str, ...]
    certificate_of: Callable[[Scope], ClientCertificate | None] | None = None

    @property
    def metadata(self) -> dict[str, object]:
        """What metadata say of bound tokens, of a resource and of the token endpoint alike (RFC 9449
        section 5.1, RFC 8705 section 3.3, RFC 9728 section 2)."""
        found: dict[str, object] = {"dpop_signing_alg_values_supported": list(self.algorithms)}
        if self.certificate_of is not None:
            found["tls_client_certificate_bound_access_tokens"] = True
        return found

    async def check(
        self, binding: Binding | None, scope: Scope, token: bytes, by_dpop: bool, now: float
    ) -> None:
        """Refuse a request whose token is bound and not proven, or comes under the wrong scheme.

        `by_dpop` tells that `token` came as `Authorization: DPoP` (RFC 9449 section 7.1); where the
        token is bound to a certificate only, that is wrong. Raises InvalidToken or Unavailable.
        """
        jkt = None if binding is None else binding.jkt
        if by_dpop and jkt is None:
            raise InvalidProof(
                "the token is not bound to a DPoP key: present it as Bearer", "invalid_token"
            )
        if jkt is not None and not by_dpop:
            raise InvalidProof(
                "the token is bound to a DPoP key: present it as DPoP, with a proof",
                "invalid_token",
            )
        if jkt is not None:
            jkt = await self._verify(scope, now, token, jkt)
        x5t = None
        if binding is not None and binding.x5t is not None:
            x5t = self._thumbprint(scope)
        check_presented(binding, Presented(jkt, x5t))

    async def presented(self, scope: Scope, now: float) -> Presented:
        """What a request to the token endpoint proves besides its client's credentials (section 5).

        Raises OAuthError or Unavailable.
        """
        try:
            jkt = await self._verify(scope, now) if _proofs_of(scope) else None
        except InvalidProof as error:
            raise OAuthError(error.error, error.reason) from None
        return Presented(jkt, self._thumbprint(scope))

    def _thumbprint(self, scope: Scope) -> str | None:
        certificate = None if self.certificate_of is None else self.certificate_of(scope)
        return None if certificate is None else certificate.thumbprint

    async def _verify(
        self, scope: Scope, now: float, token: bytes | None = None, jkt: str | None = None
    ) -> str:
        # The path was matched to the letter; host and scheme are ours to say, never the request's.
        return await self.proofs.verify(
            _proofs_of(scope),
            method=scope["method"],
            url=self.public_url + scope["path"],
            now=now,
            token=token,
            jkt=jkt,
        )

    def nonce(self, now: float) -> str | None:
        """The nonce to hand out with an answer, None where none is asked for (section 8.2)."""
        nonces = self.proofs.nonces
        return None if nonces is None else nonces.current(now)

    def nonce_header(self, now: float) -> dict[str, str]:
        """The same as a header of the token endpoint's answer."""
        nonce = self.nonce(now)
        return {} if nonce is None else {"DPoP-Nonce": nonce}

    def challenge(self, scope: Scope, error: InvalidToken, now: float) -> tuple[str, str, bytes]:
        """The scheme and the error code of a 401, and its further header lines (section 7.1).

        DPoP is named to whoever used it or should have.
        """
        proof = isinstance(error, InvalidProof)
        if not proof and not _is_dpop(scope):
            return "Bearer ", "invalid_token", b""
        code = error.error if isinstance(error, InvalidProof) else "invalid_token"
        nonce = self.nonce(now)
        line = b"" if nonce is None else b"dpop-nonce: " + nonce.encode("ascii") + b"\r\n"
        return f'DPoP algs="{" ".join(self.algorithms)}", ', code, line


def dpop_token(headers: dict[bytes, bytes]) -> bytes | None:
    """The token of `Authorization: DPoP <token>` (RFC 9449 section 7.1), None for another scheme."""
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != _DPOP:
        return None
    token = token.strip(b" ")
    if not token or b" " in token or b"," in token:
        raise InvalidToken("the Authorization header holds no DPoP token")
    return token


def _is_dpop(scope: Scope) -> bool:
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    return bool(values) and values[0].partition(b" ")[0].lower() == _DPOP


def _proofs_of(scope: Scope) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == _DPOP]
