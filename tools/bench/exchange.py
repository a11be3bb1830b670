"""Token exchange by the second: how many one worker makes durable, and how long each takes at half of that.

    python tools/bench/exchange.py --pin        the figures as JSON, one object per cell

The product as shipped, one worker: every exchange authenticates the client (client_secret_basic), reads
the subject token (always alice's same one, so from the cache of verified tokens), keeps a ledger entry
and a record on disk, and signs a new ES256 token. The second cell sends at half the rate of the first,
on a fixed schedule; what goes out late counts from when it was due. A third is the row `full` of
bench.py, a delegated call, under the same load in the same round: the ratio of the two travels from
machine to machine, the figures do not. Exits 1 when an answer was wrong.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from urllib.parse import urlencode

from issuer import ALIAS, CLIENT
from load import Cell
from processes import Cores, NotStarted, free_port, running, wait_until
from rows import HERE, ROWS, Ground, Target, ground, started
from wire import exchange

SECRET = "bench-secret-of-16-or-more"
GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
BARS = {"full load": "at least 2000 per core", "half load": "p99 under 20 ms", "call": "none"}


def main() -> int:
    """Run the benchmark from the command line."""
    given = _arguments()
    cores = Cores.pinned() if given.pin else Cores()
    folder = Path(tempfile.mkdtemp(prefix="agentgw-bench-", dir=given.state))
    rounds: dict[str, list[Cell]] = {"full load": [], "half load": [], "call": []}
    full_row = next(row for row in ROWS if row.name == "full")
    try:
        with ground(folder, cores) as under:
            for number in range(given.rounds):
                place = folder / str(number)
                place.mkdir()
                with gateway(under, place) as target:
                    full = measure(under, target, given.c, given.seconds, ("--token",))
                    paced = ("--token", "--rate", str(full.rps / 2))
                    half = measure(under, target, given.c, given.seconds, paced)
                with started(full_row, under) as target:
                    call = measure(under, target, given.c, given.seconds)
                for name, cell in zip(rounds, (full, half, call), strict=True):
                    rounds[name].append(cell)
                    if cell.errors:
                        print(f"{name}: {cell.errors} ERRORS: {cell.first_error}", file=sys.stderr)
    except NotStarted as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps([_row(name, given.c, cells) for name, cells in rounds.items()], indent=1))
    return 1 if any(cell.errors for cells in rounds.values() for cell in cells) else 0


@contextlib.contextmanager
def gateway(under: Ground, folder: Path) -> Iterator[Target]:
    """The product with one agent that may exchange."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    client = {"issuer": ALIAS, "client_id": CLIENT, "confidential": True}
    config = folder / "agentgw.yaml"
    config.touch(mode=0o600)
    config.write_text(
        json.dumps(
            {
                "version": 1,
                "dev": True,
                "public_url": url,
                "listen": f"127.0.0.1:{port}",
                "state_dir": str(folder / "state"),
                "issuers": {ALIAS: {"issuer": under.upstream_url, "audiences": [f"{url}/mcp"]}},
                "agents": {CLIENT: {"clients": [client], "auth": {"secret": SECRET}}},
            }
        )
    )
    command = [sys.executable, "-m", "agentgw", "serve", "--config", str(config)]
    env = {"PYTHONPATH": str(HERE.parents[1])}
    with running("gateway", command, folder, core=under.cores.server, env=env) as child:
        wait_until(child, lambda: _first(under, port), 30)
        yield Target(port, request(under, port), child)


def _first(under: Ground, port: int) -> str:
    try:
        status, body = exchange(port, request(under, port), 10)
    except OSError as error:
        return str(error)
    return "" if status == 200 else f"{status} {body[:500].decode(errors='replace')}"


def request(under: Ground, port: int) -> bytes:
    """The whole HTTP request of one exchange, for a token of `/mcp`."""
    url = f"http://127.0.0.1:{port}"
    body = urlencode(
        {
            "grant_type": GRANT,
            "subject_token": under.issuer.user_token(under.upstream_url, f"{url}/mcp"),
            "subject_token_type": ACCESS_TOKEN,
            "resource": f"{url}/mcp",
            "scope": "tickets.read",
        }
    ).encode()
    credentials = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
    head = (
        "POST /oauth/token HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\n"
        f"Authorization: Basic {credentials}\r\n"
        "Accept: application/json\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n"
        "User-Agent: agentgw-bench/1.0\r\n"
        f"Content-Length: {len(body)}\r\n"
        "\r\n"
    )
    return head.encode() + body


def measure(
    under: Ground, target: Target, c: int, seconds: float, how: tuple[str, ...] = ()
) -> Cell:
    """One cell, by a load generator in a process of its own. Raises NotStarted."""
    file = under.folder / "request"
    file.write_bytes(target.request)
    command = [
        sys.executable, str(HERE / "load.py"), "--port", str(target.port), "--request", str(file),
        "--c", str(c), "--seconds", str(seconds), "--pid", str(target.child.pid), *how,
    ]  # fmt: skip
    with running(
        "load", command, under.folder, core=under.cores.load, stdout=subprocess.PIPE
    ) as load:
        output, _ = load.process.communicate(timeout=10 * seconds + 30)
        if load.process.returncode:
            raise NotStarted(f"the load generator failed: {load.last_words()}")
    return Cell(**json.loads(output))


def _row(name: str, c: int, cells: list[Cell]) -> dict[str, object]:
    return {
        "cell": name,
        "c": c,
        "per_second": round(median(cell.rps for cell in cells)),
        "cpu_us": round(median(cell.cpu_us for cell in cells), 1),
        "busy": round(median(cell.busy for cell in cells), 2),
        "per_core": round(median(cell.rps / cell.busy for cell in cells if cell.busy)),
        "p50_ms": round(median(cell.p50_ms for cell in cells), 2),
        "p99_ms": round(median(cell.p99_ms for cell in cells), 2),
        "errors": sum(cell.errors for cell in cells),
        "bar": BARS[name],
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=2.0, help="measured seconds per cell (default 2)")
    add("--c", type=int, default=32, help="connections (default 32)")
    add("--pin", action="store_true", help="one core for the server, one for load and issuer")
    add("--state", type=Path, default=_state_folder(), help="where logs and databases go")
    return parser.parse_args()


def _state_folder() -> Path:
    """As bench.py has it: a folder on a disk, since the temporary one often is memory."""
    lasting = Path("/var/tmp")  # noqa: S108
    return lasting if lasting.is_dir() else Path(tempfile.gettempdir())


if __name__ == "__main__":
    sys.exit(main())
