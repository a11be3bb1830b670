"""Whoever can write the log's files cannot change what a held checkpoint covers unseen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agentgw.audit.files import OsFiles
from agentgw.audit.verify import Verification, verify
from agentgw.core.merkle import leaf_hash
from tests.audit.records import OTHER_SIGNER, SIGNER, bodies, decision, outcome, writer

KEYS = [SIGNER.key]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "log"
    log = writer(root, OsFiles())
    log.open()
    for number in range(10):
        log.commit(bodies(decision(number), outcome(number)))
    log.checkpoint()
    log.close()
    return root


@pytest.fixture
def held(root: Path) -> str:
    return (root / "gw-1" / "checkpoint").read_text()


def bad(result: Verification) -> tuple[int, str]:
    assert not result.ok
    assert result.first_bad is not None
    return result.first_bad.seq, result.first_bad.reason


def test_every_flipped_bit_is_found_in_the_record_that_holds_it(root: Path) -> None:
    log = root / "gw-1"
    shutil.copytree(root, root.parent / "kept")
    segment = log / "00000001.jsonl"
    whole = segment.read_bytes()
    seq = 0
    for place in range(0, len(whole), 7):
        seq = whole[:place].count(b"\n")
        changed = bytearray(whole)
        changed[place] ^= 1 << (place % 8)
        segment.write_bytes(changed)
        found, _ = bad(verify(root, KEYS))
        assert found == seq, place
    assert seq == 19


def test_hiding_an_edit_by_rewriting_the_leaf_is_found_by_the_checkpoint(root: Path) -> None:
    log = root / "gw-1"
    lines = (log / "00000001.jsonl").read_bytes().splitlines()
    lines[4] = lines[4].replace(b'"alice"', b'"mallory"')
    (log / "00000001.jsonl").write_bytes(b"\n".join([*lines, b""]))
    (log / "00000001.leaves").write_bytes(b"".join(map(leaf_hash, lines)))
    assert "not what the checkpoint of 20 covers" in bad(verify(root, []))[1]


def test_cutting_the_end_off_is_found_by_a_held_checkpoint_and_only_by_one(
    root: Path, held: str
) -> None:
    shutil.rmtree(root / "gw-1")
    log = writer(root, OsFiles())
    log.open()
    for number in range(7):
        log.commit(bodies(decision(number), outcome(number)))
    log.checkpoint()
    log.close()
    alone = verify(root, KEYS)
    assert (alone.ok, alone.assurance) == (True, "self")
    assert any("truncation cannot be excluded" in note for note in alone.notes)
    assert bad(verify(root, KEYS, held)) == (14, "records are missing: a checkpoint covers 20")


@pytest.mark.parametrize("cut", range(1, 20))
def test_cutting_lines_and_checkpoints_is_found(root: Path, held: str, cut: int) -> None:
    log = root / "gw-1"
    lines = (log / "00000001.jsonl").read_bytes().splitlines(keepends=True)
    (log / "00000001.jsonl").write_bytes(b"".join(lines[:-cut]))
    (log / "00000001.leaves").write_bytes((log / "00000001.leaves").read_bytes()[: -32 * cut])
    assert bad(verify(root, KEYS, held))[0] == 20 - cut
    (log / "checkpoint").unlink()
    (log / "checkpoints").unlink()
    assert bad(verify(root, KEYS, held))[0] == 20 - cut
    assert bad(verify(root, KEYS))[1] == "records but no checkpoint"


def test_a_fork_of_the_same_size_signed_by_the_same_key_is_found(root: Path, held: str) -> None:
    shutil.rmtree(root / "gw-1")
    log = writer(root, OsFiles())
    log.open()
    log.commit(bodies(*(decision(number) for number in range(20))))
    log.checkpoint()
    log.close()
    assert verify(root, KEYS).ok
    assert not verify(root, KEYS, held).ok


def test_a_fresh_log_under_a_key_of_the_attackers_is_found(root: Path, held: str) -> None:
    shutil.rmtree(root)
    log = writer(root, OsFiles(), signer=OTHER_SIGNER)
    log.open()
    log.commit(bodies(*(decision(number) for number in range(20))))
    log.checkpoint()
    log.close()
    assert verify(root, []).ok
    assert not verify(root, KEYS).ok
    assert not verify(root, [], held).ok


def test_a_record_of_another_log_does_not_pass_as_ours(root: Path) -> None:
    shutil.copytree(root / "gw-1", root / "gw-2")
    manifest = SIGNER.sign("agentgw log manifest\nlog gw-1\nlog gw-2\n")
    (root / "manifest").write_text(manifest)
    result = verify(root, KEYS)
    assert result.first_bad is not None
    assert (result.ok, result.first_bad.log) == (False, "gw-2")


def test_an_added_record_that_nothing_covers_is_counted_as_uncovered(root: Path) -> None:
    log = root / "gw-1"
    line = json.dumps({"v": 1, "log": "gw-1", "seq": 20} | decision(20), separators=(",", ":"))
    with (log / "00000001.jsonl").open("a") as file:
        file.write(line + "\n")
    result = verify(root, KEYS)
    assert (result.ok, result.records, result.covered_to) == (True, 21, 20)
