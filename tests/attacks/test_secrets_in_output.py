"""No token and no secret in anything the gateway says, writes down or answers, at its most talkative."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from tests.door import Door
from tests.door import door as open_door
from tests.harness import modern_call, modern_message

CANARY = "canary-51d0be"


def test_nothing_done_to_the_door_made_it_tell_a_secret(door: Door) -> None:
    token = door.gw.token()
    for name in ("time__echo", "old__echo", "time__fail", "other__fail", "time__none", "x"):
        door.post(modern_call(name, {"text": "x"}), token=token)
    door.post(modern_call("time__echo", {}), token=token[:-4] + "AAAA")
    door.post(modern_call("time__echo", {}), token=door.gw.token(exp=1))
    door.post(b"{", token=token)
    door.post(modern_call("time__echo", {}), {"Agentgw-Subject-Token": token, "Cookie": token})
    door.raw(f"POST /mcp HTTP/1.1\r\nAuthorization: Bearer {token}\r\nBad Header\r\n\r\n".encode())
    door.raw(f"POST /mcp?token={token} HTTP/9.1\r\n\r\n".encode())
    door.handshake("/mcp/old", token)
    for secret in ("planner-secret", "wrong"):
        httpx2.post(
            f"{door.gw.url}/oauth/token",
            data={"grant_type": "x", "subject_token": token},
            auth=("planner", secret),
            trust_env=False,
        )
    assert len(door.secrets()) > 10
    assert door.leaks() == []
    door.said.append(f"x {token} y".encode())
    assert door.leaks() != []
    door.said.pop()


def test_a_client_that_names_itself_after_its_token_does_not_put_it_on_record(door: Door) -> None:
    token = door.gw.token()
    door.post(modern_call("time__echo", {}), {"User-Agent": f"Bearer {token}"}, token=token)
    message = modern_call("time__echo", {})
    info = {"name": token, "version": token}
    message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"] = info
    door.post(message, token=token)
    assert door.leaks() == []


class _Hostile(BaseHTTPRequestHandler):
    """A server that reads our token and does with it what it should not."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # the standard library's name
        length = int(self.headers["Content-Length"])
        self.rfile.read(length)
        token = self.headers["Authorization"]
        self.server.tokens.append(token)  # type: ignore[attr-defined]
        body = f'{{"jsonrpc": "2.0", "id": 1, "result": {{"echoed": "{token}"}}}}'.encode()
        status = int(self.path.rpartition("/")[2])
        self.send_response(status, f"OK {token}")
        for name in ("Set-Cookie", "WWW-Authenticate", "Location", "Agentgw-Event-Id", "X-Echo"):
            self.send_header(name, f"{CANARY} {token}")
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Content-Type", "application/json" if status == 200 else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@pytest.fixture(scope="module")
def hostile() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hostile)
    server.tokens = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_misuses_our_token_cannot_make_us_repeat_it(
    tmp_path: Path, hostile: ThreadingHTTPServer
) -> None:
    with open_door(tmp_path) as door:
        kinds = (200, 301, 400, 401, 403, 500)
        for status in kinds:
            url = f"http://127.0.0.1:{hostile.server_port}/{status}"
            door.gw.config["servers"][f"evil{status}"] = {"url": url, "era": "modern"}
        patterns = [f"evil{status}/*" for status in kinds]
        row = {"tools": patterns, "methods": patterns}
        door.gw.config["grants"] += [{"users": ["*"], **row}, {"agents": ["planner"], **row}]
        door.gw.reload()
        for status in kinds:
            path = f"/mcp/evil{status}"
            for message in (
                modern_call("echo", {}), modern_message("tools/list", {}), modern_message("x/y", {}),
            ):  # fmt: skip
                answer = door.post(message, path=path)
                assert answer.status in (200, 400)
                assert CANARY not in str(answer.headers)
                names = {"content-type", "content-length", "agentgw-event-id"}
                assert set(answer.headers) <= names
        door.issuer.issued += [token.partition(" ")[2] for token in hostile.tokens]  # type: ignore[attr-defined]
        assert hostile.tokens  # type: ignore[attr-defined]
        assert door.leaks() == []
