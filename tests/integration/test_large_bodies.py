"""Large bodies hold up no other call: seen from outside, by the latency of small ones.

`test_event_loop.py` takes the same from inside, by the CPU time of the loop's thread.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import httpx2

from tests.harness import ROOT, Issuer, allow_all, gateway, modern_message


def test_large_bodies_hold_up_no_other_call(tmp_path: Path, issuer: Issuer, faulty: str) -> None:
    changes = {"servers": {"ok": {"url": f"{faulty}/mcp/ok"}}, "grants": allow_all("ok")}
    with gateway(tmp_path, issuer, changes) as gw:
        big = modern_message(
            "tools/call", {"name": "ok__fail", "arguments": {"text": "x" * 3_000_000}}
        )
        token = gw.token()
        with gw.client() as client:
            quiet = latencies(client, 40)
            sender = subprocess.Popen(
                [sys.executable, "-c", SEND_BIG, gw.url, token, str(len(str(big)))],
                cwd=ROOT,
                stdout=subprocess.PIPE,
            )
            assert sender.stdout is not None
            assert sender.stdout.readline() == b"200\n"
            busy = min((latencies(client, 50) for _ in range(3)), key=median)
            sender.kill()
            sender.wait(10)
            sender.stdout.close()
    # Loose: two cores are shared with the sender, the tool server and whatever else runs here, which
    # comes and goes; a body that held up others would do so all the time.
    assert median(busy) < median(quiet) + 0.02, (quiet, busy)


SEND_BIG = """
import sys
from tests.harness import modern_call, modern_headers
import httpx2
url, token, size = sys.argv[1:]
message = modern_call("ok__fail", {"text": "x" * 3_000_000})
with httpx2.Client(trust_env=False, timeout=30) as client:
    while True:
        answer = client.post(url + "/mcp", json=message, headers=modern_headers(message, token))
        print(answer.status_code, flush=True)
"""


def latencies(client: httpx2.Client, count: int) -> list[float]:
    """Sorted seconds of small requests that need the event loop only."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        assert client.get("/livez").status_code == 200
        taken.append(time.perf_counter() - began)
        time.sleep(0.003)
    return sorted(taken)
