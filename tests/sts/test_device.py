"""Keys in a device, whichever it is: what the ring and the minter do with them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jwt
import pytest

from agentgw.errors import AgentgwError, Unavailable
from agentgw.sts.algorithms import Sign, TokenKey, generate, kid_of, signer
from agentgw.sts.keys import OVERLAP, KeyRing
from agentgw.sts.mint import Minter

pytestmark = pytest.mark.anyio

GATEWAY = "https://gw.example.com"


class Memory:
    """A device of one ES256 key, which signs in a thread of its own as `sign` says."""

    def __init__(self, sign: Sign | None = None) -> None:
        private = generate("ES256")
        public = private.public_key()
        self.pool = ThreadPoolExecutor(1)
        self.key = TokenKey(
            kid_of(public), "ES256", public, 0, sign=sign or signer(private), pool=self.pool
        )

    @property
    def keys(self) -> Mapping[str, tuple[TokenKey, ...]]:
        return {"ES256": (self.key,)}

    def close(self) -> None:
        self.pool.shutdown()


class Clock:
    now = 1795400000.0

    def __call__(self) -> float:
        return self.now


async def test_a_key_in_a_device_signs_in_the_devices_thread(tmp_path: Path) -> None:
    seen: list[str] = []
    real = signer(generate("ES256"))

    def sign(data: bytes) -> bytes:
        seen.append(threading.current_thread().name)
        return real(data)

    device = Memory(sign)
    ring = KeyRing(tmp_path, device=device)
    made = await Minter(ring, GATEWAY).mint({"iss": GATEWAY})
    assert jwt.get_unverified_header(made)["kid"] == device.key.kid
    assert seen and threading.main_thread().name not in seen
    ring.close()


async def test_a_device_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentgw.sts.mint.DEVICE_SECONDS", 0.05)
    answer = threading.Event()

    def wait(data: bytes) -> bytes:
        answer.wait(10)
        return b""

    ring = KeyRing(tmp_path, device=Memory(wait))
    minter = Minter(ring, GATEWAY)
    for made in await asyncio.gather(
        *(minter.mint({"iss": GATEWAY}) for _ in range(3)), return_exceptions=True
    ):
        assert isinstance(made, Unavailable) and "no signature in 0.05 s" in str(made)
    answer.set()
    ring.close()


def test_file_keys_make_way_and_only_their_public_halves_stay_for_the_overlap(
    tmp_path: Path,
) -> None:
    clock = Clock()
    before = KeyRing(tmp_path, clock=clock)
    before.rotate(min_age=0)
    signed = [key.kid for key in (before.current, *before.rings["ES256"].previous)]
    device = Memory()
    ring = KeyRing(tmp_path, clock=clock, device=device)
    assert "PRIVATE" in (tmp_path / "keys" / "tokens.json").read_text(), "only a start retires"
    ring.make_way_for_device()
    assert [jwk["kid"] for jwk in ring.jwks()["keys"]] == [device.key.kid, *signed]
    assert "PRIVATE" not in (tmp_path / "keys" / "tokens.json").read_text()
    assert ring.rotate_due(1) == []
    with pytest.raises(AgentgwError, match="lie in the HSM"):
        ring.rotate()
    clock.now += OVERLAP
    assert [jwk["kid"] for jwk in ring.jwks()["keys"]] == [device.key.kid]


def test_without_the_device_fresh_file_keys_are_made(tmp_path: Path) -> None:
    device = Memory()
    KeyRing(tmp_path, device=device)
    state = json.loads((tmp_path / "keys" / "tokens.json").read_text())
    assert state["rings"] == {}
    again = KeyRing(tmp_path)
    assert again.current.sign is not None and again.key(device.key.kid) is None


def test_a_gateway_that_runs_without_the_device_keeps_its_keys(tmp_path: Path) -> None:
    running = KeyRing(tmp_path)
    kid = running.current.kid
    KeyRing(tmp_path, device=Memory()).make_way_for_device()
    running._looked = 0.0
    assert running.refresh() is False and running.current.kid == kid
    assert running.problem is not None and "ES256 keys are gone" in running.problem
