"""Token keys in a SoftHSM, which stands for any device with PKCS#11."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest

from agentgw.errors import AgentgwError
from agentgw.sts.hsm import Hsm, HsmError
from agentgw.sts.keys import KeyRing
from agentgw.sts.mint import Minter
from tests.sts.softhsm import PIN, SoftHsm, softhsm

pytestmark = [pytest.mark.hsm, pytest.mark.anyio]

GATEWAY = "https://gw.example.com"
LABELS = {"ES256": ("es-1", "es-2"), "RS256": ("rs-1",)}


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftHsm]:
    """One token for all tests: a process reads SoftHSM's configuration once."""
    with softhsm(tmp_path_factory.mktemp("hsm")) as made:
        for alg, label in (("ES256", "es-1"), ("ES256", "es-2"), ("RS256", "rs-1")):
            made.make(alg, label)
        yield made


@pytest.fixture
def device(token: SoftHsm) -> Iterator[Hsm]:
    opened = Hsm(token.module, token.token, PIN, LABELS)
    yield opened
    opened.close()


def check(ring: KeyRing, made: bytes, alg: str) -> str:
    """Verify a token by the published keys, as another implementation does; returns its kid."""
    kid = str(jwt.get_unverified_header(made)["kid"])
    key = jwt.PyJWKSet.from_dict(ring.jwks())[kid]
    assert key.algorithm_name == alg
    assert jwt.decode(made, key, [alg])["iss"] == GATEWAY
    return kid


@pytest.mark.parametrize("alg", ["ES256", "RS256"])
async def test_the_device_signs_and_no_private_key_lies_in_a_file(
    device: Hsm, tmp_path: Path, alg: str
) -> None:
    ring = KeyRing(tmp_path, algorithms=["ES256", "RS256"], device=device)
    made = await Minter(ring, GATEWAY).mint({"iss": GATEWAY}, alg=alg)
    assert check(ring, made, alg) == device.keys[alg][0].kid
    assert "PRIVATE" not in (tmp_path / "keys" / "tokens.json").read_text()


async def test_the_first_key_signs_and_the_others_are_published(
    device: Hsm, token: SoftHsm, tmp_path: Path
) -> None:
    ring = KeyRing(tmp_path, device=device)
    first, second = device.keys["ES256"]
    assert ring.current.kid == first.kid and ring.key(second.kid) is not None
    before = await Minter(ring, GATEWAY).mint({"iss": GATEWAY})
    swapped = Hsm(token.module, token.token, PIN, {"ES256": ("es-2", "es-1")})
    after = KeyRing(tmp_path, device=swapped)
    assert after.current.kid == second.kid and check(after, before, "ES256") == first.kid
    swapped.close()


async def test_keys_from_before_the_device_are_retired_not_kept(
    device: Hsm, tmp_path: Path
) -> None:
    files = KeyRing(tmp_path, algorithms=["ES256", "EdDSA"])
    before = Minter(files, GATEWAY).sign({"iss": GATEWAY})
    ring = KeyRing(tmp_path, algorithms=["ES256", "EdDSA"], device=device)
    ring.make_way_for_device()
    assert check(ring, before, "ES256") == files.current.kid
    assert ring.key(files.rings["ES256"].next.kid) is None
    state = json.loads((tmp_path / "keys" / "tokens.json").read_text())
    assert state["rings"].keys() == {"EdDSA"} and "PRIVATE" not in str(state["retired"])
    with pytest.raises(AgentgwError, match=r"lie in the HSM.*keys\.hsm\.keys"):
        ring.rotate(min_age=0)
    assert ring.rotate(0, "EdDSA").kid == files.rings["EdDSA"].next.kid


async def test_many_signatures_at_once(device: Hsm, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, device=device)
    minter = Minter(ring, GATEWAY)
    made = await asyncio.gather(
        *(minter.mint({"iss": GATEWAY, "n": number}) for number in range(100))
    )
    assert {check(ring, token, "ES256") for token in made} == {device.keys["ES256"][0].kid}
    assert len(set(made)) == 100


def test_threads_that_sign_at_once_come_to_the_module_one_by_one(
    device: Hsm, token: SoftHsm
) -> None:
    other = Hsm(token.module, token.token, PIN, {"ES256": ("es-2",)})
    signs = [key.sign for keys in (device.keys, other.keys) for key in keys["ES256"]]
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(sign, b"x") for _ in range(60) for sign in signs if sign is not None]
        assert {len(done.result()) for done in waiting} == {64}
    other.close()


async def test_a_lost_login_is_made_up_for(device: Hsm, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, device=device)
    minter = Minter(ring, GATEWAY)
    check(ring, await minter.mint({"iss": GATEWAY}), "ES256")
    device._session.close()
    for made in await asyncio.gather(*(minter.mint({"iss": GATEWAY}) for _ in range(20))):
        check(ring, made, "ES256")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"module": Path("/nowhere/module.so")}, "cannot be loaded"),
        ({"token": "another"}, "not just one token labelled another"),
        ({"labels": {"ES256": ("missing",)}}, "no key pair labelled missing"),
        ({"labels": {"ES256": ("rs-1",)}}, "labelled rs-1 in the HSM is none for ES256"),
        ({"labels": {"RS256": ("es-1",)}}, "labelled es-1 in the HSM is none for RS256"),
        ({"labels": {"ES256": ("twice",)}}, "several keys labelled twice"),
        ({"labels": {"ES256": ("p-384",)}}, "labelled p-384 in the HSM is none for ES256"),
        ({"pin": "not-the-pin"}, "does not take the PIN"),
    ],
)
def test_says_what_of_the_device_is_not_as_told(
    token: SoftHsm, changes: dict[str, Any], says: str
) -> None:
    for label in changes.get("labels", {}).get("ES256", ()):
        if label in ("twice", "p-384"):
            token.make("ES256" if label == "twice" else "ES384", label)
        if label == "twice":
            token.make("ES256", label)
    given = {"module": token.module, "token": token.token, "pin": PIN, "labels": LABELS, **changes}
    with pytest.raises(HsmError, match=says) as caught:
        Hsm(**given)
    assert given["pin"] not in str(caught.value)
