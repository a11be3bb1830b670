"""Bound tokens at the front door: stolen, replayed, bent, badly proven (RFC 9449 section 11)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.warnings import InsecureKeyLengthWarning

from tests.door import Answered, Door, _Wire
from tests.door import door as open_door
from tests.dpop import Prover, b64, unsigned
from tests.harness import modern_call, modern_headers, wait_for
from tests.integration.test_serve import children_of

CALL = modern_call("time__echo", {"text": "hello"})


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Two workers, and an agent that must prove possession."""
    clients = [{"issuer": "laptop", "client_id": "strict", "confidential": True}]
    agents = {
        "planner": {
            "clients": [{"issuer": "laptop", "client_id": "planner", "confidential": True}],
            "auth": {"secret": "planner-secret-for-tests"},
        },
        "strict": {"clients": clients, "require": "dpop"},
    }
    grants = [
        {"users": ["*"], "tools": ["time/*", "other/echo"]},
        {"agents": ["planner", "strict"], "tools": ["time/*"]},
        {"agents": ["planner"], "tools": ["other/echo"], "min_evidence": "dpop"},
    ]
    folder = tmp_path_factory.mktemp("dpop")
    with open_door(folder, workers=2, agents=agents, grants=grants) as opened:
        yield opened


@pytest.fixture
def prover() -> Prover:
    return Prover()


def call(
    door: Door, token: str, *proofs: str, scheme: str = "DPoP", message: Any = CALL
) -> Answered:
    """A call with any number of DPoP headers."""
    lines = {**modern_headers(message, None), "Authorization": f"{scheme} {token}"}
    head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    head += "".join(f"DPoP: {proof}\r\n" for proof in proofs)
    body = json.dumps(message).encode()
    answers = door.raw(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert len(answers) == 1, answers
    return answers[0]


def bound(door: Door, prover: Prover, **claims: Any) -> str:
    return door.gw.token(cnf=prover.cnf, **claims)


def url(door: Door, path: str = "/mcp") -> str:
    return f"{door.gw.url}{path}"


def refused(answer: Answered, code: str, *words: str) -> None:
    assert answer.status == 401, answer
    challenge = answer.headers["www-authenticate"]
    assert challenge.startswith('DPoP algs="ES256 '), challenge
    assert f'error="{code}"' in challenge, challenge
    assert "resource_metadata=" in challenge
    for word in words:
        assert word in challenge, challenge


def test_a_bound_token_with_its_proof_is_served(door: Door, prover: Prover) -> None:
    token = bound(door, prover)
    for _ in range(2):
        answer = call(door, token, prover.proof("POST", url(door), token))
        assert (answer.status, b"hello" in answer.body) == (200, True), answer
    assert "dpop-nonce" not in answer.headers
    spelled = url(door).replace("http://", "HTTP://") + "?x=1#y"
    assert call(door, token, prover.proof("POST", spelled, token), scheme="dPoP").status == 200


def test_a_stolen_token_without_a_proof(door: Door, prover: Prover) -> None:
    with door.untouched():
        token = bound(door, prover)
        refused(call(door, token), "invalid_dpop_proof", "no DPoP header")
        refused(call(door, token, scheme="Bearer"), "invalid_token", "bound")


def test_a_bound_token_as_bearer_even_beside_its_proof(door: Door, prover: Prover) -> None:
    with door.untouched():
        token = bound(door, prover)
        proof = prover.proof("POST", url(door), token)
        refused(call(door, token, proof, scheme="Bearer"), "invalid_token", "as DPoP")


def test_an_unbound_token_as_dpop(door: Door, prover: Prover) -> None:
    with door.untouched():
        token = door.gw.token()
        proof = prover.proof("POST", url(door), token)
        refused(call(door, token, proof), "invalid_token", "not bound")


def test_a_proof_by_the_thiefs_own_key(door: Door, prover: Prover) -> None:
    with door.untouched():
        token, thief = bound(door, prover), Prover()
        refused(call(door, token, thief.proof("POST", url(door), token)), "invalid_token")
        # The owner's public key in the header, under the thief's signature.
        proof = thief.proof("POST", url(door), token, header={"jwk": prover.jwk})
        refused(call(door, token, proof), "invalid_dpop_proof", "signature")


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"htm": "GET"}, "htm"),
        ({"htm": "post"}, "htm"),
        ({"htu": "http://gw.example.com/mcp"}, "htu"),
        ({"iat": 1_700_000_000}, "iat"),
        ({"iat": 4_000_000_000}, "iat"),
        ({"iat": "now"}, "iat"),
        ({"iat": None}, "iat"),
        ({"ath": None}, "ath"),
        ({"ath": "AAAA"}, "ath"),
        ({"jti": None}, "jti"),
        ({"jti": ["a"]}, "jti"),
        ({"jti": "x" * 300}, "jti"),
        ({"exp": 1_700_000_000}, "expired"),
    ],
)
def test_a_proof_for_something_else(
    door: Door, prover: Prover, changes: dict[str, Any], word: str
) -> None:
    with door.untouched():
        token = bound(door, prover)
        proof = prover.proof("POST", url(door), token, **changes)
        refused(call(door, token, proof), "invalid_dpop_proof", word)


