"""Two verifiers, written apart, say the same of every log: whole, changed, cut, grown or forged."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgw.audit.files import OsFiles
from agentgw.audit.verify import verify
from agentgw.core.checkpoint import VerifierKey, parse_vkey
from tests.audit.records import (
    OTHER_SIGNER,
    ROOT,
    SIGNER,
    VKEY,
    bodies,
    decision,
    independent_verifier,
    outcome,
    writer,
)

INDEPENDENT = independent_verifier()
FILES = ("00000001.jsonl", "00000002.jsonl", "00000001.leaves", "checkpoints", "checkpoint")


def write_log(
    root: Path, name: str = "gw-1", calls: int = 6, cover: bool = True, signer: Any = SIGNER
) -> None:
    """A log of `calls` calls in two or more segments, with a checkpoint after every third call."""
    log = writer(root, OsFiles(), name, signer, segment_bytes=1500)
    log.open()
    for number in range(calls):
        log.commit(bodies(decision(number), outcome(number)))
        if number % 3 == 2:
            log.checkpoint()
    if cover:
        log.checkpoint()
    log.close()


def independent(
    directory: Path, keys: tuple[str, ...] = (), held: Path | None = None
) -> dict[str, Any]:
    """What tools/verify_log.py prints and how it exits."""
    arguments = [str(directory), "--json"]
    for key in keys:
        arguments += ["--key", key]
    if held:
        arguments += ["--checkpoint", str(held)]
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        try:
            INDEPENDENT.main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    found: dict[str, Any] = json.loads(out.getvalue())
    assert code == (0 if found["ok"] else 6)
    return found


def both(
    directory: Path, keys: tuple[str, ...] = (VKEY,), held: Path | None = None
) -> dict[str, Any]:
    """Our verdict, the independent one being the same."""
    ours = verify(
        directory, [parse_vkey(key) for key in keys], held.read_text() if held else None
    ).to_json()
    theirs = independent(directory, keys, held)
    assert theirs["ok"] == ours["ok"], (ours, theirs)
    if ours["ok"]:
        assert {key: ours[key] for key in theirs} == theirs
    else:
        for field in ("log", "seq"):
            assert theirs["first_bad"][field] == ours["first_bad"][field], (ours, theirs)  # type: ignore[index]
    return ours


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original")
    write_log(root)
    shutil.copy(root / "gw-1" / "checkpoint", root.parent / "held")
    return root


@pytest.fixture
def copy(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "log"))


@pytest.fixture
def held(original: Path) -> Path:
    return original.parent / "held"


def test_a_whole_log_holds_alone_and_from_its_root(copy: Path, held: Path) -> None:
    for directory in (copy, copy / "gw-1"):
        assert both(directory)["ok"]
        result = both(directory, held=held)
        assert (result["records"], result["covered_to"], result["assurance"]) == (12, 12, "held")
    renamed = (copy / "gw-1").rename(copy / "a copy")
    assert both(renamed, held=held)["ok"]


def test_says_what_cannot_be_known_without_key_and_checkpoint(copy: Path, held: Path) -> None:
    result = verify(copy, [])
    assert (result.ok, result.assurance) == (True, "self")
    assert any("unchecked" in note for note in result.notes)
    assert any("truncation cannot be excluded" in note for note in result.notes)
    assert verify(copy, [SIGNER.key], held.read_text()).notes == ()


def test_records_beyond_the_last_checkpoint_and_calls_without_outcome_are_told(
    tmp_path: Path,
) -> None:
    log = writer(tmp_path, OsFiles())
    log.open()
    log.commit(bodies(decision(0), outcome(0), decision(1)))
    log.close()
    result = both(tmp_path)
    assert (result["ok"], result["covered_to"], result["unknown"]) == (True, 0, 1)


def test_an_outcome_without_a_decision_fails(tmp_path: Path) -> None:
    log = writer(tmp_path, OsFiles())
    log.open()
    log.commit(bodies(decision(0), outcome(1)))
    log.checkpoint()
    log.close()
    result = both(tmp_path)
    assert not result["ok"]
    assert result["first_bad"] == {
        "log": "gw-1", "seq": 1, "id": "o-1", "reason": "an outcome without a decision",
    }  # fmt: skip


def test_several_logs_are_all_checked_and_all_must_be_there(tmp_path: Path) -> None:
    root = tmp_path / "log"
    write_log(root, "gw-1")
    write_log(root, "gw-2", calls=3)
    notes = [(root / name / "checkpoint").read_text() for name in ("gw-1", "gw-2")]
    held = tmp_path / "held"
    held.write_text("\n".join(notes))
    assert both(root, held=held)["covered_to"] == 18
    held.write_text(notes[0])
    assert both(root, held=held)["assurance"] == "self"
    shutil.rmtree(root / "gw-2")
    assert both(root)["first_bad"]["log"] == "manifest"
    assert both(root / "gw-1")["ok"]


@pytest.mark.parametrize("kept", [(), ("manifest",), ("gw-1",), ("manifest", "gw-1")])
def test_files_of_one_log_in_the_root_do_not_hide_the_others(
    tmp_path: Path, kept: tuple[str, ...]
) -> None:
    root = tmp_path / "log"
    write_log(root, "gw-1")
    write_log(root, "gw-2", calls=3)
    _into_root(root / "gw-1", lambda _: kept)
    shutil.rmtree(root / "gw-2")
    result = both(root)
    assert result["ok"] == (not kept)
    # With nothing else left it is a copy of one log, which says nothing of others.
    assert any("checked alone" in note for note in result["notes"]) == (not kept)


@pytest.mark.parametrize("keep", [(), ("lock",), ("lock", "00000001.jsonl")])
def test_an_emptied_log_that_is_listed_is_never_held(tmp_path: Path, keep: tuple[str, ...]) -> None:
    root, held = tmp_path / "log", tmp_path / "held"
    write_log(root, "gw-1")
    write_log(root, "gw-2", calls=0)
    notes = [(root / name / "checkpoint").read_text() for name in ("gw-1", "gw-2")]
    held.write_text("\n".join(notes))
    assert both(root, held=held)["assurance"] == "held"
    held.write_text(notes[0])
    for emptied in (False, True):
        if emptied:
            _empty(root / "gw-2", lambda _: keep)
        result = both(root, held=held)
        assert result["assurance"] == "self"
        assert any("of gw-2: truncation" in note for note in result["notes"])
    assert any("gw-2: it holds no checkpoint" in note for note in result["notes"])


def test_an_unlisted_log_and_a_missing_manifest_fail(copy: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "elsewhere", "gw-2")
    shutil.copytree(tmp_path / "elsewhere" / "gw-2", copy / "gw-2")
    assert not both(copy)["ok"]
    (copy / "manifest").unlink()
    assert not both(copy)["ok"]


def test_nothing_is_no_log(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert not both(tmp_path / "empty")["ok"]
    assert not both(tmp_path / "nowhere")["ok"]


def test_a_held_checkpoint_that_is_none_fails(copy: Path, held: Path, tmp_path: Path) -> None:
    for text in ("", "nonsense", held.read_text()[:-3], held.read_text().replace("12", "13")):
        bad = tmp_path / "bad"
        bad.write_text(text)
        assert not both(copy, held=bad)["ok"], text


def test_the_independent_verifier_runs_by_itself_and_is_small(copy: Path, held: Path) -> None:
    tool = ROOT / "tools" / "verify_log.py"
    source = tool.read_text()
    assert "agentgw." not in source.replace("`agentgw.", "")
    assert sum(1 for line in source.splitlines() if line.strip()) <= 150
    command = [sys.executable, str(tool), str(copy), "--key", VKEY, "--checkpoint", str(held)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy)
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (0, True)
    (copy / "gw-1" / "00000001.jsonl").write_bytes(b"")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=copy)
    assert (done.returncode, json.loads(done.stdout)["ok"]) == (6, False)


def _edit(log: Path, draw: Callable[..., Any]) -> None:
    path = log / draw(st.sampled_from(FILES))
    data = bytearray(path.read_bytes())
    data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    path.write_bytes(bytes(data))


def _lines(log: Path, draw: Callable[..., Any], change: Callable[[list[bytes], int], None]) -> None:
    path = log / draw(st.sampled_from(FILES[:2]))
    lines = path.read_bytes().splitlines(keepends=True)
    change(lines, draw(st.integers(0, len(lines) - 1)))
    path.write_bytes(b"".join(lines))
    if draw(st.booleans()):
        path.with_suffix(".leaves").unlink()


def _delete(log: Path, draw: Callable[..., Any]) -> None:
    _lines(log, draw, lambda lines, at: lines.__delitem__(at))


def _insert(log: Path, draw: Callable[..., Any]) -> None:
    _lines(log, draw, lambda lines, at: lines.insert(at, lines[-1]))


def _swap(log: Path, draw: Callable[..., Any]) -> None:
    def change(lines: list[bytes], at: int) -> None:
        lines[at], lines[at - 1] = lines[at - 1], lines[at]

    _lines(log, draw, change)


def _reformat(log: Path, draw: Callable[..., Any]) -> None:
    def change(lines: list[bytes], at: int) -> None:
        style = draw(st.sampled_from(["spaces", "sorted", "blank", "crlf", "twice"]))
        record = json.loads(lines[at])
        lines[at] = {
            "spaces": json.dumps(record).encode() + b"\n",
            "sorted": json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n",
            "blank": lines[at] + b"\n",
            "crlf": lines[at][:-1] + b"\r\n",
            "twice": lines[at][:-2] + b',"id":"d-0"}\n',
        }[style]

    _lines(log, draw, change)


def _truncate(log: Path, draw: Callable[..., Any]) -> None:
    path = log / draw(st.sampled_from(FILES))
    data = path.read_bytes()
    path.write_bytes(data[: draw(st.integers(0, len(data) - 1))])


def _roll_back(log: Path, draw: Callable[..., Any]) -> None:
    """An older, honest state of the same log."""
    shutil.rmtree(log)
    write_log(log.parent, calls=draw(st.integers(0, 5)))


def _fork(log: Path, draw: Callable[..., Any]) -> None:
    """Another history of the same size, signed by the same key."""
    shutil.rmtree(log)
    other = writer(log.parent, OsFiles(), segment_bytes=1500)
    other.open()
    other.commit(bodies(*(decision(number) for number in range(100, 112))))
    other.checkpoint()
    other.close()


def _swap_key(log: Path, draw: Callable[..., Any]) -> None:
    shutil.rmtree(log.parent)
    write_log(log.parent, signer=OTHER_SIGNER)


def _into_root(log: Path, draw: Callable[..., Any]) -> None:
    """The files of a log stand in the root, with or without its folder and the manifest."""
    for file in log.iterdir():
        shutil.copy(file, log.parent / file.name)
    kept = draw(st.sampled_from([("manifest",), (log.name,), ("manifest", log.name)]))
    if "manifest" not in kept:
        (log.parent / "manifest").unlink()
    if log.name not in kept:
        shutil.rmtree(log)


def _empty(log: Path, draw: Callable[..., Any]) -> None:
    """The folder stays, its files go."""
    kept = draw(st.sampled_from([(), ("lock",), ("lock", "checkpoint"), ("00000001.leaves",)]))
    for file in log.iterdir():
        if file.name not in kept:
            file.unlink()


MUTATIONS = (
    _edit, _edit, _delete, _insert, _swap, _reformat, _truncate, _roll_back, _fork, _swap_key,
    _into_root, _empty,
)  # fmt: skip


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_both_verifiers_say_the_same_of_every_mutant(
    original: Path, held: Path, tmp_path: Path, data: st.DataObject
) -> None:
    root = tmp_path / "mutant"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(original, root)
    mutate = data.draw(st.sampled_from(MUTATIONS))
    mutate(root / "gw-1", data.draw)
    log = root / "gw-1"
    changed = {
        name
        for name in FILES
        if not (log / name).exists()
        or (log / name).read_bytes() != (original / "gw-1" / name).read_bytes()
    }
    result = both(root, held=held)
    if mutate in (_edit, _swap_key):
        assert not result["ok"]
    elif mutate is _into_root:
        assert result["ok"] == ((root / "manifest").exists() and log.exists())
    elif mutate is _truncate and changed.isdisjoint(FILES[:2]):
        # Leaves are read only as far as they go, and an empty checkpoint is none: both can be remade.
        emptied = changed == {"checkpoint"} and not (log / "checkpoint").read_bytes()
        assert result["ok"] == (emptied or changed == {"00000001.leaves"})
    else:
        assert result["ok"] == changed.isdisjoint(FILES[:2])
    if not changed.isdisjoint(FILES[:2]):
        assert result["first_bad"]["log"] in ("gw-1", "manifest")
    for keys in ((VKEY,), ()):
        both(root, keys=keys)
    both(root, keys=(), held=held)
    both(log, held=held)


def test_keys_are_values_not_files_of_the_log(copy: Path) -> None:
    assert verify(copy, [VerifierKey("gw.example.com", OTHER_SIGNER.key.public_key)]).ok is False
