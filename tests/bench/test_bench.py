"""The benchmark runs and reports; what it measures is never asserted here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "tools" / "bench"
FIELDS = {"row", "c", "cpu_us", "rps", "p50_ms", "p99_ms", "rss_mib"}
SMALL = ("--c", "1", "--seconds", "0.2", "--rounds", "1")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the benchmark reads CPU time from /proc (Linux)"
)


def run_bench(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH / "bench.py"), "--state", str(state), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def rows_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def test_a_run_yields_the_rows_with_their_fields_and_no_errors(tmp_path: Path) -> None:
    rows = rows_of(run_bench(tmp_path, "--rows", "direct", *SMALL, "--json"))
    assert [(row["row"], row["c"]) for row in rows] == [("direct", 1)]
    assert set(rows[0]) >= FIELDS
    assert rows[0]["errors"] == 0
    assert rows[0]["rps"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_naive_gateway_verifies_mints_and_answers(tmp_path: Path) -> None:
    rows = rows_of(run_bench(tmp_path, "--rows", "naive", *SMALL, "--json"))
    assert [(row["row"], row["errors"]) for row in rows] == [("naive", 0)]


def test_the_product_and_its_bare_relay_do_what_their_rows_promise(tmp_path: Path) -> None:
    """The bench itself refuses rows that reuse a token or whose log lacks (or holds) records."""
    rows = rows_of(run_bench(tmp_path, "--rows", "relay,full", *SMALL, "--json"))
    assert [(row["row"], row["errors"]) for row in rows] == [("relay", 0), ("full", 0)]


def test_the_table_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "before\n<!-- bench.py --write: begin -->\nold\n<!-- bench.py --write: end -->\nafter\n"
    )
    done = run_bench(tmp_path, "--rows", "direct", *SMALL, "--write", str(page))
    assert done.returncode == 0, done.stderr
    written = page.read_text()
    assert "old" not in written
    assert written.startswith("before\n") and written.endswith("\nafter\n")
    assert done.stdout in written


def test_refuses_an_unknown_row_and_names_the_known_ones(tmp_path: Path) -> None:
    done = run_bench(tmp_path, "--rows", "fastest", "--json")
    assert done.returncode == 2
    assert "full_without_mint" in done.stderr


def test_a_server_that_answers_wrongly_counts_as_errors(tmp_path: Path) -> None:
    """The load generator is pointed at a path whose answer is a 405."""
    request = tmp_path / "request"
    request.write_bytes(b"GET /nothing HTTP/1.1\r\nHost: upstream\r\n\r\n")
    with subprocess.Popen(
        [sys.executable, str(BENCH / "upstream.py")], stdout=subprocess.PIPE
    ) as upstream:
        try:
            assert upstream.stdout
            port = json.loads(upstream.stdout.readline())["port"]
            command = [
                sys.executable, str(BENCH / "load.py"), "--port", str(port), "--c", "2",
                "--request", str(request), "--seconds", "0.2", "--pid", str(upstream.pid),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        finally:
            upstream.kill()
    cell = json.loads(done.stdout)
    assert cell["errors"] > 0
    assert cell["first_error"].startswith("405")


def test_no_child_outlives_a_killed_run(tmp_path: Path) -> None:
    command = [
        sys.executable, str(BENCH / "bench.py"), "--state", str(tmp_path), "--rows", "naive",
        "--c", "1", "--seconds", "30", "--rounds", "1",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE) as bench:
        try:
            assert bench.stderr
            bench.stderr.readline()  # a row has begun, so the upstream runs
            children = processes_that_mention(str(tmp_path))
            assert len(children) > 1
        finally:
            bench.kill()
    deadline = time.monotonic() + 60
    while (left := processes_that_mention(str(tmp_path))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def processes_that_mention(text: str) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                line = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(int(entry))
    return found


def test_the_exchange_benchmark_gets_a_new_token_each_time(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "exchange.py"), "--state", str(tmp_path)]
    small = ["--c", "2", "--seconds", "0.2", "--rounds", "1"]
    done = subprocess.run(
        [*command, *small], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)
    assert [(cell["cell"], cell["errors"]) for cell in cells] == [
        ("full load", 0),
        ("half load", 0),
        ("call", 0),
    ]
    assert cells[0]["per_second"] > 0
    assert list(tmp_path.iterdir()) == []


def test_counting_tells_what_one_call_executes(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "count.py"), "--state", str(tmp_path)]
    small = ["--c", "2", "--waves", "2", "--json"]
    done = subprocess.run(
        [*command, *small], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout)["2"]
    assert set(totals) == {"python", "c", "bytecodes", "best us"}
    assert all(count > 0 for count in totals.values())
    assert list(tmp_path.iterdir()) == []
