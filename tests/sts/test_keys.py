from __future__ import annotations

import hashlib
import json
import multiprocessing
import stat
from pathlib import Path

import jwt
import pytest

from agentgw.core.canonical import b64url
from agentgw.errors import AgentgwError, Unavailable
from agentgw.sts.keys import ALGORITHMS, OVERLAP, KeyRing
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


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"current": {"pem": "x"}}', '{"rings": {"HS256": {}}}']
)
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
    secret = state["rings"]["ES256"]["current"]["pem"].splitlines()[1]
    state["rings"]["ES256"]["current"]["pem"] = state["rings"]["ES256"]["current"]["pem"].replace(
        "BEGIN", "BIGIN"
    )
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


def test_every_algorithm_has_keys_of_its_own_bound_to_it(tmp_path: Path) -> None:
    published = KeyRing(tmp_path, algorithms=ALGORITHMS).jwks()["keys"]
    found = [(jwk["alg"], jwk["kty"], jwk["use"]) for jwk in published]
    assert found == [
        (alg, kty, "sig")
        for alg, kty in (("ES256", "EC"), ("EdDSA", "OKP"), ("RS256", "RSA"))
        for _ in range(2)
    ]
    assert len({jwk["kid"] for jwk in published}) == 6
    assert all(jwk.keys().isdisjoint({"d", "p", "q", "k"}) for jwk in published)
    assert {len(jwk["n"]) * 6 // 8 * 8 for jwk in published if jwk["kty"] == "RSA"} == {3072}


def test_a_kid_is_the_thumbprint_of_its_key(tmp_path: Path) -> None:
    required = {
        "EC": ("crv", "kty", "x", "y"),
        "OKP": ("crv", "kty", "x"),
        "RSA": ("e", "kty", "n"),
    }
    for jwk in KeyRing(tmp_path, algorithms=ALGORITHMS).jwks()["keys"]:
        members = {name: jwk[name] for name in required[jwk["kty"]]}
        text = json.dumps(members, separators=(",", ":")).encode()
        assert jwk["kid"] == b64url(hashlib.sha256(text).digest())


def test_keys_for_a_new_algorithm_leave_the_others_alone(tmp_path: Path) -> None:
    running = KeyRing(tmp_path)
    before = kids(running)
    made = KeyRing(tmp_path, algorithms=["ES256", "EdDSA"])
    assert kids(made)[:2] == before and len(kids(made)) == 4
    assert notice(running) and kids(running) == kids(made)


def test_rotating_one_algorithm_leaves_the_others_alone(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, algorithms=["ES256", "EdDSA"])
    first, second = ring.signing["ES256"], ring.signing["EdDSA"]
    assert ring.rotate(0, "EdDSA").alg == "EdDSA"
    assert ring.signing["ES256"].kid == first.kid
    assert ring.signing["EdDSA"].kid != second.kid


def test_rotating_an_algorithm_without_keys_publishes_its_first(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    assert ring.rotate(alg="EdDSA").kid in kids(ring)


def test_of_a_replaced_key_only_the_public_half_is_kept(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    file = tmp_path / "keys" / "tokens.json"
    first, private = (
        ring.current.kid,
        json.loads(file.read_text())["rings"]["ES256"]["current"]["pem"],
    )
    ring.rotate(min_age=0)
    kept = ring.key(first)
    assert kept is not None and kept.sign is None
    assert private.splitlines()[1] not in file.read_text()


def test_a_file_from_when_there_was_one_algorithm_goes_on(tmp_path: Path) -> None:
    first = KeyRing(tmp_path)
    first.rotate(min_age=0)
    before = kids(first)
    file = tmp_path / "keys" / "tokens.json"
    old = json.loads(file.read_text())["rings"]["ES256"]
    del old["since"]
    file.write_text(json.dumps(old))
    again = KeyRing(tmp_path, algorithms=["ES256", "EdDSA"])
    assert kids(again)[:3] == before and len(kids(again)) == 5


def test_a_replaced_key_is_not_published_beyond_the_overlap(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(tmp_path, clock=clock)
    first = ring.current.kid
    ring.rotate(min_age=0)
    clock.now += OVERLAP - 1
    assert first in kids(ring) and ring.key(first) is not None
    clock.now += 1
    assert first not in kids(ring) and ring.key(first) is None


def test_a_schedule_rotates_what_is_due_and_nothing_else(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(tmp_path, clock=clock)
    clock.now += 500
    ring.need(["EdDSA"])
    first = {alg: key.kid for alg, key in ring.signing.items()}
    clock.now += 99
    assert ring.rotate_due(600) == []
    clock.now += 1
    assert [key.alg for key in ring.rotate_due(600)] == ["ES256"]
    assert ring.current.kid != first["ES256"]
    assert ring.signing["EdDSA"].kid == first["EdDSA"]
    assert ring.rotate_due(600) == []
    clock.now += 600
    assert [key.alg for key in ring.rotate_due(600)] == ["ES256", "EdDSA"]


def test_a_schedule_counts_from_the_last_rotation_by_hand(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(tmp_path, clock=clock)
    clock.now += 500
    ring.rotate()
    clock.now += 599
    assert ring.rotate_due(600) == []
    clock.now += 1
    assert len(ring.rotate_due(600)) == 1


def test_a_schedule_never_lets_a_key_sign_that_nobody_has_seen(tmp_path: Path) -> None:
    clock = Clock()
    ring = KeyRing(tmp_path, clock=clock)
    clock.now += 59
    assert ring.rotate_due(10) == []
    clock.now += 1
    assert len(ring.rotate_due(10)) == 1


def _rotate_due(folder: str) -> int:
    later = Clock()
    later.now += 1000
    return len(KeyRing(Path(folder), clock=later).rotate_due(600))


def test_of_several_processes_exactly_one_rotates(tmp_path: Path) -> None:
    before = kids(KeyRing(tmp_path, clock=Clock()))
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        rotated = pool.map(_rotate_due, [str(tmp_path)] * 8, chunksize=1)
    assert sorted(rotated) == [0] * 7 + [1]
    assert KeyRing(tmp_path).current.kid == before[1]
