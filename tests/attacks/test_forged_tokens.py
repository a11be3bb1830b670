"""Threat: somebody presents a token that nobody we trust issued for this use.

Every row of the table is refused, and after each the honest token still names alice.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.utils import raw_to_der_signature

from agentgw.errors import InvalidToken
from agentgw.identity.jwk import UnusableKey, VerifyKey, read_jwk
from agentgw.identity.oidc import OidcKeys
from agentgw.identity.verifier import TokenVerifier
from tests.identity.forge import (
    ACME,
    CODER,
    NOW,
    OTHER,
    US,
    FixedKeys,
    OwnBooks,
    acme_claims,
    acme_token,
    b64,
    build,
    coder_entry,
    ec_key,
    ed_key,
    jwk,
    own_token,
    rsa_key,
    sign,
    sign_raw,
)

pytestmark = pytest.mark.anyio


class Lenient(FixedKeys):
    """Hands out the key of a kid whatever alg was asked for, so that verify itself must object."""

    async def find(self, kid: str | None, alg: str) -> VerifyKey:
        for member in self.jwks:
            try:
                key = read_jwk(member)
            except UnusableKey:
                continue
            if key.kid == kid:
                return key
        raise InvalidToken("unknown key")


HEADER = {"alg": "ES256", "kid": "k1", "typ": "at+jwt"}
RS_HEADER = {"alg": "RS256", "kid": "rsa", "typ": "at+jwt"}


@pytest.fixture
def door() -> TokenVerifier:
    acme = [
        jwk(ec_key()),
        jwk(rsa_key(), "rsa", alg="RS256"),
        jwk(rsa_key(1024), "weak", alg="RS256"),
        jwk(ed_key(), "enc", use="enc"),
    ]

    return build(keys={"acme": Lenient(acme), "other": Lenient([jwk(ec_key("other"))])})


async def refused(door: TokenVerifier, token: bytes) -> str:
    with pytest.raises(InvalidToken) as refusal:
        await door.authenticate(token, NOW)
    assert door.lookup(token, NOW) is None
    for part in token.split(b"."):
        assert len(part) < 12 or part.decode("latin-1") not in refusal.value.reason
    honest = await door.authenticate(acme_token(), NOW)
    assert honest.subject.name == "acme|alice"
    return refusal.value.reason


def unsigned(header: dict[str, Any], signature: bytes = b"") -> bytes:
    head, body = json.dumps(header).encode(), json.dumps(acme_claims()).encode()
    return f"{b64(head)}.{b64(body)}.{b64(signature)}".encode()


def mac(secret: bytes, header: dict[str, Any]) -> bytes:
    message = unsigned(header).rstrip(b".")
    return message + b"." + b64(hmac.digest(secret, message, hashlib.sha256)).encode()


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "none ", "", "\u006eone\u0000"])
@pytest.mark.parametrize("signature", [b"", b"x" * 64])
async def test_refuses_a_token_whose_alg_is_none(
    door: TokenVerifier, alg: str, signature: bytes
) -> None:
    assert "alg" in await refused(door, unsigned({**HEADER, "alg": alg}, signature))


@pytest.mark.parametrize(
    "alg", [None, 7, True, ["ES256"], {"ES256": 1}, "es256", "ES256K", "HS256"]
)
async def test_refuses_an_alg_that_is_not_on_the_list(door: TokenVerifier, alg: Any) -> None:
    await refused(door, sign(ec_key(), json.dumps(acme_claims()).encode(), {**HEADER, "alg": alg}))


async def test_refuses_a_header_without_alg_and_an_empty_signature(door: TokenVerifier) -> None:
    await refused(door, unsigned({"kid": "k1", "typ": "at+jwt"}))
    assert "not signed" in await refused(door, unsigned(HEADER))


def public_spellings() -> list[bytes]:
    public = rsa_key().public_key()
    published = jwk(rsa_key(), "rsa", alg="RS256")
    padding = "=" * (-len(published["n"]) % 4)
    return [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
        public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(published).encode(),
        json.dumps({"keys": [published]}).encode(),
        base64.urlsafe_b64decode(published["n"] + padding),
        published["n"].encode(),
        b"",
    ]


@pytest.mark.parametrize("number", range(9))
@pytest.mark.parametrize("alg", ["HS256", "RS256"])
async def test_refuses_a_mac_keyed_with_the_public_key(
    door: TokenVerifier, number: int, alg: str
) -> None:
    await refused(door, mac(public_spellings()[number], {**RS_HEADER, "alg": alg}))


@pytest.mark.parametrize("alg", ["PS256", "RS384", "RS512", "PS512"])
async def test_refuses_a_key_used_under_another_alg_than_its_own(
    door: TokenVerifier, alg: str
) -> None:
    token = acme_token(rsa_key(), {**RS_HEADER, "alg": alg}, alg)
    assert "alg" in await refused(door, token)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jku", "https://evil.example/jwks"),
        ("x5u", "https://evil.example/cert"),
        ("jwk", jwk(ec_key("evil"))),
        ("x5c", ["MIIB"]),
        ("crit", ["urn:x"]),
        ("crit", []),
        ("b64", False),
        ("b64", True),
        ("zip", "DEF"),
        ("jwk", None),
    ],
)
async def test_refuses_headers_that_bring_their_own_rules(
    door: TokenVerifier, name: str, value: Any
) -> None:
    assert name in await refused(door, acme_token(header={**HEADER, name: value}))


@pytest.mark.parametrize("name", ["jku", "x5u"])
async def test_a_url_in_the_header_or_the_issuer_is_never_asked(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        async with httpx2.AsyncClient() as client:
            keys = {
                "acme": FixedKeys([jwk(ec_key())]),
                "other": OidcKeys(OTHER, client, dev=True),
            }
            door = build(keys=keys)
            await refused(door, acme_token(header={**HEADER, name: url}))
            assert "issuer" in await refused(door, acme_token(iss=url))
            await refused(door, acme_token(header={**HEADER, "kid": url}))
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    "kid",
    [
        "../../etc/passwd", "' OR 1=1 --", "k1\r\nX: y", "k1\x00", "k2", "K1", " k1", "k1 ",
        "x" * 201, "x" * 9000, "", "\u212a1", None, 1, ["k1"], {"k1": 1},
    ],
)  # fmt: skip
async def test_a_kid_is_only_ever_a_name_in_the_issuers_set(door: TokenVerifier, kid: Any) -> None:
    await refused(door, acme_token(header={**HEADER, "kid": kid}))


async def test_refuses_one_issuers_token_signed_with_anothers_key_of_the_same_kid(
    door: TokenVerifier,
) -> None:
    assert "signature" in await refused(door, acme_token(ec_key("other")))
    assert "signature" in await refused(door, acme_token(iss=OTHER, aud=f"{US}/mcp"))
    assert "signing key" in await refused(door, acme_token(iss=US, aud=f"{US}/mcp"))


def with_signature(signature: bytes) -> bytes:
    return acme_token().rsplit(b".", 1)[0] + b"." + b64(signature).encode()


@pytest.mark.parametrize(
    "signature", [bytes(64), bytes(32) + b"\x01" * 32, bytes(63), bytes(65), bytes(1), b"\xff" * 64]
)
async def test_refuses_signatures_of_zeros_and_wrong_lengths(
    door: TokenVerifier, signature: bytes
) -> None:
    assert "signature" in await refused(door, with_signature(signature))


async def test_refuses_a_der_signature_and_a_flipped_bit(door: TokenVerifier) -> None:
    token = acme_token()
    raw = base64.urlsafe_b64decode(token.rsplit(b".", 1)[1] + b"==")
    head = token.rsplit(b".", 1)[0] + b"."
    der = raw_to_der_signature(raw, ec_key().curve)
    assert "length" in await refused(door, head + b64(der).encode())
    flipped = bytes([raw[0] ^ 1]) + raw[1:]
    assert "does not hold" in await refused(door, head + b64(flipped).encode())
    assert "length" in await refused(door, head + b64(raw + b"\0").encode())


async def test_refuses_weak_keys_and_keys_meant_for_encryption(door: TokenVerifier) -> None:
    await refused(door, acme_token(rsa_key(1024), {**RS_HEADER, "kid": "weak"}, "RS256"))
    await refused(door, acme_token(ed_key(), {"alg": "EdDSA", "kid": "enc", "typ": "JWT"}, "EdDSA"))


def respell(change: Callable[[list[bytes]], bytes]) -> bytes:
    return change(acme_token().split(b"."))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: b".".join(p) + b"==",
        lambda p: b".".join(p) + b"=",
        lambda p: b".".join(p) + b".",
        lambda p: b"." + b".".join(p),
        lambda p: b".".join(p) + b"\n",
        lambda p: b" " + b".".join(p),
        lambda p: b".".join(p[:2]),
        lambda p: b".".join([*p, p[2]]),
        lambda p: b".".join([*p, p[2], p[2]]),
        lambda p: b".".join([p[0] + b"=", p[1], p[2]]),
        lambda p: b".".join([p[0], p[1] + b"\n", p[2]]),
        lambda p: b".".join(p).replace(b"-", b"+").replace(b"_", b"/") + b"/",
        lambda p: b".".join([p[0], p[1], p[2][:-1] + bytes([p[2][-1] ^ 1])]),
        lambda p: b".".join([p[0], p[1], p[2] + b"\xc3\xa9"]),
        lambda p: json.dumps({"payload": p[1].decode(), "signatures": []}).encode(),
        lambda p: json.dumps(
            {"payload": p[1].decode(), "protected": p[0].decode(), "signature": p[2].decode()}
        ).encode(),
        lambda p: b"",
        lambda p: b"..",
    ],
)
async def test_a_token_has_one_spelling_only(
    door: TokenVerifier, change: Callable[[list[bytes]], bytes]
) -> None:
    await refused(door, respell(change))


async def test_refuses_a_token_within_a_token(door: TokenVerifier) -> None:
    await refused(door, sign(ec_key(), acme_token(), {**HEADER, "cty": "JWT"}))


async def test_refuses_oversized_tokens_and_bombs_at_once(door: TokenVerifier) -> None:
    deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    bombs = [
        acme_token(padding="x" * 20_000),
        b"A" * 5_000_000,
        b"." * 16_000,
        sign(ec_key(), deep),
        sign(ec_key(), b"[" * 10_000),
        sign_raw(ec_key(), b'{"a":' * 2_000 + b"1" + b"}" * 2_000, b"{}"),
        sign(ec_key(), json.dumps(acme_claims()).replace(f"{NOW + 840}", "9" * 9_000).encode()),
    ]
    started = time.process_time()
    for token in bombs:
        await refused(door, token)
    assert time.process_time() - started < 3


@pytest.mark.parametrize(
    "twice", ['"sub":"bob"', '"aud":"x"', '"\\u0073ub":"bob"', '"x":{"a":1,"a":2}']
)
async def test_refuses_duplicate_members(door: TokenVerifier, twice: str) -> None:
    payload = json.dumps(acme_claims())[:-1] + "," + twice + "}"
    assert "twice" in await refused(door, sign(ec_key(), payload.encode(), HEADER))
    header = b'{"alg":"none","alg":"ES256","kid":"k1","typ":"at+jwt"}'
    await refused(door, sign_raw(ec_key(), header, json.dumps(acme_claims()).encode()))


@pytest.mark.parametrize(
    "aud",
    [
        None, [], "account", f"{US}/mcp/../x", f"{US}/mcp/", f"{US.upper()}/mcp", f"{US}/mcp/time",
        [f"{US}/mcp", "https://evil.example"], [f"{US}/mcp", 7], f"{US}/a2a/coder", US,
        "https://user@gw.example.com/mcp", "https://gw.example.com.evil.example/mcp",
    ],
)  # fmt: skip
async def test_refuses_a_token_for_another_audience(door: TokenVerifier, aud: Any) -> None:
    await refused(door, acme_token(aud=aud))


@pytest.mark.parametrize(
    "iss",
    [None, ACME + "/", ACME.upper(), ACME[:-1], " " + ACME, ACME + "#", [ACME], {"a": ACME}, 7, ""],
)
async def test_refuses_an_issuer_that_is_not_spelled_as_configured(
    door: TokenVerifier, iss: Any
) -> None:
    assert "issuer" in await refused(door, acme_token(iss=iss))


@pytest.mark.parametrize(
    ("typ", "claims"),
    [
        ("logout+jwt", {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
        ("JWT", {"events": {}}),
        ("JWT", {"typ": "ID"}),
        ("JWT", {"typ": "Refresh"}),
        ("JWT", {"typ": "Offline"}),
        ("JWT", {"typ": "Logout"}),
        ("JWT", {"nonce": "n"}),
        ("JWT", {"at_hash": "h"}),
        ("JWT", {"typ": None, "scope": None}),
        ("dpop+jwt", {}),
        ("client-authentication+jwt", {}),
        ("oauth-id-jag+jwt", {}),
        ("JOSE", {}),
        (None, {}),
        (7, {}),
    ],
)
async def test_refuses_tokens_of_another_kind(
    door: TokenVerifier, typ: Any, claims: dict[str, Any]
) -> None:
    await refused(door, acme_token(header={**HEADER, "typ": typ}, **claims))


@pytest.mark.parametrize(
    "times",
    [
        {"exp": None}, {"exp": NOW - 121}, {"exp": NOW - 1}, {"exp": NOW + 4}, {"exp": 10**15},
        {"exp": str(NOW + 60)}, {"exp": NOW + 60.5}, {"exp": True}, {"exp": NOW + 90_000},
        {"nbf": NOW + 120}, {"iat": NOW + 120}, {"iat": NOW - 90_000}, {"iat": "x"}, {"nbf": []},
        {"auth_time": 2**64},
    ],
)  # fmt: skip
async def test_refuses_times_that_do_not_hold(door: TokenVerifier, times: dict[str, Any]) -> None:
    await refused(door, acme_token(**times))


@pytest.mark.parametrize(
    "cnf", [{"jwk": {}}, {"jkt": 1}, {"jkt": "x", "kid": "x"}, {}, "x", [], False]
)
async def test_refuses_a_token_bound_in_a_way_nobody_can_check(
    door: TokenVerifier, cnf: Any
) -> None:
    assert "cnf" in await refused(door, acme_token(cnf=cnf))


async def test_a_token_of_the_same_prefix_is_not_the_same_token(door: TokenVerifier) -> None:
    low, high = acme_token(sub="alice"), acme_token(sub="bob")
    assert low[:60] == high[:60]
    assert (await door.authenticate(low, NOW)).subject.sub == "alice"
    assert door.lookup(high, NOW) is None
    assert (await door.authenticate(high, NOW)).subject.sub == "bob"


async def test_a_per_call_token_reflected_at_us_is_refused() -> None:
    entry = coder_entry(jti="j-call", audience=f"{US}/mcp")
    details = [{"type": "urn:agentgw:mcp-call:1", "actions": ["tools/call"], "max_uses": 1}]
    door = build(own=OwnBooks(entries={"j-call": entry}))
    assert "one call" in await refused(door, own_token(entry, authorization_details=details))
    unlisted = own_token(coder_entry(jti="j-gone"), aud="https://tickets.example.com/mcp")
    assert "ledger" in await refused(door, unlisted)


async def test_an_issuer_cannot_speak_for_us_nor_we_be_forged_by_it(door: TokenVerifier) -> None:
    entry = coder_entry()
    door = build(own=OwnBooks(entries={"j-coder": entry}))
    claims: dict[str, Any] = {
        "iss": US,
        "aud": f"{US}/mcp",
        "client_id": US,
        "sub": "acme|alice",
        "jti": "j-coder",
    }
    await refused(door, acme_token(**claims))
    header = {"alg": "ES256", "kid": "own-1", "typ": "at+jwt"}
    await refused(door, acme_token(header=header, **claims))
    await refused(door, own_token(entry, iss=ACME, azp="planner", client_id=None))


async def test_a_forged_act_never_reaches_the_chain(door: TokenVerifier) -> None:
    caller = await door.authenticate(acme_token(act={"sub": "coder"}), NOW)
    assert [hop.agent for hop in caller.chain] == ["planner"]
    await refused(door, acme_token(azp="stranger", act={"sub": "planner"}))
    bomb: dict[str, Any] = {"sub": "a"}
    for _ in range(30):
        bomb = {"sub": "a", "act": bomb}
    await refused(door, acme_token(act=bomb))
    assert CODER.id not in {hop.id for hop in caller.chain}


def mutate(rng: random.Random, token: bytes) -> bytes:
    data = bytearray(token)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        place = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                del data[place]
            case 2:
                data.insert(place, rng.choice(b'AZaz09-_=.{}"\\'))
            case 3:
                data[place] = rng.choice(
                    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz012345-_"
                )
            case 4:
                other = rng.randrange(len(data))
                data[place], data[other] = data[other], data[place]
    return bytes(data)


async def none_accepted(count: int, seed: int) -> None:
    rng = random.Random(seed)
    door = build()
    token = acme_token()
    for _ in range(count):
        changed = mutate(rng, token)
        if changed == token:
            continue
        with pytest.raises(InvalidToken):
            await door.authenticate(changed, NOW)
    assert await door.authenticate(token, NOW)


async def test_none_of_300_mutated_tokens_is_accepted() -> None:
    await none_accepted(300, seed=20261123)


@pytest.mark.slow
async def test_none_of_10000_mutated_tokens_is_accepted() -> None:
    await none_accepted(10_000, seed=7)
