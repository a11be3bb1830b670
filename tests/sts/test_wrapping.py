from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import keyring
import keyring.backend
import keyring.backends.fail
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentgw.sts.keys import KeyRing
from agentgw.sts.wrapping import (
    Wrapping,
    WrappingKey,
    WrappingKeyError,
    key_from_environment,
    key_from_file,
    key_from_keyring,
    wrapping_key,
)

PURPOSES = ("tokens", "checkpoints", "sessions")


def fresh() -> WrappingKey:
    return wrapping_key(secrets.token_hex(32), "a test")


def secrets_of(ring: KeyRing) -> tuple[object, ...]:
    """What must be the same after every change of wrapping."""
    private, name = ring.checkpoint_key()
    return ring.jwks(), private.private_bytes_raw(), name, ring.session_key()


def kids_on_disk(folder: Path) -> set[str | None]:
    """The wrapping keys that the files say they are sealed under."""
    found: set[str | None] = set()
    for file in (folder / "keys").glob("*.json"):
        state = json.loads(file.read_text())
        found.add(header(state)["kid"] if "protected" in state else None)
    return found


def header(jwe: dict[str, str]) -> dict[str, str]:
    value = json.loads(unb64(jwe["protected"]))
    assert isinstance(value, dict)
    return value


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_sealed_file_is_a_jwe_as_the_rfc_says(tmp_path: Path) -> None:
    key = fresh()
    ring = KeyRing(tmp_path, wrapping=Wrapping(key))
    jwe = json.loads((tmp_path / "keys" / "sessions.json").read_text())
    assert jwe.keys() == {"protected", "iv", "ciphertext", "tag"}
    assert header(jwe) == {
        "alg": "dir", "enc": "A256GCM", "kid": key.kid, "purpose": "sessions", "file": "sessions.json",
    }  # fmt: skip
    # RFC 7516 section 5.2, by hand.
    sealed = unb64(jwe["ciphertext"]) + unb64(jwe["tag"])
    plain = AESGCM(key.secret).decrypt(unb64(jwe["iv"]), sealed, jwe["protected"].encode())
    assert unb64(json.loads(plain)["current"]) == ring.session_key()


def test_nothing_secret_lies_in_a_sealed_file(tmp_path: Path) -> None:
    KeyRing(tmp_path / "plain")
    pem = json.loads((tmp_path / "plain" / "keys" / "tokens.json").read_text())
    KeyRing(tmp_path / "plain", wrapping=Wrapping(fresh()))
    text = (tmp_path / "plain" / "keys" / "tokens.json").read_text()
    assert pem["rings"]["ES256"]["current"]["pem"].splitlines()[1] not in text
    assert "PRIVATE" not in text and kids_on_disk(tmp_path / "plain") != {None}


def test_plain_files_are_sealed_at_the_next_start_and_stay_the_same_keys(tmp_path: Path) -> None:
    before = secrets_of(KeyRing(tmp_path))
    assert kids_on_disk(tmp_path) == {None}
    key = fresh()
    sealed = KeyRing(tmp_path, wrapping=Wrapping(key))
    assert sorted(sealed.sealed) == sorted(PURPOSES) and secrets_of(sealed) == before
    assert kids_on_disk(tmp_path) == {key.kid}
    again = KeyRing(tmp_path, wrapping=Wrapping(key))
    assert again.sealed == [] and secrets_of(again) == before


def test_another_wrapping_key_takes_over_while_the_previous_still_opens(tmp_path: Path) -> None:
    old, new = fresh(), fresh()
    running = KeyRing(tmp_path, wrapping=Wrapping(old))
    before = secrets_of(running)
    running.use(Wrapping(new, previous=old))
    assert kids_on_disk(tmp_path) == {new.kid} and secrets_of(running) == before
    assert secrets_of(KeyRing(tmp_path, wrapping=Wrapping(new))) == before


def test_sealing_anew_takes_a_fresh_nonce_for_every_file(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, wrapping=Wrapping(fresh()))
    before = [file.read_bytes() for file in sorted((tmp_path / "keys").glob("*.json"))]
    assert sorted(ring.seal_anew()) == sorted(PURPOSES)
    after = [file.read_bytes() for file in sorted((tmp_path / "keys").glob("*.json"))]
    assert all(one != other for one, other in zip(before, after, strict=True))


