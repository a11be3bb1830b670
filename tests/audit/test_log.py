"""The log keeps its promises: durable when it says so, refused when it cannot, whole after a crash."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agentgw.audit.files import OsFiles
from agentgw.audit.keys import verify_ed25519
from agentgw.audit.log import FileLog
from agentgw.audit.verify import verify
from agentgw.core.checkpoint import open_note, parse_checkpoint
from agentgw.errors import ConfigError, Unavailable
from tests.audit.faulty_files import Fault, FaultyFiles
from tests.audit.records import (
    OTHER_SIGNER,
    ROOT,
    SIGNER,
    bodies,
    decision,
    lines,
    outcome,
    start,
    writer,
)

pytestmark = pytest.mark.anyio
KEYS = [SIGNER.key]


class GatedFiles(OsFiles):
    """Real files whose next fdatasync waits until it is let through."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.syncs = 0

    def fdatasync(self, fd: int) -> None:
        self.syncs += 1
        self.reached.set()
        assert self.gate.wait(10)
        super().fdatasync(fd)


async def recovered(log: FileLog) -> None:
    """Wait until appends are taken again; the log itself says when."""
    for _ in range(2000):
        if log.refusal is None:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(log.refusal)


def assert_holds(root: Path, records: int | None = None) -> None:
    result = verify(root, KEYS)
    assert result.ok, result
    assert records is None or result.records == records


async def test_an_append_returns_its_seq_and_the_line_is_there(tmp_path: Path) -> None:
    log = await start(tmp_path)
    assert [await log.append(decision(n)) for n in range(3)] == [0, 1, 2]
    first = lines(tmp_path)[0]
    assert list(first)[:3] == ["v", "log", "seq"]
    assert first == {"v": 1, "log": "gw-1", "seq": 0} | decision(0)
    await log.close()
    assert_holds(tmp_path, 3)


async def test_what_waits_together_is_synced_together(tmp_path: Path) -> None:
    files = GatedFiles()
    log = await start(tmp_path, files=files)
    before = files.syncs
    seqs = await asyncio.gather(*(log.append(decision(n)) for n in range(64)))
    assert seqs == list(range(64))
    assert files.syncs - before == 1
    await log.close()


async def test_nothing_is_said_to_be_durable_before_the_sync_returns(tmp_path: Path) -> None:
    files = GatedFiles()
    log = await start(tmp_path, files=files)
    files.gate.clear()
    files.reached.clear()
    append = asyncio.create_task(log.append(decision(0)))
    await asyncio.to_thread(files.reached.wait, 10)
    await asyncio.sleep(0)
    assert not append.done()
    files.gate.set()
    assert await append == 0
    await log.close()


async def test_queued_records_keep_their_place_and_gate_nothing(tmp_path: Path) -> None:
    log = await start(tmp_path)
    log.append_soon(decision(0))
    assert await log.append(decision(1)) == 1
    log.append_soon(outcome(0))
    log.append_soon(outcome(1))
    await log.close()
    assert [line["id"] for line in lines(tmp_path)] == ["d-0", "d-1", "o-0", "o-1"]
    assert_holds(tmp_path, 4)


async def test_a_caller_that_gave_up_holds_up_nobody(tmp_path: Path) -> None:
    files = GatedFiles()
    log = await start(tmp_path, files=files)
    files.gate.clear()
    files.reached.clear()
    gone, staying = (asyncio.create_task(log.append(decision(n))) for n in range(2))
    await asyncio.to_thread(files.reached.wait, 10)
    gone.cancel()
    await asyncio.sleep(0)
    files.gate.set()
    assert await staying == 1
    assert gone.cancelled()
    assert await log.append(decision(2)) == 2
    await log.close()