def test_a_proof_for_another_path_or_another_token(door: Door, prover: Prover) -> None:
    with door.untouched():
        token, other = bound(door, prover), bound(door, prover)
        for path in ("/mcp/time", "/mcp/", "/oauth/token", ""):
            proof = prover.proof("POST", url(door, path), token)
            refused(call(door, token, proof), "invalid_dpop_proof", "htu")
        proof = prover.proof("POST", url(door), other)
        refused(call(door, token, proof), "invalid_dpop_proof", "ath")


def test_the_url_is_ours_whatever_the_host_header_says(door: Door, prover: Prover) -> None:
    with door.untouched():
        token = bound(door, prover)
        name = f"localhost:{door.port}"
        proof = prover.proof("POST", f"http://{name}/mcp", token)
        headers = {"Host": name, "Authorization": f"DPoP {token}", "DPoP": proof}
        refused(door.post(CALL, headers), "invalid_dpop_proof", "htu")


def test_two_proofs(door: Door, prover: Prover) -> None:
    with door.untouched():
        token = bound(door, prover)
        one, two = (prover.proof("POST", url(door), token) for _ in range(2))
        refused(call(door, token, one, two), "invalid_dpop_proof", "several")
        refused(call(door, token, one, one), "invalid_dpop_proof", "several")
        refused(call(door, token, f"{one}, {two}"), "invalid_dpop_proof")
        refused(call(door, token, ""), "invalid_dpop_proof")


