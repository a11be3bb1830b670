"""No token and no secret in anything the gateway says, writes down or answers, at its most talkative."""

from __future__ import annotations

from pathlib import Path

import httpx2

from tests.door import Door, listed
from tests.door import door as open_door
from tests.harness import modern_call, modern_message
from tests.repeating_server import MARK, RepeatingServer


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
    for secret in ("planner-secret-for-tests", "wrong"):
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


def test_a_server_that_misuses_our_token_cannot_make_us_repeat_it(tmp_path: Path) -> None:
    kinds = (200, 301, 400, 401, 403, 500)
    with RepeatingServer() as hostile, open_door(tmp_path) as door:
        for status in kinds:
            url = f"{hostile.url}/{status}"
            door.gw.config["servers"][f"evil{status}"] = {"url": url, "era": "modern"}
        patterns = [f"evil{status}/*" for status in kinds]
        row = {"tools": patterns, "methods": patterns}
        door.gw.config["grants"] += [{"users": ["*"], **row}, {"agents": ["planner"], **row}]
        door.gw.reload()
        for status in kinds:
            path = f"/mcp/evil{status}"
            assert listed(door, path) == ["echo"]
            for message in (modern_call("echo", {}), modern_message("x/y", {})):
                before = len(hostile.shown)
                answer = door.post(message, path=path)
                assert len(hostile.shown) == before + 1, "it was not asked"
                assert (answer.status, answer.code) == (200, 46005)
                assert MARK not in str(answer)
                names = {"content-type", "content-length", "agentgw-event-id"}
                assert set(answer.headers) <= names
        assert all(token.count(".") == 2 for token in hostile.shown)
        door.issuer.issued += hostile.shown
        assert door.leaks() == []
