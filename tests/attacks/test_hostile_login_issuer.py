"""A login issuer that lies: in its discovery document, at its token endpoint, in its ID tokens."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.responses import JSONResponse, RedirectResponse, Response

from agentgw.core.canonical import b64url
from tests.harness import wait_for
from tests.people import Visitor
from tests.scripted_issuer import Scene, scene


@pytest.fixture
def alice() -> Iterator[Visitor]:
    with Visitor() as browser:
        yield browser


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("gateway")) as opened:
        yield opened


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Where discovery goes wrong, since a gateway remembers that for a moment."""
    with scene(tmp_path_factory.mktemp("lying")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _honest_again(at: Scene, lying: Scene) -> Iterator[None]:
    yield
    for each in (at, lying):
        each.issuer.claims, each.issuer.metadata = {}, {}
        each.issuer.token = each.issuer.discovery = each.issuer.keys = None


EVIL = "https://evil.example"


@pytest.mark.parametrize(
    "lie",
    [
        {"issuer": EVIL}, {"issuer": None}, {"issuer": ["x"]},
        {"authorization_endpoint": None}, {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "data:text/html,x"}, {"authorization_endpoint": "/authorize"},
        {"authorization_endpoint": f"{EVIL}\r\nSet-Cookie: a=b"},
        {"authorization_endpoint": "https://user@evil.example/"},
        {"authorization_endpoint": f"{EVIL}/#"},
        {"authorization_endpoint": f"{EVIL}/?redirect_uri=https://evil.example"},
        {"code_challenge_methods_supported": ["plain"]},
        {"code_challenge_methods_supported": "S256"},
    ],
)  # fmt: skip
def test_a_discovery_document_that_lies_sends_nobody_anywhere(
    lying: Scene, alice: Visitor, lie: dict[str, Any]
) -> None:
    lying.issuer.metadata = lie
    lying.gateway.reload()  # so that it asks anew
    page = lying.begin(alice)
    assert page.status == 503 and "not possible now" in page.words
    assert "evil" not in page.html and alice.cookies() == {}


def slow() -> Response:
    time.sleep(6)
    return JSONResponse({})


@pytest.mark.parametrize(
    "answer",
    [
        lambda: Response("<html>", media_type="text/html"),
        lambda: Response(b"{" * 100_000, media_type="application/json"),
        lambda: Response(b'{"issuer": "' + b"x" * 300_000 + b'"}', media_type="application/json"),
        lambda: JSONResponse(["x"]),
        lambda: JSONResponse({}, 500),
        lambda: RedirectResponse(EVIL),
        lambda: Response(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}),
        slow,
    ],
    ids=["html", "deep", "huge", "list", "500", "redirect", "gzip", "slow"],
)
def test_a_discovery_document_that_is_none_sends_nobody_anywhere(
    lying: Scene, alice: Visitor, answer: Callable[[], Response]
) -> None:
    lying.issuer.discovery = answer
    lying.gateway.reload()
    page = lying.begin(alice)
    assert page.status == 503 and "not possible now" in page.words
    with lying.gateway.client() as client:
        assert client.get("/readyz").status_code == 200


def test_twice_the_same_member_is_no_document(lying: Scene, alice: Visitor) -> None:
    honest = json.dumps(lying.issuer.honest_metadata())
    text = honest[:-1] + f', "authorization_endpoint": "{EVIL}"}}'
    lying.issuer.discovery = lambda: Response(text, media_type="application/json")
    lying.gateway.reload()
    assert lying.begin(alice).status == 503


def test_an_issuer_that_mends_its_ways_is_used_again(lying: Scene) -> None:
    def signs_in() -> bool:
        with Visitor() as browser:
            return lying.sign_in(browser).status == 200

    lying.issuer.metadata = {"issuer": EVIL}
    lying.gateway.reload()
    assert not signs_in()
    lying.issuer.metadata = {}
    wait_for(signs_in, "the gateway to ask again")


