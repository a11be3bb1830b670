"""What must hold between an agent's ways to prove itself and what the gateway can see of them."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .conftest import HEAD, Load, Refusal

TLS_AUTH = "auth: {tls_client_auth: {san_dns: a.example}}"


WORKLOAD = "'spiffe://a.example/b'"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("client_certificates: {header: true}", "header: true without trusted_proxies"),
        ("client_certificates: {ca: nowhere.pem}", "ca is no file that can be read"),
        (f"agents: {{a: {{{TLS_AUTH}}}}}", "none can arrive"),
        (
            f"agents: {{a: {{{TLS_AUTH}}}}}\ntrusted_proxies: [10.0.0.0/8]\n"
            "client_certificates: {header: true}",
            "tls_client_auth without client_certificates.ca",
        ),
        (
            f"agents: {{a: {{{TLS_AUTH}}}, b: {{{TLS_AUTH}}}}}\ntrusted_proxies: [10.0.0.0/8]\n"
            "client_certificates: {header: true, ca: coder.jwks.json}",
            "this certificate already means the agent a",
        ),
        ("agents: {a: {auth: {tls_client_auth: {}}}}", "should have exactly one of subject_dn"),
        (
            "agents: {a: {auth: {tls_client_auth: {san_dns: a, san_uri: b}}}}",
            "should have exactly one of subject_dn",
        ),
        ("agents: {a: {auth: {tls_client_auth: {subject_dn: a}}}}", "subject_dn cannot be read"),
        ("agents: {a: {auth: {tls_client_auth: {san_ip: a}}}}", "san_ip cannot be read"),
        ("agents: {a: {auth: {self_signed_tls_client_auth: hello}}}", "cannot be used"),
        (f"agents: {{a: {{auth: {{spiffe_id: {WORKLOAD}}}}}}}", "unknown trust domain 'a.example'"),
        (
            f"agents: {{a: {{auth: {{spiffe_id: {WORKLOAD}}}}}, b: {{auth: {{spiffe_id: {WORKLOAD}}}}}}}\n"
            "spiffe: {a.example: {bundle: 'file:x.json'}}",
            "this workload already is the agent a",
        ),
        ("agents: {a: {auth: {spiffe_id: 'spiffe://a.example'}}}", "names no workload"),
        ("agents: {a: {auth: {spiffe_id: 'https://a.example/b'}}}", "it is no SPIFFE ID"),
        ("spiffe: {A.example: {bundle: 'file:x.json'}}", "should be a trust domain"),
        ("spiffe: {a.example: {bundle: 'x.json'}}", "should be an absolute https URL"),
        ("spiffe: {a.example: {bundle: 'http://b.example'}}", "plain http or loopback"),
        ("agents: {a: {require: client}}", "with each request, and none can come"),
        (
            "agents: {a: {require: client, auth: {secret: a-long-enough-secret}}}\n"
            "trusted_proxies: [10.0.0.0/8]\nclient_certificates: {header: true}",
            "with each request, and none can come",
        ),
        ("agents: {a: {client_credentials: {}}}", "an agent that cannot authenticate"),
        ("agents: {a: {auth: {secret: fifteen-letters}}}", "can be guessed: it has 15 characters"),
        ("agents: {a: {auth: {api_key_hash: agk_x}}}", "should be what `agentgw agent key` shows"),
        (
            "agents: {a: {auth: {self_signed_tls_client_auth: 'BEGIN PRIVATE KEY'}}}",
            "holds a private key",
        ),
    ],
)
def test_certificates_that_could_prove_nobody_are_refused(
    refuse: Refusal, lines: str, message: str
) -> None:
    assert message in refuse(HEAD + lines + "\n").message


def test_a_client_secret_that_can_be_guessed_is_refused_on_a_laptop_too(refuse: Refusal) -> None:
    head = "version: 1\npublic_url: http://localhost:7117\ndev: true\n"
    error = refuse(head + "agents:\n  a:\n    auth: {secret: hush}\n")
    assert error.line == 6
    assert "can be guessed: it has 4 characters" in error.message and "hush" not in str(error)
    assert "agentgw agent key a" in str(error)


def test_a_secret_of_sixteen_characters_passes(read: Load) -> None:
    assert read(HEAD + "agents: {a: {auth: {secret: abcdefghijklmnop}}}\n").agents["a"].auth


def test_a_terminator_on_our_unix_socket_needs_no_network(read: Load) -> None:
    unix = "listen: unix:/run/gw.sock\nclient_certificates: {header: true}\n"
    assert read(HEAD + unix).client_certificates.header


def test_grants_may_ask_for_a_certificate(read: Load) -> None:
    row = "agents: {a: {}}\ngrants: [{agents: [a], methods: ['*/*'], min_evidence: mtls}]\n"
    assert read(HEAD + row).grants[0].min_evidence == "mtls"


def test_a_bare_key_needs_a_terminator_that_tells_the_certificate(
    refuse: Refusal, read: Load
) -> None:
    key = generate_private_key(SECP256R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    agents = f"agents: {{a: {{auth: {{self_signed_tls_client_auth: {json.dumps(pem)}}}}}}}\n"
    tls = "tls: {cert: coder.jwks.json, key: coder.jwks.json}\n"
    assert "behind a terminator only" in refuse(HEAD + tls + agents).message
    header = "trusted_proxies: [10.0.0.0/8]\nclient_certificates: {header: true}\n"
    assert read(HEAD + tls + header + agents).agents["a"].auth
