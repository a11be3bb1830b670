"""What one call executes, counted: a figure that neighbours on the machine do not change.

    python tools/bench/count.py                  Python and C calls, bytecodes, by function
    python tools/bench/count.py --instructions   and machine instructions, by library (valgrind)

Runs the whole application in one process over transports in memory (`counted.py`), against the static
upstream. Start-up is not in the figures. Exits 1 where an answer was wrong or a run failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from processes import Cores, NotStarted, running
from rows import HERE, Ground, gateway_config, ground
from wire import SERVER, call_request

_PORT = 4480
"""Of the gateway's URL; nothing listens."""
_WAIT_SECONDS = 600
_KINDS = ("python", "c", "bytecodes")
_VALGRIND = (
    "valgrind", "--tool=callgrind", "--instr-atstart=no", "--compress-strings=no",
    "--compress-pos=no",
)  # fmt: skip

Table = dict[tuple[str, str], Counter[str]]
"""What one call takes, by file and function."""


def main() -> int:
    """Count from the command line."""
    given = _arguments()
    totals: dict[int, Counter[str]] = {}
    table: Table = {}
    try:
        folder = Path(tempfile.mkdtemp(prefix="agentgw-count-", dir=given.state))
        try:
            with ground(folder, Cores()) as under:
                for c in given.c:
                    totals[c], table = _counted(under, c, given.waves)
                    if given.instructions:
                        totals[c] += _instructions(under, c, given.waves)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except (NotStarted, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    if given.json:
        print(json.dumps({str(c): total for c, total in totals.items()}, indent=1))
    else:
        _print(totals, table, given.top)
    return 0


def _counted(under: Ground, c: int, waves: int) -> tuple[Counter[str], Table]:
    """Calls, bytecodes and the best time of c calls at once, per call."""
    table: Table = {}
    for how in ("calls", "bytecodes"):
        made = _run(under, c, waves, how)
        for each in made["functions"]:
            entry = table.setdefault((each["file"], each["function"]), Counter())
            entry.update({kind: each[kind] / made["calls"] for kind in _KINDS})
    totals = Counter[str]()
    for entry in table.values():
        totals.update(entry)
    totals["best us"] = _run(under, c, 20 * waves, "time")["best_us"]
    return totals, table


def _run(under: Ground, c: int, waves: int, how: str) -> dict[str, Any]:
    command = _command(under, c, waves, how)
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_WAIT_SECONDS
    )
    if done.returncode:
        raise NotStarted(f"counting failed: {done.stderr[-1500:]}")
    counted: dict[str, Any] = json.loads((under.folder / how).read_text())
    return counted


def _instructions(under: Ground, c: int, waves: int) -> Counter[str]:
    """Machine instructions per call, in all and by library, of every thread. Raises NotStarted."""
    if not shutil.which("valgrind"):
        raise NotStarted("valgrind is not installed (apt install valgrind)")
    found = under.folder / "callgrind"
    command = [*_VALGRIND, f"--callgrind-out-file={found}", *_command(under, c, waves, "none")]
    with running(
        "valgrind", command, under.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.process.stdin and child.process.stdout
        for word, switch in ((b"ready", "on"), (b"done", "off")):
            if child.process.stdout.readline().strip() != word:
                raise NotStarted(f"counting failed: {child.last_words()}")
            control = ["callgrind_control", "-i", switch, str(child.pid)]
            subprocess.run(control, check=True, capture_output=True, timeout=60)
            child.process.stdin.write(b"\n")
            child.process.stdin.flush()
        child.process.wait(_WAIT_SECONDS)
    spent = _by_library(found.read_text(errors="replace").splitlines())
    spent["instructions"] = sum(spent.values())
    return Counter({name: count // (c * waves) for name, count in spent.items()})


def _by_library(lines: Iterable[str]) -> Counter[str]:
    """Read callgrind's output: what each object file spent itself."""
    spent = Counter[str]()
    library, inclusive = "", False
    for line in lines:
        if line.startswith("ob="):
            library = Path(line[3:]).name.partition(".")[0]
        elif line.startswith("calls="):
            inclusive = True
        elif line[:1].isdigit():
            spent[library] += 0 if inclusive else int(line.split()[1])
            inclusive = False
    return spent


def _command(under: Ground, c: int, waves: int, how: str) -> list[str]:
    folder = Path(tempfile.mkdtemp(dir=under.folder))
    config, request = folder / "agentgw.yaml", folder / "request"
    config.write_text(json.dumps(gateway_config(under, folder, _PORT)))
    config.chmod(0o600)
    token = under.issuer.user_token(under.upstream_url, f"http://127.0.0.1:{_PORT}/mcp")
    request.write_bytes(call_request(_PORT, f"/mcp/{SERVER}", token))
    return [
        sys.executable, str(HERE / "counted.py"), "--config", str(config), "--request", str(request),
        "--c", str(c), "--calls", str(c * waves), "--how", how,
        "--out", str(under.folder / how),
    ]  # fmt: skip


def _print(totals: dict[int, Counter[str]], table: Table, top: int) -> None:
    for c, total in totals.items():
        print(f"one call of {c} at once:")
        for name, count in total.items():
            print(f"{count:12,.1f}  {name}")
    print("\nby function, of the last:\n  python       c  bytecodes")
    ordered = sorted(table.items(), key=lambda item: -item[1]["bytecodes"])
    for (file, function), each in ordered[:top]:
        short = file.partition("site-packages/")[2] or file.rpartition("agentgw/agentgw/")[2]
        row = f"{each['python']:8.2f}{each['c']:8.2f}{each['bytecodes']:11.1f}"
        print(f"{row}  {short or file}: {function}")


def _whole_numbers(text: str) -> Sequence[int]:
    return [int(word) for word in text.split(",")]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--c", type=_whole_numbers, default=[1, 32], help="calls at once, by comma")
    add("--waves", type=int, default=10, help="how often they are made (default 10)")
    add("--instructions", action="store_true", help="count machine instructions too")
    add("--top", type=int, default=60, help="functions to print (default 60)")
    add("--json", action="store_true", help="print the totals as JSON")
    add("--state", type=Path, help="where logs and databases go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