def test_keys_and_headers_no_proof_may_have(door: Door, prover: Prover) -> None:
    with door.untouched():
        token = bound(door, prover)
        octets = {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"}
        headers: tuple[dict[str, Any], ...] = (
            {"jwk": prover.private_jwk}, {"jwk": {**prover.jwk, "k": "x"}}, {"jwk": octets},
            {"jwk": None}, {"jwk": [prover.jwk]}, {"jwk": {}}, {"typ": "JWT"}, {"typ": "at+jwt"},
            {"jku": "http://127.0.0.1/"}, {"x5c": ["AA"]},
            {"crit": ["b64"], "b64": False}, {"zip": "DEF"},
        )  # fmt: skip
        for header in headers:
            proof = prover.proof("POST", url(door), token, header)
            refused(call(door, token, proof), "invalid_dpop_proof")


def test_algorithms_no_proof_may_have(door: Door, prover: Prover) -> None:
    with door.untouched():
        token = bound(door, prover)
        claims = prover.claims("POST", url(door), token)
        head = {"typ": "dpop+jwt", "jwk": prover.jwk}
        for alg in ("none", "nOnE", "HS256", "RS256", "ES384", "EdDSA", "", None):
            for signature in (b"", bytes(64)):
                proof = unsigned({**head, "alg": alg}, claims, signature)
                refused(call(door, token, proof), "invalid_dpop_proof")
        octets = {"kty": "oct", "k": b64(bytes(32))}
        for jwk in (octets, prover.jwk):
            proof = jwt.encode(claims, bytes(32), "HS256", headers={**head, "jwk": jwk})
            refused(call(door, token, proof), "invalid_dpop_proof")


def test_bytes_that_are_no_proof(door: Door, prover: Prover) -> None:
    with door.untouched():
        token = bound(door, prover)
        good = prover.proof("POST", url(door), token)
        head, _, signature = good.split(".")
        big = prover.proof("POST", url(door), token, pad="x" * 9000)
        deep = prover.proof("POST", url(door), token, pad=json.loads("[" * 20 + "]" * 20))
        for proof in (
            "x", "a.b", "a.b.c", good + "=", good + ".", f"{head}..{signature}", good[:-4], big,
            deep, "é" + good, token, unsigned({"alg": "ES256", "typ": "dpop+jwt"}, {}, bytes(64)),
        ):  # fmt: skip
            refused(call(door, token, proof), "invalid_dpop_proof")


def test_a_replayed_proof(door: Door, prover: Prover) -> None:
    token = bound(door, prover)
    proof = prover.proof("POST", url(door), token)
    assert call(door, token, proof).status == 200
    with door.untouched():
        refused(call(door, token, proof), "invalid_dpop_proof", "used before")


def test_a_proof_replayed_at_another_worker(door: Door, prover: Prover) -> None:
    token = bound(door, prover)
    with _only(door, 0) as first, _only(door, 1) as second:
        for here, there in ((first, second), (second, first)):
            proof = prover.proof("POST", url(door), token)
            assert _call_on(here, door, token, proof).status == 200
            refused(_call_on(there, door, token, proof), "invalid_dpop_proof", "used before")


@contextlib.contextmanager
def _only(door: Door, number: int) -> Iterator[socket.socket]:
    """A connection to one of the two workers: the other sleeps while it is made."""
    assert door.gw.process is not None
    wait_for(lambda: len(children_of(door.gw.process.pid)) == 2, "two workers")
    other = sorted(children_of(door.gw.process.pid))[1 - number]
    os.kill(other, signal.SIGSTOP)
    try:
        sock = door.connect()
        assert _call_on(sock, door, door.gw.token(), None).status == 200
    finally:
        os.kill(other, signal.SIGCONT)
    with sock:
        yield sock


def _call_on(sock: socket.socket, door: Door, token: str, proof: str | None) -> Answered:
    bound = {} if proof is None else {"Authorization": f"DPoP {token}", "DPoP": proof}
    lines = {**modern_headers(CALL, token), "Host": f"127.0.0.1:{door.port}", **bound}
    body = json.dumps(CALL).encode()
    head = "POST /mcp HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items())
    sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = _Wire(sock).answer("POST")
    assert answer is not None
    return answer


def test_an_agent_that_must_prove_possession(door: Door, prover: Prover) -> None:
    with door.untouched():
        plain = door.gw.token(azp="strict")
        refused(call(door, plain, scheme="Bearer"), "invalid_token", "strict must use")
    token = bound(door, prover, azp="strict")
    assert call(door, token, prover.proof("POST", url(door), token)).status == 200


def test_a_proof_raises_the_evidence_a_grant_asks_for(door: Door, prover: Prover) -> None:
    message = modern_call("other__echo", {"text": "hello"})
    assert door.post(message).code == 46001
    token = bound(door, prover)
    proof = prover.proof("POST", url(door), token)
    answer = call(door, token, proof, message=message)
    assert (answer.status, answer.code) == (200, None), answer


def test_no_proof_reaches_a_tool_server_or_the_log(door: Door, prover: Prover) -> None:
    token = bound(door, prover)
    proof = prover.proof("POST", url(door), token)
    assert call(door, token, proof).status == 200
    assert all("dpop" not in request["headers"] for request in door.seen())
    logged = b"".join(f.read_bytes() for f in (door.gw.state / "log").rglob("*") if f.is_file())
    assert proof.rpartition(".")[2].encode() not in logged + door.gw.output.encode()
    assert not door.leaks()


def test_metadata_says_that_proofs_are_taken(door: Door) -> None:
    answer = door.request("GET", "/.well-known/oauth-protected-resource/mcp", {})
    assert "ES256" in json.loads(answer.body)["dpop_signing_alg_values_supported"]
    answer = door.request("GET", "/.well-known/oauth-authorization-server", {})
    assert "ES256" in json.loads(answer.body)["dpop_signing_alg_values_supported"]


def test_a_key_too_weak_to_prove_anything(door: Door, prover: Prover) -> None:
    with door.untouched():
        token = bound(door, prover)
        small = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
        weak = Prover(small, "RS256")
        other = bound(door, weak)
        with pytest.warns(InsecureKeyLengthWarning):
            proof = weak.proof("POST", url(door), other)
        refused(call(door, other, proof), "invalid_dpop_proof", "2048")
        jwk = {"kty": "EC", "crv": "P-192", "x": b64(bytes(24)), "y": b64(bytes(24))}
        proof = prover.proof("POST", url(door), token, {"jwk": jwk})
        refused(call(door, token, proof), "invalid_token")


def test_nonces_at_the_front_door(tmp_path: Path, prover: Prover) -> None:
    with open_door(tmp_path, dpop={"nonce": True, "nonce_seconds": 3600}) as door:
        token = bound(door, prover)
        with door.untouched():
            elsewhere = b64(bytes(18))
            for nonce in (None, "", elsewhere, "é"):
                proof = prover.proof("POST", url(door), token, nonce=nonce)
                refused(answer := call(door, token, proof), "use_dpop_nonce")
                given = answer.headers["dpop-nonce"]
        proof = prover.proof("POST", url(door), token, nonce=given)
        answer = call(door, token, proof)
        assert answer.status == 200, answer
        assert answer.headers["dpop-nonce"] == given
        with door.untouched():
            refused(call(door, token, proof), "invalid_dpop_proof", "used before")
        assert "dpop-nonce" not in door.post(CALL).headers
