"""Names that look, sound or fold like a granted one are other names."""

from __future__ import annotations

import base64
import unicodedata
from pathlib import Path

import pytest

from tests.door import Door
from tests.door import door as open_door
from tests.harness import modern_call

LOOKALIKES = {
    "Cyrillic": "time__\u0435cho", "zero width space": "time__ec\u200bho", "joiner": "time__ech\u200do",
    "BOM": "\ufefftime__echo", "upper case": "time__ECHO", "upper server": "TIME__echo",
    "dotless": "t\u0131me__echo", "full width": "\uff54ime__echo", "soft hyphen": "time__e\u00adcho",
    "right to left": "time__\u202eohce", "leading blank": " time__echo", "trailing blank": "time__echo ",
    "no-break space": "time__echo\u00a0", "tab": "time__echo\t", "NUL": "time__echo\0",
    "line feed": "time__echo\n", "CRLF": "time__echo\r\nX-Injected: 1", "path": "time__../other/echo",
    "star": "time__*", "slash": "time/echo", "single underscore": "time_echo", "empty": "",
    "server only": "time__", "tool only": "__echo", "three": "time____echo", "dotted": "time.echo",
    "combining": "time__echo\u0301", "Kelvin": "old__\u212aecho", "million": "time__" + "e" * 1_000_000,
    "percent": "time__%65cho", "quoted": '"time__echo"', "surrogate": "time__\ud800echo",
}  # fmt: skip


@pytest.mark.parametrize("kind", LOOKALIKES)
def test_a_lookalike_of_a_granted_tool_is_refused(door: Door, kind: str) -> None:
    name = LOOKALIKES[kind]
    message = modern_call(name, {"text": "x"})
    raw = name.encode("utf-8", "surrogatepass")
    header = f"=?base64?{base64.b64encode(raw).decode()}?="
    if kind == "million":
        session = door.handshake("/mcp")
        with door.untouched():
            answer = door.in_session(message, session, path="/mcp")
            assert answer.code == -32602
            assert len(answer.body) < 1000
        return
    with door.untouched():
        answer = door.post(message, {"Mcp-Name": header})
        assert answer.code in (46001, -32602, -32020)
        assert answer.status in (200, 400)


TOOL_NAMES = {name.rpartition("__")[2] for name in LOOKALIKES.values()} - {"echo", ""}


@pytest.mark.parametrize("name", sorted(TOOL_NAMES), ids=lambda name: ascii(name[:20]))
def test_a_handshake_agent_fares_no_better(door: Door, name: str) -> None:
    params = {"name": name, "arguments": {}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    session = door.handshake("/mcp/time")
    with door.untouched():
        answer = door.in_session(message, session)
        assert answer.code in (46001, -32602)


def test_a_denied_tool_stays_denied_however_its_name_is_written(tmp_path: Path) -> None:
    deny = {"users": ["*"], "tools": ["time/echo"], "deny": True}
    with open_door(tmp_path) as door:
        door.gw.config["grants"].append(deny)
        door.gw.reload()
        names = {"time__echo", "Time__echo", "time__Echo", "\uff54ime__echo", "time__e\u0301cho"}
        names |= {unicodedata.normalize("NFKC", name) for name in names}
        for name in names:
            header = f"=?base64?{base64.b64encode(name.encode()).decode()}?="
            assert door.post(modern_call(name, {}), {"Mcp-Name": header}).code in (46001, -32602)
        assert door.post(modern_call("echo", {}), path="/mcp/time").code == 46001
        assert door.calls() == []
