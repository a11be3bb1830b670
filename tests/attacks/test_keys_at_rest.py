"""Somebody who reads, swaps, cuts or replaces the files that our keys lie in."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from agentgw.errors import AgentgwError, Unavailable
from agentgw.sts.keys import KeyRing
from agentgw.sts.wrapping import Wrapping, WrappingKeyError, key_from_file, wrapping_key

WRAPPING = Wrapping(wrapping_key(secrets.token_hex(32), "a test"))
OTHER = Wrapping(wrapping_key(secrets.token_hex(32), "a test"))
FILES = ("tokens.json", "checkpoints.json", "sessions.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The key files of a gateway that seals them."""
    KeyRing(tmp_path, wrapping=WRAPPING).secret("vault")
    return tmp_path / "keys"


def content(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.json")}


def refused(folder: Path, match: str, wrapping: Wrapping | None = WRAPPING) -> AgentgwError:
    """A start fails, and leaves every file as it was: no new key over an old one."""
    before = content(folder)
    with pytest.raises(AgentgwError, match=match) as caught:
        KeyRing(folder.parent, wrapping=wrapping)
    assert content(folder) == before
    return caught.value


@pytest.mark.parametrize("wrapping", [None, OTHER])
def test_a_stolen_folder_opens_with_no_other_key(folder: Path, wrapping: Wrapping | None) -> None:
    error = refused(folder, "sealed under the wrapping key", wrapping)
    assert isinstance(error, WrappingKeyError)
    assert WRAPPING.current.kid in str(error)
    assert WRAPPING.current.secret.hex() not in str(error)


def test_a_missing_file_beside_sealed_ones_is_not_made_under_another_key(folder: Path) -> None:
    (folder / "sessions.json").unlink()
    refused(folder, "sealed under the wrapping key", OTHER)
    assert not (folder / "sessions.json").exists()


@pytest.mark.parametrize(("one", "other"), [FILES[:2], FILES[1:], ("vault.json", "sessions.json")])
def test_files_swapped_between_purposes_open_for_neither(
    folder: Path, one: str, other: str
) -> None:
    (folder / one).rename(folder / "aside")
    (folder / other).rename(folder / one)
    (folder / "aside").rename(folder / other)
    refused(folder, "damaged")


def test_a_purpose_rewritten_in_the_header_does_not_open(folder: Path) -> None:
    jwe = json.loads((folder / "vault.json").read_text())
    honest = json.loads((folder / "sessions.json").read_text())
    jwe["protected"] = honest["protected"]
    (folder / "sessions.json").write_text(json.dumps(jwe))
    refused(folder, "damaged")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
def test_a_cut_file_stops_the_start_and_is_not_made_anew(
    folder: Path, file: str, left: float
) -> None:
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: int(len(whole) * left)])
    refused(folder, "damaged; restore it from a backup")


@pytest.mark.parametrize("member", ["iv", "ciphertext", "tag", "protected"])
def test_a_bent_file_stops_the_start(folder: Path, member: str) -> None:
    file = folder / "tokens.json"
    jwe = json.loads(file.read_text())
    for value in ("", "AAAA", 7, None, jwe[member][:-4] + "AAAA"):
        file.write_text(json.dumps({**jwe, member: value}))
        refused(folder, "damaged|sealed under")
    del jwe[member]
    file.write_text(json.dumps(jwe))
    refused(folder, "damaged")


def test_what_a_crash_left_half_written_does_no_harm(folder: Path) -> None:
    (folder / "tokens.new").write_text('{"protected": "ey')
    ring = KeyRing(folder.parent, wrapping=WRAPPING)
    assert ring.rotate(min_age=0).kid == KeyRing(folder.parent, wrapping=WRAPPING).current.kid


def _open_to_others(file: Path) -> None:
    file.chmod(0o644)


def _open_to_the_group(file: Path) -> None:
    file.chmod(0o640)


def _link_elsewhere(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def _link_to_nothing(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def _pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize("file", [*FILES, "vault.json"])
@pytest.mark.parametrize(
    ("replace", "match"),
    [
        (_open_to_others, "may be read by others"),
        (_open_to_the_group, "may be read by others"),
        (_link_elsewhere, "is a symbolic link"),
        (_link_to_nothing, "is a symbolic link"),
        (_pipe, "no regular file"),
    ],
)
def test_a_file_that_is_not_ours_alone_is_refused(
    tmp_path: Path, replace: Callable[[Path], None], match: str, file: str
) -> None:
    KeyRing(tmp_path).secret("vault")
    replace(tmp_path / "keys" / file)
    with pytest.raises(Unavailable, match=match):
        KeyRing(tmp_path)
    assert not (tmp_path / "keys" / "nowhere").exists()


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o602])
def test_a_wrapping_key_that_others_may_read_or_change_is_refused(
    tmp_path: Path, mode: int
) -> None:
    file = tmp_path / "wrap.key"
    file.write_text(secrets.token_hex(32))
    file.chmod(mode)
    with pytest.raises(WrappingKeyError, match="others: chmod 600"):
        key_from_file(file)


def test_a_running_gateway_signs_on_and_takes_no_key_it_cannot_open(folder: Path) -> None:
    ring = KeyRing(folder.parent, wrapping=WRAPPING)
    kid = ring.current.kid
    KeyRing(folder.parent / "other", wrapping=OTHER)
    (folder.parent / "other" / "keys" / "tokens.json").replace(folder / "tokens.json")
    ring._looked = 0.0
    assert ring.refresh() is False and ring.current.kid == kid
    assert ring.problem is not None and "sealed under the wrapping key" in ring.problem
