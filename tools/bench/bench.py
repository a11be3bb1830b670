"""The benchmark: one command, everything on loopback, side by side in one run.

    python tools/bench/bench.py                 a table, the ratios, the set-up
    python tools/bench/bench.py --json          the medians as a list of flat objects
    python tools/bench/bench.py --pin --write docs/performance.md

Rounds are interleaved (each round starts every row's server anew and visits every concurrency) and
every figure is the median over the rounds. docs/performance.md says what the rows are and how to read
them. Exits 0; 1 when an answer was wrong or a row did not run that should have; 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import report
from load import Cell
from processes import Cores, NotStarted, running
from rows import HERE, ROWS, Ground, Row, Target, ground, install_fastmcp, nginx_version, started

_MOST_ROUNDS, _MOST_SECONDS, _MOST_C = 50, 60.0, 1024


def say(text: str) -> None:
    """Talk goes to stderr; stdout is for the data."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Run the benchmark from the command line."""
    given = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if given.fastmcp:
            install_fastmcp()
        cores = Cores.pinned() if given.pin else Cores()
    except NotStarted as error:
        say(str(error))
        return 1
    rows = _chosen(given.rows)
    folder = Path(tempfile.mkdtemp(prefix="agentgw-bench-", dir=given.state))
    options = {
        "nginx, pinning": f"{nginx_version()}, {_pinning(cores)}",
        "run": f"{given.rounds} rounds of {given.seconds:g} s a cell, medians",
    }
    setup = report.setup(folder, options)
    try:
        with ground(folder, cores) as under:
            results = _run(under, rows, given)
    except KeyboardInterrupt:
        return 130
    except NotStarted as error:
        say(str(error))
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _print(results, setup, given)
    return 0 if results.honest else 1


def _run(under: Ground, rows: Sequence[Row], given: argparse.Namespace) -> report.Results:
    """All rounds, until done or until `--max-seconds` have passed."""
    results = report.Results()
    deadline = time.monotonic() + given.max_seconds
    for number in range(given.rounds):
        results.fdatasync_ms.append(_fdatasync_ms(under.folder))
        for row in rows:
            if time.monotonic() > deadline:
                say(f"stopped after {given.max_seconds:g} s; what is measured is reported")
                return results
            if row.name in results.failed:
                continue
            say(f"round {number + 1}/{given.rounds}: {row.name}")
            try:
                with started(row, under) as target:
                    _visit(row, target, under, given, results)
            except (NotStarted, OSError) as error:
                say(f"{row.name} FAILED: {error}")
                results.failed[row.name] = str(error).partition("\n")[0]
    return results


def _visit(
    row: Row, target: Target, under: Ground, given: argparse.Namespace, results: report.Results
) -> None:
    for c in given.c:
        if c > row.most_c:
            say(f"{row.name} at c={c} SKIPPED: too slow for more than {row.most_c} connections")
            continue
        cell = _measure(target, under, c, given.seconds)
        results.cells.setdefault((row.name, c), []).append(cell)
        if cell.errors:
            say(f"{row.name} at c={c}: {cell.errors} ERRORS, the first: {cell.first_error}")


def _measure(target: Target, under: Ground, c: int, seconds: float) -> Cell:
    """One cell, by a load generator in a process of its own. Raises NotStarted."""
    request = under.folder / "request"
    request.write_bytes(target.request)
    command = [
        sys.executable, str(HERE / "load.py"), "--port", str(target.port), "--request", str(request),
        "--c", str(c), "--seconds", str(seconds), "--pid", str(target.child.pid),
    ]  # fmt: skip
    with running(
        "load", command, under.folder, core=under.cores.load, stdout=subprocess.PIPE
    ) as child:
        try:
            output, _ = child.process.communicate(timeout=10 * seconds + 30)
        except subprocess.TimeoutExpired:
            raise NotStarted("the load generator did not end in time") from None
        if child.process.returncode:
            raise NotStarted(f"the load generator failed: {child.last_words()}")
    return Cell(**json.loads(output))


def _fdatasync_ms(folder: Path, times: int = 50) -> float:
    """The median time of appending 512 bytes and making them durable, as the audit log must."""
    spans = []
    descriptor = os.open(folder / "flush", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(times):
            begun = time.perf_counter()
            os.write(descriptor, b"x" * 512)
            os.fdatasync(descriptor)
            spans.append((time.perf_counter() - begun) * 1e3)
    finally:
        os.close(descriptor)
    return median(spans)


def _chosen(names: Sequence[str]) -> list[Row]:
    """The rows asked for, or all; those that cannot run here are left out, loudly."""
    chosen = [row for row in ROWS if not names or row.name in names]
    for row in chosen:
        if reason := row.missing():
            say(f"{row.name} SKIPPED: {reason}")
    runnable = [row for row in chosen if not row.missing()]
    if names and len(runnable) < len(chosen):
        say("a row asked for by name cannot run here")
        sys.exit(1)
    return runnable


def _print(results: report.Results, setup: dict[str, str], given: argparse.Namespace) -> None:
    if given.json:
        print(json.dumps(report.as_rows(results), indent=1))
    else:
        print(report.as_markdown(results, setup), end="")
    if given.write:
        report.write_between(given.write, report.as_markdown(results, setup))


def _pinning(cores: Cores) -> str:
    if cores.server is None:
        return "not pinned"
    return f"server on core {cores.server}, load generator and upstream on core {cores.load}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print the rows as JSON")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=2.0, help="measured seconds per cell (default 2)")
    add("--rows", type=_row_names, default=[], help="some rows only, by comma")
    add("--c", type=_concurrencies, default=[1, 32, 256], help="connections, by comma")
    add("--pin", action="store_true", help="one core for the server, one for load and upstream")
    add("--fastmcp", action="store_true", help="install FastMCP into its own environment first")
    add(
        "--state",
        type=Path,
        default=_state_folder(),
        help="where logs and databases go: a real disk",
    )
    add("--max-seconds", type=float, default=1800.0, help="begin no row after this long")
    add("--write", type=Path, help="replace the block between the markers in this file")
    given = parser.parse_args()
    if not 1 <= given.rounds <= _MOST_ROUNDS:
        parser.error(f"--rounds is 1 to {_MOST_ROUNDS}")
    if not 0.05 <= given.seconds <= _MOST_SECONDS:
        parser.error(f"--seconds is 0.05 to {_MOST_SECONDS:g}")
    if not given.state.is_dir():
        parser.error(f"--state {given.state} is no folder")
    return given


def _row_names(text: str) -> list[str]:
    names = text.split(",")
    known = [row.name for row in ROWS]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no row {name!r}; there are {', '.join(known)}")
    return names


def _concurrencies(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError("whole numbers by comma, like 1,32,256") from None
    if not all(1 <= number <= _MOST_C for number in numbers):
        raise argparse.ArgumentTypeError(f"each is 1 to {_MOST_C}")
    return numbers


def _state_folder() -> Path:
    """The folder for files that survive a reboot, so on a disk; the temporary one often is memory."""
    lasting = Path("/var/tmp")  # noqa: S108
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


if __name__ == "__main__":
    sys.exit(main())