def test_a_rotation_stays_sealed(tmp_path: Path) -> None:
    key = fresh()
    ring = KeyRing(tmp_path, wrapping=Wrapping(key))
    kid = ring.rotate(min_age=0).kid
    assert kids_on_disk(tmp_path) == {key.kid}
    assert KeyRing(tmp_path, wrapping=Wrapping(key)).current.kid == kid


@pytest.mark.parametrize("purpose", ["vault", "cookies"])
def test_a_secret_key_is_made_on_first_use_and_kept(tmp_path: Path, purpose: str) -> None:
    wrapping = Wrapping(fresh())
    file = tmp_path / "keys" / f"{purpose}.json"
    ring = KeyRing(tmp_path, wrapping=wrapping)
    assert not file.exists()
    secret = ring.secret(purpose)
    assert len(secret) == 32 and secret != ring.session_key() and "ciphertext" in file.read_text()
    assert KeyRing(tmp_path, wrapping=wrapping).secret(purpose) == secret
    with pytest.raises(ValueError, match="no secret key"):
        ring.secret("tokens")


@pytest.mark.parametrize(
    "write",
    [
        lambda raw: raw.hex(),
        lambda raw: raw.hex().upper() + "\n",
        lambda raw: base64.b64encode(raw).decode() + "\n",
        lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode(),
    ],
)
def test_a_wrapping_key_may_be_written_in_hex_or_base64(write: object) -> None:
    raw = secrets.token_bytes(32)
    assert callable(write)
    assert wrapping_key(write(raw), "a test").secret == raw


@pytest.mark.parametrize(
    "text",
    [
        "",
        "changeme",
        "correct horse battery staple ......",
        "00" * 32,
        "A" * 43,
        "x" * 64,
        "é" * 43,
    ],
)
def test_what_is_no_random_key_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(WrappingKeyError, match="openssl rand -base64 32") as caught:
        wrapping_key(text, "the place")
    assert not text or text not in str(caught.value)


def test_a_wrapping_key_never_shows(tmp_path: Path) -> None:
    key = fresh()
    assert key.secret.hex() not in repr(Wrapping(key)) and repr(key.secret) not in repr(key)


def test_the_environment_may_hold_it() -> None:
    key = fresh()
    env = {"WRAPPING_KEY": key.secret.hex()}
    assert key_from_environment("WRAPPING_KEY", env) == key
    with pytest.raises(WrappingKeyError, match="set the environment variable OTHER"):
        key_from_environment("OTHER", env)


def test_a_file_may_hold_it_even_behind_a_link(tmp_path: Path) -> None:
    """Orchestrators mount secrets as links, and give the group the right to read."""
    key, file = fresh(), tmp_path / "..data"
    file.write_text(key.secret.hex())
    file.chmod(0o440)
    (tmp_path / "wrap.key").symlink_to(file)
    assert key_from_file(tmp_path / "wrap.key") == key


class Ring(keyring.backend.KeyringBackend):
    """An operating system's keyring that lives in this process."""

    entries: ClassVar[dict[tuple[str, str], str]] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password


@pytest.fixture
def os_keyring() -> Iterator[None]:
    before = keyring.get_keyring()
    keyring.set_keyring(Ring())  # type: ignore[no-untyped-call]
    yield
    keyring.set_keyring(before)
    Ring.entries.clear()


def test_the_keyring_may_hold_it(os_keyring: None) -> None:
    key = fresh()
    keyring.set_password("agentgw", "gw-1", key.secret.hex())
    assert key_from_keyring("gw-1") == key
    with pytest.raises(WrappingKeyError, match="keyring set agentgw gw-2"):
        key_from_keyring("gw-2")


def test_says_so_where_there_is_no_keyring(os_keyring: None) -> None:
    keyring.set_keyring(keyring.backends.fail.Keyring())  # type: ignore[no-untyped-call]
    with pytest.raises(WrappingKeyError, match=r"does not answer \(NoKeyringError\)"):
        key_from_keyring("gw-1")
