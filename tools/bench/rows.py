"""The rows of the table: each starts one server between the load generator and the static upstream."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from issuer import ALIAS, CLIENT, Issuer
from processes import Child, Cores, NotStarted, free_port, python_server, running, wait_until
from wire import SERVER, call_request, exchange, is_expected

HERE = Path(__file__).resolve().parent
FASTMCP_VENV = HERE / ".venv-fastmcp"
FASTMCP_VERSION = "4.1.0"
_START_SECONDS = 30.0
_PATH = f"/mcp/{SERVER}"

_NGINX_CONFIG = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 1000000000;
    upstream tools {{
        server 127.0.0.1:{upstream};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://tools;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Ground:
    """What every row stands on: a scratch folder, the cores, the issuer and the running upstream."""

    folder: Path
    cores: Cores
    issuer: Issuer
    jwks: Path
    upstream: Child
    upstream_port: int

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"


@dataclass(frozen=True, slots=True)
class Target:
    """A server ready to be loaded: its port, the request it gets, and the root of its processes."""

    port: int
    request: bytes
    child: Child


@dataclass(frozen=True, slots=True)
class Row:
    """One row. `missing` says why it cannot run here ("" when it can); `most_c` caps the connections
    of servers too slow for more; `mints` demands that every call reach the upstream with a new token,
    `records` how many decision records a call leaves in our log (None: there is no such log)."""

    name: str
    start: Callable[[Ground, Path], AbstractContextManager[Target]]
    missing: Callable[[], str] = lambda: ""
    most_c: int = 1024
    mints: bool = False
    records: int | None = None


@contextlib.contextmanager
def ground(folder: Path, cores: Cores) -> Iterator[Ground]:
    """Start the upstream, which publishes a new issuer's keys, for the length of the block."""
    issuer = Issuer()
    jwks = folder / "jwks.json"
    jwks.write_text(issuer.jwks())
    script = HERE / "upstream.py"
    with python_server(script, folder, "--jwks", str(jwks), core=cores.load) as (child, port):
        yield Ground(folder, cores, issuer, jwks, child, port)


@contextlib.contextmanager
def started(row: Row, under: Ground) -> Iterator[Target]:
    """Start a row's server in a folder of its own and wait for its first right answer.

    Raises NotStarted where it does not come, or where a row that mints does not.
    """
    with tempfile.TemporaryDirectory(dir=under.folder, prefix=row.name + "-") as folder:
        with row.start(under, Path(folder)) as target:
            wait_until(target.child, partial(_first_answer, target), _START_SECONDS)
            _demand(row, target, under, Path(folder) / "state" / "log")
            yield target


def _first_answer(target: Target) -> str:
    try:
        status, body = exchange(target.port, target.request, 10)
    except OSError as error:
        return str(error)
    if status == 200 and is_expected(body):
        return ""
    return f"{status} {body[:500].decode(errors='replace')}"


def _demand(row: Row, target: Target, under: Ground, log: Path) -> None:
    """Look at two calls before measuring thousands: does this row do the work its name promises?"""
    look = b"GET /last HTTP/1.1\r\nHost: upstream\r\n\r\n"
    seen = [target.request.partition(b"Authorization: ")[2].partition(b"\r\n")[0].decode()]
    before = _decisions(log)
    for _ in range(2):
        exchange(target.port, target.request, 10)
        seen.append(json.loads(exchange(under.upstream_port, look, 10)[1])["authorization"])
    new = len(set(seen)) == len(seen) and all(token.startswith("Bearer ey") for token in seen)
    if row.mints and not new:
        raise NotStarted(f"{row.name} does not send a new token with every call")
    written = _decisions(log) - before
    if row.records is not None and written != 2 * row.records:
        raise NotStarted(f"{row.name} wrote {written} decision records for two calls")


def _decisions(log: Path) -> int:
    """The decision records of tools/call in our log folder."""
    lines = [line for file in log.rglob("*.jsonl") for line in file.read_bytes().splitlines()]
    records = [json.loads(line) for line in lines]
    return sum(r["phase"] == "decision" and r["method"] == "tools/call" for r in records)


@contextlib.contextmanager
def _direct(under: Ground, folder: Path) -> Iterator[Target]:
    token = under.issuer.user_token(under.upstream_url, under.upstream_url + "/mcp")
    request = call_request(under.upstream_port, _PATH, token)
    yield Target(under.upstream_port, request, under.upstream)


def _nginx_binary() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def nginx_version() -> str:
    """`nginx/1.22.1`, or a word that it is absent."""
    binary = _nginx_binary()
    if not binary:
        return "no nginx"
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, check=False, timeout=10)
    return said.stderr.strip().rpartition(" ")[2]


@contextlib.contextmanager
def _nginx(under: Ground, folder: Path) -> Iterator[Target]:
    binary = _nginx_binary()
    assert binary
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX_CONFIG.format(folder=folder, port=port, upstream=under.upstream_port))
    command = [binary, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(config)]
    token = under.issuer.user_token(under.upstream_url, under.upstream_url + "/mcp")
    with running("nginx", command, folder, core=under.cores.server) as child:
        yield Target(port, call_request(port, _PATH, token), child)