def test_without_the_issuers_keys_nobody_is_believed_or_blamed(
    lying: Scene, alice: Visitor
) -> None:
    lying.issuer.keys = lambda: JSONResponse({}, 500)
    lying.gateway.stop()
    before = len(lying.gateway.records())
    lying.gateway.start()
    page = lying.sign_in(alice)
    assert page.status == 503 and not lying.is_signed_in(alice)
    since = lying.gateway.records()[before:]
    assert not any(record["method"] == "login/sign-in" for record in since)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda said: JSONResponse({"error": "invalid_grant"}, 400), 400),
        (lambda said: JSONResponse(said), 400),
        (lambda said: JSONResponse({**said, "id_token": ""}), 400),
        (lambda said: JSONResponse({**said, "id_token": "a.b.c"}), 400),
        (lambda said: JSONResponse({**said, "id_token": {"sub": "alice"}}), 400),
        (lambda said: JSONResponse({**said, "id_token": "x" * 100_000}), 400),
        (lambda said: JSONResponse(["x"]), 400),
        (lambda said: RedirectResponse(EVIL, 307), 503),
        (lambda said: JSONResponse({}, 500), 503),
        (lambda said: Response("<b>hello</b>"), 503),
        (lambda said: Response(b"x" * 300_000), 503),
    ],
    ids=["refused", "no-id-token", "empty", "no-jwt", "object", "large", "list", "redirect",
         "500", "html", "huge"],
)  # fmt: skip
def test_a_token_answer_that_is_none_signs_nobody_in(
    at: Scene, alice: Visitor, answer: Callable[[dict[str, Any]], Response], status: int
) -> None:
    at.issuer.token = answer
    page = at.sign_in(alice)
    assert page.status == status and not at.is_signed_in(alice)
    assert "hello" not in page.html


def forged(header: dict[str, str], claims: dict[str, Any], secret: bytes | None = None) -> str:
    parts = [b64url(json.dumps(each).encode()) for each in (header, claims)]
    signed = ".".join(parts).encode()
    mac = b"" if secret is None else hmac.digest(secret, signed, "sha256")
    return ".".join([*parts, b64url(mac)])


def unsigned(at: Scene) -> str:
    return forged({"alg": "none", "kid": "k1"}, at.issuer.honest_claims())


def by_public_key(at: Scene) -> str:
    """The old trick: the public key, which everybody has, as the secret of an HMAC."""
    public = at.issuer.key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return forged({"alg": "HS256", "kid": "k1"}, at.issuer.honest_claims(), pem)


def by_another_key(at: Scene) -> str:
    return at.issuer.id_token(ec.generate_private_key(ec.SECP256R1()))


def with_its_own_key(at: Scene) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    member = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return at.issuer.id_token(key, jwk=member)


def of_an_unknown_key(at: Scene) -> str:
    return at.issuer.id_token(kid="k2")


def of_another_kind(at: Scene) -> str:
    return at.issuer.id_token(typ="at+jwt")


def changed(at: Scene) -> str:
    head, _, signature = at.issuer.id_token().split(".")
    claims = b64url(json.dumps({**at.issuer.honest_claims(), "sub": "root"}).encode())
    return ".".join((head, claims, signature))


@pytest.mark.parametrize(
    "forge",
    [unsigned, by_public_key, by_another_key, with_its_own_key, of_an_unknown_key,
     of_another_kind, changed],
)  # fmt: skip
def test_a_forged_id_token_signs_nobody_in(
    at: Scene, alice: Visitor, forge: Callable[[Scene], str]
) -> None:
    at.issuer.token = lambda said: JSONResponse({**said, "id_token": forge(at)})
    page = at.sign_in(alice)
    assert page.status == 400 and "does not prove who you are" in page.words
    assert not at.is_signed_in(alice)
    record = at.gateway.records()[-1]
    assert (record["method"], record["decision"]) == ("login/sign-in", "deny")


@pytest.mark.parametrize(
    "claims",
    [{"sub": None}, {"sub": "a\nb"}, {"sub": ["alice"]}, {"exp": 1}, {"exp": None}, {"iat": None},
     {"iat": 1}, {"aud": ["agentgw", "other"]}, {"nonce": None}, {"auth_time": "now"}],
)  # fmt: skip
def test_an_id_token_with_senseless_claims_signs_nobody_in(
    at: Scene, alice: Visitor, claims: dict[str, Any]
) -> None:
    at.issuer.claims = claims
    page = at.sign_in(alice)
    assert page.status == 400 and not at.is_signed_in(alice)


def test_a_name_is_shown_and_never_run(at: Scene, alice: Visitor) -> None:
    at.issuer.claims = {"name": "<img src=x onerror=alert(1)>"}
    page = at.sign_in(alice)
    assert page.status == 200 and "<img" not in page.html


def test_groups_that_are_none_grant_nothing(at: Scene, alice: Visitor) -> None:
    for groups in ("admins", {"a": 1}, [1], [["x"]], list(map(str, range(3000)))):
        at.issuer.claims = {"groups": groups}
        with Visitor() as browser:
            assert at.sign_in(browser).status == 200


def test_no_secret_of_the_flow_is_in_log_or_records(at: Scene, alice: Visitor) -> None:
    at.sign_in(alice)
    form = at.issuer.redeemed[-1]
    written = at.gateway.output + json.dumps(at.gateway.records())
    secrets = (
        at.gateway.config["login"]["client_secret"], form["code_verifier"], at.issuer.nonce,
        *alice.cookies().values(),
    )  # fmt: skip
    for secret in secrets:
        assert secret and secret not in written
