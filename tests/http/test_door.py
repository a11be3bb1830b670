"""Who may knock, and how: credentials, paths, Host, Origin, methods, sizes and types."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from mcp.client.auth.utils import extract_field_from_www_auth, extract_scope_from_www_auth

from tests.door import JSON_TYPE, Door
from tests.harness import modern_call, modern_message


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(door: Door, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    base = {
        "iss": door.issuer.url, "sub": "alice", "aud": f"{door.gw.url}/mcp", "azp": "planner",
        "scope": "tickets.read", "iat": now, "exp": now + 600, "jti": "forged",
    }  # fmt: skip
    return {**base, **changes}


def signed(door: Door, header: dict[str, Any], payload: bytes) -> str:
    head = b64(json.dumps({"kid": "k1", "typ": "at+jwt", **header}).encode())
    signing = f"{head}.{b64(payload)}"
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(
        signing.encode(), door.issuer.key
    )
    return f"{signing}.{b64(signature)}"


def hmac_with_public_key(door: Door) -> str:
    pem = door.issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = b64(b'{"alg":"HS256","kid":"k1","typ":"at+jwt"}')
    signing = f"{head}.{b64(json.dumps(claims(door)).encode())}"
    return f"{signing}.{b64(hmac.digest(pem, signing.encode(), hashlib.sha256))}"


def double_member(door: Door) -> str:
    text = json.dumps(claims(door))
    return signed(door, {"alg": "ES256"}, f'{text[:-1]}, "sub": "root"}}'.encode())


def signed_by_a_stranger(door: Door) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    header = {"kid": "k1", "typ": "at+jwt"}
    return jwt.encode(claims(door), key, "ES256", headers=header)


def without_signature(door: Door, alg: str) -> str:
    head = b64(json.dumps({"alg": alg, "kid": "k1", "typ": "at+jwt"}).encode())
    return f"{head}.{b64(json.dumps(claims(door)).encode())}."


FORGED: dict[str, Callable[[Door], str]] = {
    "not a token": lambda door: "abc",
    "empty parts": lambda door: "..",
    "expired": lambda door: door.gw.token(exp=int(time.time()) - 1),
    "four seconds left": lambda door: door.gw.token(exp=int(time.time()) + 4),
    "not yet valid": lambda door: door.gw.token(nbf=int(time.time()) + 3600),
    "foreign audience": lambda door: door.issuer.token("https://elsewhere.example/mcp"),
    "one foreign audience": lambda door: door.gw.token(
        aud=[f"{door.gw.url}/mcp", "https://evil.example"]
    ),
    "hand-over audience": lambda door: door.issuer.token(f"{door.gw.url}/a2a/coder"),
    "foreign issuer": lambda door: door.gw.token(iss="https://evil.example"),
    "our own issuer": lambda door: door.gw.token(iss=door.gw.url),
    "signed by a stranger": signed_by_a_stranger,
    "alg none": lambda door: without_signature(door, "none"),
    "alg nOnE": lambda door: without_signature(door, "nOnE"),
    "unsigned ES256": lambda door: without_signature(door, "ES256"),
    "HS256 with the public key": hmac_with_public_key,
    "duplicate member": double_member,
    "oversized": lambda door: door.gw.token(padding="x" * 17_000),
    "padded": lambda door: door.gw.token() + "==",
    "an ID token": lambda door: door.gw.token(nonce="n"),
    "jku": lambda door: signed(
        door,
        {"alg": "ES256", "jku": "http://evil.example"},
        json.dumps(claims(door)).encode(),
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_refuses_a_forged_token_with_invalid_token(door: Door, kind: str) -> None:
    with door.untouched():
        token = FORGED[kind](door)
        answer = door.post(modern_call("time__echo", {}), token=token)
        assert answer.status == 401
        challenge = answer.headers["www-authenticate"]
        assert 'error="invalid_token"' in challenge
        assert f'resource_metadata="{door.gw.url}/.well-known' in challenge
        assert "agentgw-event-id" not in answer.headers
        assert token.encode() not in answer.body


def test_without_credentials_the_challenge_names_the_metadata_and_no_error(door: Door) -> None:
    with door.untouched():
        answer = door.post(modern_call("time__echo", {}), drop=("Authorization",))
        assert answer.status == 401
        metadata = f"{door.gw.url}/.well-known/oauth-protected-resource/mcp"
        assert (
            answer.headers["www-authenticate"]
            == f'Bearer scope="tickets.admin", resource_metadata="{metadata}"'
        )


@pytest.mark.parametrize("server", ["time", "nowhere", "hidden", "UPPER_case"])
def test_every_server_path_asks_for_a_token_and_has_metadata(door: Door, server: str) -> None:
    path = f"/mcp/{server}"
    answer = door.post(modern_call("echo", {}), path=path, drop=("Authorization",))
    assert answer.status == 401
    found = httpx2.Response(401, headers=answer.headers)
    metadata = extract_field_from_www_auth(found, "resource_metadata")
    assert metadata == f"{door.gw.url}/.well-known/oauth-protected-resource{path}"
    document = httpx2.get(metadata, trust_env=False).json()
    assert document["resource"] == f"{door.gw.url}{path}"
    assert document["authorization_servers"] == [door.issuer.url]


def test_the_official_sdk_reads_our_challenges(door: Door) -> None:
    answer = door.post(modern_call("time__echo", {}), drop=("Authorization",))
    response = httpx2.Response(answer.status, headers=answer.headers)
    assert extract_scope_from_www_auth(response) == "tickets.admin"
    answer = door.post(modern_call("time__fail", {}))
    response = httpx2.Response(answer.status, headers=answer.headers)
    assert extract_field_from_www_auth(response, "error") == "insufficient_scope"
    assert extract_scope_from_www_auth(response) == "tickets.admin"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/mcp?access_token={token}", {}),
        ("/mcp", {"Cookie": "access_token={token}; Authorization=Bearer {token}"}),
        ("/mcp", {"X-Authorization": "Bearer {token}"}),
        ("/mcp", {"Proxy-Authorization": "Bearer {token}"}),
        ("/mcp", {"Agentgw-Subject-Token": "{token}"}),
        ("/mcp", {"Authorization": "Basic {token}"}),
    ],
)
def test_a_token_anywhere_but_in_authorization_is_none(
    door: Door, path: str, headers: dict[str, str]
) -> None:
    token = door.gw.token()
    filled = {name: value.replace("{token}", token) for name, value in headers.items()}
    drop = () if "Authorization" in headers else ("Authorization",)
    with door.untouched():
        answer = door.post(
            modern_call("time__echo", {}), filled, path=path.replace("{token}", token), drop=drop
        )
        assert answer.status == 401
        assert "error=" not in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "value",
    ["Bearer", "Bearer ", "Bearer a b", "Bearer {token}, Bearer {token}", "Bearer\t{token}"],
)
def test_a_malformed_authorization_header_is_an_invalid_token(door: Door, value: str) -> None:
    with door.untouched():
        filled = value.replace("{token}", door.gw.token())
        answer = door.post(modern_call("time__echo", {}), {"Authorization": filled})
        assert answer.status == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize(
    "name", ["Authorization", "Mcp-Method", "Mcp-Name", "MCP-Protocol-Version", "Content-Type"]
)
def test_refuses_a_deciding_header_that_stands_twice(door: Door, name: str) -> None:
    with door.untouched():
        # A second spelling makes a second line of the same header.
        message = modern_call("time__echo", {})
        other = {
            "Authorization": f"Bearer {door.gw.token()}", "Mcp-Method": "tools/call",
            "Mcp-Name": "time__echo", "MCP-Protocol-Version": "2026-07-28",
            "Content-Type": JSON_TYPE,
        }[name]  # fmt: skip
        answer = door.post(message, {name.upper(): other, name.lower(): other})
        assert answer.status == 400


def test_a_token_for_one_server_works_there_only(door: Door) -> None:
    token = door.exchange(f"{door.gw.url}/mcp/time")
    assert door.post(modern_call("echo", {}), path="/mcp/time", token=token).status == 200
    with door.untouched():
        for path in ("/mcp", "/mcp/other", "/mcp/nowhere"):
            answer = door.post(modern_call("echo", {}), path=path, token=token)
            assert answer.status == 401
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("server", ["nowhere", "hidden"])
def test_an_unknown_and_a_forbidden_server_look_alike(door: Door, server: str) -> None:
    with door.untouched():
        answer = door.post(modern_call("echo", {}), path=f"/mcp/{server}")
        assert (answer.status, answer.body) == (404, b"there is no such server\n")
        assert answer.headers["agentgw-event-id"]


@pytest.mark.parametrize(
    "path",
    [
        "/mcp/", "/mcp/time/", "/mcp//time", "//mcp", "/mcp%2Ftime", "/mcp/%74ime", "/MCP", "/mcp/..",
        "/mcp/../mcp/time", "/mcp/a.b", "/mcp;x=1", "/", "/version", "/metrics", "/oauth/token/",
        "/.well-known/oauth-protected-resource/mcp/a/b", "/.well-known/oauth-protected-resource/x",
        "/docs", "/mcp/" + "a" * 65,
    ],
)  # fmt: skip
def test_everything_else_is_not_found(door: Door, path: str) -> None:
    with door.untouched():
        assert door.post(modern_call("time__echo", {}), path=path).status == 404


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "GET", "DELETE"])
def test_other_methods_are_refused_and_say_so(door: Door, method: str) -> None:
    with door.untouched():
        headers = {"Authorization": f"Bearer {door.gw.token()}"}
        answer = door.request(method, "/mcp", headers)
        assert answer.status == 405
        assert answer.headers["allow"] == "POST"
        assert answer.headers["agentgw-event-id"]
        assert door.request(method, "/mcp", {}).status == 401


def test_an_answer_to_head_has_no_body(door: Door) -> None:
    head = f"HEAD /mcp HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\n\r\n".encode()
    live = f"GET /livez HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\n\r\n".encode()
    with door.connect() as sock:
        sock.sendall(head)
        first = door.read(sock, method="HEAD")
        sock.sendall(live)
        second = door.read(sock)
    assert [answer.status for answer in first + second] == [401, 200]
    assert second[0].body == b"ok\n"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/jsonp"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=application/json"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "identity, gzip"}, 415),
        ({"X-Pad": "x" * 33_000}, 431),
        ({f"X-Pad-{n}": "x" for n in range(101)}, 431),
    ],
)  # fmt: skip
def test_refuses_the_wrong_type_coding_or_size_of_headers(
    door: Door, headers: dict[str, str], status: int
) -> None:
    with door.untouched():
        assert door.post(modern_call("time__echo", {}), headers).status == status


def test_refuses_a_request_without_a_content_type(door: Door) -> None:
    with door.untouched():
        message = modern_call("time__echo", {})
        assert door.post(message, drop=("Content-Type",)).status == 415


def test_refuses_a_huge_target(door: Door) -> None:
    with door.untouched():
        assert door.post(modern_call("time__echo", {}), path="/mcp?" + "x" * 9000).status == 414


def test_refuses_a_head_that_never_ends_before_it_takes_much_room(door: Door) -> None:
    with door.untouched():
        answers = door.raw(b"POST /mcp HTTP/1.1\r\nX-Pad: " + b"x" * 300_000)
        assert [answer.status for answer in answers] == [431]


def test_refuses_a_body_over_the_limit_announced_or_not(door: Door) -> None:
    big = json.dumps(modern_call("time__echo", {"text": "x" * 5_000_000})).encode()
    with door.untouched():
        assert door.post(big).status == 413
        chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(big), big)
        assert door.post(chunked, {"Transfer-Encoding": "chunked"}).status == 413


def test_answers_a_body_just_under_the_limit(door: Door) -> None:
    answer = door.post(modern_call("time__echo", {"text": "x" * 4_000_000}))
    assert answer.status == 200


def test_says_little_of_itself_to_strangers(door: Door) -> None:
    assert door.request("GET", "/livez", {}).body == b"ok\n"
    assert door.request("GET", "/readyz", {}).body == b"ready\n"
    page = door.request("GET", "/errors", {})
    assert all(f'id="{code}"'.encode() in page.body for code in range(46001, 46008))
    for path in ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"):
        assert json.loads(door.request("GET", path, {}).body)["issuer"] == door.gw.url
    answer = door.post(modern_message("tools/list", {}), drop=("Authorization",))
    assert b"time" not in answer.body
    assert "server" not in answer.headers


def test_every_answer_to_an_authenticated_request_names_its_event(door: Door) -> None:
    messages: list[Any] = [
        modern_call("time__echo", {}), modern_call("nothing", {}), modern_message("tools/list", {}),
        modern_message("server/discover", {}), modern_message("no/such", {}), b"{", b"[]",
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ]  # fmt: skip
    ids = [door.post(message).headers["agentgw-event-id"] for message in messages]
    assert len(set(ids)) == len(ids)


def test_a_refusal_at_the_door_of_somebody_known_is_on_record(door: Door) -> None:
    event_id = door.post(b"{").headers["agentgw-event-id"]
    records = [r for r in door.gw.records() if r["event_id"] == event_id]
    assert [(r["decision"], r["method"]) for r in records] == [("deny", "mcp/refused")]
    assert records[0]["subject"] == {"iss": "laptop", "sub": "alice"}