@contextlib.contextmanager
def _naive(under: Ground, folder: Path) -> Iterator[Target]:
    port = free_port()
    audience = f"http://127.0.0.1:{port}/mcp"
    command = [
        sys.executable, str(HERE / "naive.py"), "--port", str(port), "--audience", audience,
        "--issuer", under.upstream_url, "--upstream", f"{under.upstream_url}/mcp",
        "--jwks", str(under.jwks), "--database", str(folder / "calls.sqlite"),
    ]  # fmt: skip
    token = under.issuer.user_token(under.upstream_url, audience)
    with running("naive", command, folder, core=under.cores.server) as child:
        yield Target(port, call_request(port, _PATH, token), child)


@contextlib.contextmanager
def _fastmcp(under: Ground, folder: Path) -> Iterator[Target]:
    port = free_port()
    python = str(FASTMCP_VENV / "bin" / "python")
    command = [python, str(HERE / "fastmcp_proxy.py"), "--port", str(port)]
    command += ["--upstream", f"{under.upstream_url}/mcp"]
    token = under.issuer.user_token(under.upstream_url, f"http://127.0.0.1:{port}/mcp")
    with running("fastmcp", command, folder, core=under.cores.server) as child:
        yield Target(port, call_request(port, "/mcp", token), child)


@contextlib.contextmanager
def _gateway(without: Sequence[str], under: Ground, folder: Path) -> Iterator[Target]:
    """The product itself where nothing is switched off, else the bench's composition of it."""
    port = free_port()
    config = folder / "agentgw.yaml"
    config.write_text(json.dumps(gateway_config(under, folder, port)))
    config.chmod(0o600)
    program = ["-m", "agentgw", "serve"]
    if without:
        program = [str(HERE / "gateway.py"), "--without", ",".join(without)]
    command = [sys.executable, *program, "--config", str(config)]
    # This checkout is what is measured, whatever version is installed.
    env = {"PYTHONPATH": str(HERE.parents[1])}
    token = under.issuer.user_token(under.upstream_url, f"http://127.0.0.1:{port}/mcp")
    with running("gateway", command, folder, core=under.cores.server, env=env) as child:
        yield Target(port, call_request(port, _PATH, token), child)


def gateway_config(under: Ground, folder: Path, port: int) -> dict[str, object]:
    public_url = f"http://127.0.0.1:{port}"
    resource = f"{under.upstream_url}/mcp"
    client = {"issuer": ALIAS, "client_id": CLIENT, "confidential": True}
    return {
        "version": 1,
        "dev": True,
        "public_url": public_url,
        "listen": f"127.0.0.1:{port}",
        "state_dir": str(folder / "state"),
        "issuers": {ALIAS: {"issuer": under.upstream_url, "audiences": [f"{public_url}/mcp"]}},
        "agents": {CLIENT: {"owner": "bench@example.com", "clients": [client]}},
        "servers": {
            SERVER: {
                "url": resource,
                "auth": {"mode": "token", "audience": resource},
                "trust": "first-use",
            }
        },
        "grants": [
            {"users": [f"{ALIAS}|alice"], "agents": [CLIENT], "tools": [f"{SERVER}/*"]},
        ],
    }


def _nginx_missing() -> str:
    return "" if _nginx_binary() else "nginx is not installed (apt install nginx-light)"


def _naive_missing() -> str:
    if find_spec("httpx"):
        return ""
    return 'httpx is not installed (pip install -e ".[bench]")'


def _fastmcp_missing() -> str:
    if (FASTMCP_VENV / "bin" / "python").exists():
        return ""
    return f"no {FASTMCP_VENV.name} beside bench.py; --fastmcp makes it"


def install_fastmcp() -> None:
    """Make FastMCP's own virtual environment where there is none yet. Raises NotStarted."""
    if not _fastmcp_missing():
        return
    print(f"installing fastmcp {FASTMCP_VERSION} into {FASTMCP_VENV}", file=sys.stderr)
    pip = [str(FASTMCP_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", str(FASTMCP_VENV)],
        [*pip, f"fastmcp=={FASTMCP_VERSION}"],
    ):
        done = subprocess.run(command, check=False, timeout=600, stdout=sys.stderr)
        if done.returncode:
            shutil.rmtree(FASTMCP_VENV, ignore_errors=True)
            raise NotStarted(
                f"fastmcp could not be installed: {command[-1]} gave {done.returncode}"
            )


_RELAY = ("everything",)

ROWS = (
    Row("direct", _direct),
    Row("nginx", _nginx, missing=_nginx_missing),
    Row("relay", partial(_gateway, _RELAY), records=0),
    Row("full", partial(_gateway, ()), mints=True, records=1),
    Row("full_without_verify", partial(_gateway, ("verify",)), mints=True, records=1),
    Row("full_without_verify_cache", partial(_gateway, ("verify_cache",)), mints=True, records=1),
    Row("full_without_policy", partial(_gateway, ("policy",)), mints=True, records=1),
    Row("full_without_mint", partial(_gateway, ("mint",)), records=1),
    Row("full_without_audit", partial(_gateway, ("audit",)), mints=True, records=0),
    Row("full_without_fsync", partial(_gateway, ("fsync",)), mints=True, records=1),
    Row("fastmcp", _fastmcp, missing=_fastmcp_missing, most_c=32),
    Row("naive", _naive, missing=_naive_missing, mints=True),
)
