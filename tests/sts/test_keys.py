from __future__ import annotations

import json
import multiprocessing
import stat
from pathlib import Path

import jwt
import pytest

from agentgw.errors import AgentgwError, Unavailable
from agentgw.sts.keys import OVERLAP, KeyRing
from agentgw.sts.mint import Minter

GATEWAY = "https://gw.example.com"


class Clock:
    now = 1795400000.0

    def __call__(self) -> float:
        return self.now


def kids(ring: KeyRing) -> list[str]:
    return [key["kid"] for key in ring.jwks()["keys"]]


def notice(ring: KeyRing) -> bool:
    """Refresh as if a second had gone by."""
    ring._looked = 0.0
    return ring.refresh()


def test_first_start_makes_keys_that_only_their_user_can_read(tmp_path: Path) -> None:
    KeyRing(tmp_path / "state")
    folder = tmp_path / "state" / "keys"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("tokens.json", "checkpoints.json", "sessions.json"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_a_second_start_finds_the_same_keys(tmp_path: Path) -> None:
    first, second = KeyRing(tmp_path, log_name="gw-1"), KeyRing(tmp_path, log_name="other")
    assert kids(first) == kids(second)
    assert first.session_key() == second.session_key() and len(first.session_key()) == 32
    key, name = first.checkpoint_key()
    again, same_name = second.checkpoint_key()
    assert key.private_bytes_raw() == again.private_bytes_raw()
    assert name == same_name == "gw-1"


def test_each_purpose_has_a_key_of_its_own(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    assert ring.checkpoint_key()[0].private_bytes_raw() != ring.session_key()


def _open_ring(folder: str) -> list[str]:
    return kids(KeyRing(Path(folder)))


def test_workers_that_start_at_once_share_one_set(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.map(_open_ring, [str(tmp_path)] * 8, chunksize=1)
    assert all(ring == found[0] for ring in found)


def test_the_next_key_is_published_before_it_signs(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    published = kids(ring)
    old = ring.current.kid
    ring.rotate(min_age=0)
    assert ring.current.kid != old
    assert ring.current.kid in published
    assert old in kids(ring) and len(kids(ring)) == 3


def test_a_token_signed_before_a_rotation_still_verifies(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    minter = Minter(ring, GATEWAY)
    before = minter.sign({"iss": GATEWAY})
    ring.rotate(min_age=0)
    after = minter.sign({"iss": GATEWAY})
    for token in (before, after):
        kid = jwt.get_unverified_header(token)["kid"]
        assert jwt.decode(token, jwt.PyJWKSet.from_dict(ring.jwks())[kid], ["ES256"])
    assert jwt.get_unverified_header(before)["kid"] != jwt.get_unverified_header(after)["kid"]


def test_a_replaced_key_goes_after_the_overlap(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(tmp_path, clock=clock)
    first = ring.current.kid
    ring.rotate(min_age=0)
    clock.now += OVERLAP - 1
    ring.rotate(min_age=0)
    assert ring.key(first) is not None
    clock.now += 2
    ring.rotate(min_age=0)
    assert ring.key(first) is None


def test_a_key_signs_only_after_it_was_published_for_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(tmp_path, clock=clock)
    first, published = ring.current.kid, kids(ring)
    clock.now += 59
    with pytest.raises(AgentgwError, match="again in 1 s"):
        ring.rotate()
    assert (ring.current.kid, kids(ring)) == (first, published)
    clock.now += 1
    assert ring.rotate().kid != first
    with pytest.raises(AgentgwError, match="again in 60 s"):
        ring.rotate()


def test_a_running_process_notices_a_rotation(tmp_path: Path) -> None:
    ours, theirs = KeyRing(tmp_path), KeyRing(tmp_path)
    theirs.rotate(min_age=0)
    assert notice(ours) is True
    assert ours.current.kid == theirs.current.kid
    assert notice(ours) is False


def test_looks_at_the_file_once_a_second_at_most(tmp_path: Path) -> None:
    ours, theirs = KeyRing(tmp_path), KeyRing(tmp_path)
    notice(ours)
    theirs.rotate(min_age=0)
    assert ours.refresh() is False


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"current": {"pem": "x"}}'])
def test_a_damaged_file_never_stops_a_running_process(tmp_path: Path, content: str) -> None:
    ring = KeyRing(tmp_path)
    kid = ring.current.kid
    (tmp_path / "keys" / "tokens.json").write_text(content)
    notice(ring)
    assert ring.current.kid == kid
    with pytest.raises(Unavailable, match="damaged"):
        KeyRing(tmp_path)


def test_an_error_about_a_key_file_quotes_no_key(tmp_path: Path) -> None:
    KeyRing(tmp_path)
    file = tmp_path / "keys" / "tokens.json"
    state = json.loads(file.read_text())
    secret = state["current"]["pem"].splitlines()[1]
    state["current"]["pem"] = state["current"]["pem"].replace("BEGIN", "BIGIN")
    file.write_text(json.dumps(state))
    with pytest.raises(Unavailable) as caught:
        KeyRing(tmp_path)
    assert secret not in str(caught.value)


def test_refuses_a_key_file_that_others_may_read(tmp_path: Path) -> None:
    KeyRing(tmp_path)
    (tmp_path / "keys" / "tokens.json").chmod(0o644)
    with pytest.raises(Unavailable, match="chmod 600"):
        KeyRing(tmp_path)


def test_says_so_when_no_key_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    with pytest.raises(Unavailable, match="keys"):
        KeyRing(tmp_path / "state")


def test_no_repr_shows_a_key(tmp_path: Path) -> None:
    assert "private" not in repr(KeyRing(tmp_path).current).lower()