async def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    log = await start(tmp_path / "log")
    await log.append(decision(0))
    await log.close()
    for path in [tmp_path / "log", *(tmp_path / "log").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_refuses_a_second_writer(tmp_path: Path) -> None:
    log = await start(tmp_path)
    with pytest.raises(ConfigError, match="another process writes this log"):
        await start(tmp_path)
    other = await start(tmp_path, "gw-2")
    await other.append(decision(0))
    await other.close()
    await log.close()
    assert_holds(tmp_path, 1)
    assert (
        (tmp_path / "manifest").read_text().startswith("agentgw log manifest\nlog gw-1\nlog gw-2\n")
    )


async def test_a_closed_log_refuses(tmp_path: Path) -> None:
    log = await start(tmp_path)
    await log.close()
    await log.close()
    with pytest.raises(Unavailable):
        await log.append(decision(0))
    log.append_soon(outcome(0))
    assert lines(tmp_path) == []


async def test_a_last_checkpoint_covers_everything_at_close(tmp_path: Path) -> None:
    log = await start(tmp_path)
    await asyncio.gather(*(log.append(decision(n)) for n in range(10)))
    await log.close()
    note = (tmp_path / "gw-1" / "checkpoint").read_text()
    text, _ = open_note(note, KEYS, verify_ed25519)
    assert parse_checkpoint(text).size == 10
    assert parse_checkpoint(text).origin == "gw.example.com/gw-1"
    held = verify(tmp_path, KEYS, note)
    assert (held.ok, held.assurance, held.covered_to) == (True, "held", 10)


async def test_a_checkpoint_comes_within_a_thousand_records(tmp_path: Path) -> None:
    log = await start(tmp_path)
    for _ in range(3):
        await asyncio.gather(*(log.append(decision(n)) for n in range(1000)))
    sizes = [
        int(note.split("\n")[1])
        for note in (tmp_path / "gw-1" / "checkpoints").read_text().split("\n\n")[:-1:2]
    ]
    assert sizes[:3] == [0, 1000, 2000]
    await log.close()


@pytest.mark.parametrize(
    ("seconds", "records"), [(3600.0, 5), (0.001, 10**6)], ids=["by-number", "by-time"]
)
async def test_checkpoints_come_as_often_as_was_configured(
    tmp_path: Path, seconds: float, records: int
) -> None:
    log = await start(tmp_path, checkpoint_seconds=seconds, checkpoint_records=records)
    for number in range(0, 20, 5):
        await asyncio.gather(*(log.append(decision(number + n)) for n in range(5)))
    note = tmp_path / "gw-1" / "checkpoint"
    for _ in range(2000):
        if parse_checkpoint(note.read_text().partition("\n\n")[0] + "\n").size == 20:
            break
        await asyncio.sleep(0.001)
    else:
        pytest.fail("no checkpoint covers the last record")
    await log.close()


FAULTS = [
    Fault("write", errno.ENOSPC, "before"),
    Fault("write", errno.ENOSPC, "partly"),
    Fault("write", errno.ENOSPC, "after"),
    Fault("fdatasync", errno.EIO, "before"),
    Fault("fdatasync", errno.EIO, "after"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.operation}-{fault.when}")
async def test_a_failed_write_refuses_whoever_waits_and_heals(tmp_path: Path, fault: Fault) -> None:
    files = FaultyFiles()
    log = await start(tmp_path, files=files)
    assert await log.append(decision(0)) == 0
    files.inject(fault)
    log.append_soon(outcome(0))
    refused = await asyncio.gather(
        *(log.append(decision(n)) for n in (1, 2)), return_exceptions=True
    )
    assert [type(error) for error in refused] == [Unavailable, Unavailable]
    await recovered(log)
    assert await log.append(decision(3)) > 0
    await log.close()
    ids = [line["id"] for line in lines(tmp_path) if line["phase"] != "event"]
    assert ids == ["d-0", "o-0", "d-3"]
    events = [line for line in lines(tmp_path) if line["phase"] == "event"]
    assert [event["method"] for event in events] == ["log/recovered", "log/gap"]
    assert events[1]["refused"] == 2
    assert len(list((tmp_path / "gw-1").glob("*.jsonl"))) == 2
    assert_holds(tmp_path)


async def test_a_disk_that_stays_full_refuses_at_once_until_there_is_room(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = await start(tmp_path, files=files)
    await log.append(decision(0))
    files.inject(Fault("write", errno.ENOSPC, times=-1))
    with pytest.raises(Unavailable, match="No space left"):
        await log.append(decision(1))
    log.append_soon(outcome(0))
    for _ in range(3):
        tries = files.calls["write"]
        while files.calls["write"] == tries:
            with pytest.raises(Unavailable):
                await log.append(decision(2))
            await asyncio.sleep(0.005)
    files.mend()
    await recovered(log)
    await log.append(decision(3))
    await log.close()
    assert len(list((tmp_path / "gw-1").glob("*.jsonl"))) == 2
    assert [line["id"] for line in lines(tmp_path) if line["phase"] != "event"] == [
        "d-0", "o-0", "d-3",
    ]  # fmt: skip
    assert_holds(tmp_path)


async def test_the_queue_of_a_dead_disk_is_bounded_and_the_loss_recorded(tmp_path: Path) -> None:
    files = FaultyFiles()
    log = await start(tmp_path, files=files, max_queued=4)
    files.inject(Fault("write", errno.EIO, times=-1))
    with pytest.raises(Unavailable):
        await log.append(decision(0))
    for number in range(10):
        log.append_soon(decision(number))
    files.mend()
    await recovered(log)
    await log.append(decision(99))
    await log.close()
    gap = next(line for line in lines(tmp_path) if line.get("method") == "log/gap")
    assert (gap["lost"], gap["refused"]) == (6, 1)
    assert_holds(tmp_path)


async def test_starts_on_a_disk_that_refuses_and_heals(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.inject(Fault("write", errno.EROFS, times=-1))
    log = await start(tmp_path, files=files)
    with pytest.raises(Unavailable, match="Read-only"):
        await log.append(decision(0))
    files.mend()
    await recovered(log)
    assert await log.append(decision(1)) >= 0
    await log.close()
    assert_holds(tmp_path)


async def test_a_disk_that_does_not_answer_refuses_instead_of_hanging(tmp_path: Path) -> None:
    files = GatedFiles()
    log = await start(tmp_path, files=files, stall_seconds=0.5)
    files.gate.clear()
    with pytest.raises(Unavailable, match="does not answer"):
        await log.append(decision(0))
    with pytest.raises(Unavailable, match="does not answer"):
        await log.append(decision(1))
    files.gate.set()
    await recovered(log)
    await log.append(decision(2))
    await log.close()
    assert_holds(tmp_path)


async def test_a_writer_that_died_refuses_instead_of_hanging(tmp_path: Path) -> None:
    class DyingFiles(OsFiles):
        dies = False

        def write(self, fd: int, data: bytes) -> int:
            if self.dies:
                raise ZeroDivisionError
            return super().write(fd, data)

    files = DyingFiles()
    log = await start(tmp_path, files=files)
    files.dies = True
    for _ in range(2):
        with pytest.raises(Unavailable, match="its writer ended"):
            await log.append(decision(0))
    log.append_soon(outcome(0))
    await log.close()


async def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    log = await start(tmp_path)
    await log.append(decision(0) | {"client": "\ud800", "big": 2**70})
    await log.close()
    assert lines(tmp_path)[0]["client"] == "?"
    assert_holds(tmp_path, 1)


def test_segments_follow_one_another_in_one_tree(tmp_path: Path) -> None:
    log = writer(tmp_path, OsFiles(), segment_bytes=1000)
    log.open()
    for number in range(12):
        assert log.commit(bodies(decision(number))) == number
    log.checkpoint()
    log.close()
    assert len(list((tmp_path / "gw-1").glob("*.jsonl"))) > 3
    assert_holds(tmp_path, 12)
    again = writer(tmp_path, OsFiles(), segment_bytes=1000)
    again.open()
    assert again.commit(bodies(decision(12))) == 12
    again.checkpoint()
    again.close()
    assert_holds(tmp_path, 13)


@pytest.mark.parametrize("torn", [b"{", b'{"v":1,"log":"gw-1","seq":2,"id":"x"', bytes(64)])
def test_a_torn_last_line_is_moved_aside_and_recorded(tmp_path: Path, torn: bytes) -> None:
    log = writer(tmp_path, OsFiles())
    log.open()
    log.commit(bodies(decision(0), decision(1)))
    log.close()
    segment = tmp_path / "gw-1" / "00000001.jsonl"
    good = segment.stat().st_size
    with segment.open("ab") as file:
        file.write(torn)
    (tmp_path / "gw-1" / "00000001.leaves").write_bytes(b"")
    log = writer(tmp_path, OsFiles())
    log.open()
    log.close()
    aside = f"00000001.{good}.torn"
    assert (tmp_path / "gw-1" / aside).read_bytes() == torn
    event = lines(tmp_path)[2]
    assert (event["seq"], event["method"]) == (2, "log/recovered")
    assert event["torn"] == [{"file": aside, "bytes": len(torn)}]
    assert_holds(tmp_path, 3)


def test_a_torn_checkpoint_is_cut(tmp_path: Path) -> None:
    log = writer(tmp_path, OsFiles())
    log.open()
    log.commit(bodies(decision(0)))
    log.checkpoint()
    log.close()
    with (tmp_path / "gw-1" / "checkpoints").open("a") as file:
        file.write("gw.example.com/gw-1\n7\n")
    assert_holds(tmp_path, 1)
    log = writer(tmp_path, OsFiles())
    log.open()
    log.commit(bodies(decision(1)))
    log.checkpoint()
    log.close()
    result = verify(tmp_path, KEYS)
    assert (result.ok, result.checkpoints, result.covered_to) == (True, 3, 2)


def test_a_log_that_contradicts_its_checkpoint_is_not_continued(tmp_path: Path) -> None:
    log = writer(tmp_path, OsFiles())
    log.open()
    log.commit(bodies(decision(0), decision(1)))
    log.checkpoint()
    log.close()
    segment = tmp_path / "gw-1" / "00000001.jsonl"
    whole = segment.read_bytes()
    for changed in (whole.replace(b"alice", b"alicf", 1), whole[: whole.index(b"\n") + 1], b""):
        segment.write_bytes(changed)
        log = writer(tmp_path, OsFiles())
        with pytest.raises(ConfigError, match="does not match its last checkpoint"):
            log.open()
        log.close()
        assert segment.read_bytes() == changed
    segment.write_bytes(whole)
    log = writer(tmp_path, OsFiles())
    log.open()
    log.close()


def test_a_rotated_key_signs_on(tmp_path: Path) -> None:
    for signer, number in ((SIGNER, 0), (OTHER_SIGNER, 1)):
        log = writer(tmp_path, OsFiles(), signer=signer)
        log.open()
        log.commit(bodies(decision(number)))
        log.checkpoint()
        log.close()
    assert verify(tmp_path, [SIGNER.key, OTHER_SIGNER.key]).ok
    assert not verify(tmp_path, [SIGNER.key]).ok
    assert not verify(tmp_path, [OTHER_SIGNER.key]).ok


def test_an_altered_list_of_logs_is_not_signed_again(tmp_path: Path) -> None:
    log = writer(tmp_path, OsFiles())
    log.open()
    log.close()
    manifest = tmp_path / "manifest"
    manifest.write_text(manifest.read_text().replace("log gw-1", "log gw-2"))
    log = writer(tmp_path, OsFiles(), "gw-3")
    with pytest.raises(ConfigError, match="was altered"):
        log.open()
    log.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.audit.records import decision, outcome, start

async def main():
    log = await start(Path(sys.argv[1]))
    first = int(sys.argv[2])
    async def work(worker):
        for number in range(first + worker, 10**9, 8):
            seq = await log.append(decision(number))
            print(seq, number, flush=True)
            log.append_soon(outcome(number))
    await asyncio.gather(*(work(worker) for worker in range(8)))

asyncio.run(main())
"""


def test_after_kill_9_everything_acknowledged_is_there_and_the_log_holds(tmp_path: Path) -> None:
    acknowledged: dict[int, int] = {}
    for round in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), str(round * 10**6)],
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert process.stdout is not None
        for count, line in enumerate(process.stdout):
            seq, number = map(int, line.split())
            acknowledged[seq] = number
            if count == 150 + 70 * round:
                os.kill(process.pid, signal.SIGKILL)
                break
        rest = process.stdout.read().split("\n")[:-1]  # what stands behind the last LF was cut
        process.wait()
        process.stdout.close()
        acknowledged |= {int(a): int(b) for a, b in (line.split() for line in rest)}
        assert_holds(tmp_path)
    log = writer(tmp_path, OsFiles())
    log.open()
    log.close()
    assert_holds(tmp_path)
    written = {line["seq"]: line["id"] for line in lines(tmp_path)}
    assert len(acknowledged) > 1000
    assert {seq: written.get(seq) for seq in acknowledged} == {
        seq: f"d-{number}" for seq, number in acknowledged.items()
    }
