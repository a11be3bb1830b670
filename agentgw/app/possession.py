"""What judges bound tokens, put together from the configuration."""

from __future__ import annotations

import hmac

from agentgw.app.client_auth import ClientCredentials
from agentgw.config.model import Config
from agentgw.http.possession import Possession
from agentgw.identity import jose
from agentgw.identity.dpop import Nonces, ProofVerifier
from agentgw.registry.proofs import UsedProofs
from agentgw.sts.keys import KeyRing


def possession_by(
    config: Config, keyring: KeyRing, used: UsedProofs, credentials: ClientCredentials
) -> Possession:
    """Proofs as `config` wants them, remembered in `used`. The nonces' key is derived from the session
    key, which all workers share."""
    nonces = None
    if config.dpop.nonce:
        key = hmac.digest(keyring.session_key(), b"agentgw dpop nonce", "sha256")
        nonces = Nonces(key, config.dpop.nonce_seconds)
    proofs = ProofVerifier(used, config.dpop.proof_seconds, nonces)
    certificates = credentials.certificate_of if credentials.can_arrive else None
    return Possession(proofs, config.public_url, jose.ALGORITHMS, certificates)
