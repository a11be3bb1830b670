"""A child process as a tool server: shared, restarted, ended, and never trusted."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agentgw.errors import UpstreamFailed
from agentgw.upstream.child import Child, child_environment
from agentgw.upstream.spawn import Process
from agentgw.upstream.stdio import StdioServer

pytestmark = pytest.mark.anyio

ECHO = str(Path(__file__).parents[2] / "tools" / "servers" / "stdio_echo.py")
TIME_SERVER = Path(sys.executable).parent / "mcp-server-time"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both event loops a gateway may run on."""
    return "asyncio", {"use_uvloop": request.param}


@asynccontextmanager
async def running(*args: str, **options: Any) -> AsyncIterator[StdioServer]:
    """The echo server, or with `-c` a script of the test's own."""
    arguments = args if args[:1] == ("-c",) else (ECHO, *args)
    server = StdioServer(sys.executable, arguments, name="echo", **options)
    try:
        yield server
    finally:
        await server.close()


def script(on_message: str, before: str = "") -> tuple[str, str]:
    """Arguments for a child that runs `on_message` per line, with `message` and `send` in scope."""
    return "-c", (
        "import json, os, sys, time\n"
        "def send(value): print(json.dumps(value), flush=True)\n"
        f"{before}\n"
        "for line in sys.stdin:\n"
        "    message = json.loads(line)\n"
        f"    {on_message}\n"
    )


def at(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def call(
    server: StdioServer, tool: str, *, within: float = 10, **arguments: object
) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments}
    return await server.request("tools/call", params, deadline=at(within))


def text_of(answer: dict[str, Any]) -> Any:
    return json.loads(answer["result"]["content"][0]["text"])


def pid_of(server: StdioServer) -> int | None:
    child = server._child
    return child.pid if child is not None and child.running else None


def last_words(server: StdioServer) -> tuple[str, ...]:
    assert server._child is not None
    return server._child.last_words


def noting(starts: list[StdioServer]) -> Callable[[StdioServer], Awaitable[None]]:
    async def note(server: StdioServer) -> None:
        starts.append(server)

    return note


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Requests


async def test_starts_on_first_use_and_answers_with_values_untouched() -> None:
    async with running() as server:
        assert pid_of(server) is None
        big = 2**63 + 1
        answer = await call(server, "structured", text="grüße \ud83d", n=big, x=1.0)
        assert answer["result"]["structuredContent"]["echo"] == {
            "text": "grüße \ud83d",
            "n": big,
            "x": 1.0,
        }
        assert pid_of(server) is not None
        assert server.failure is None


async def test_many_callers_share_one_process_and_answers_come_in_any_order() -> None:
    """It answers `slow` once it has answered `last`."""
    starts: list[StdioServer] = []
    handler = script(
        'if message["method"] == "slow": slow = {"jsonrpc": "2.0", "id": message["id"], "result": "slow"}'
        '\n    else: send({"jsonrpc": "2.0", "id": message["id"], "result": message["params"]})'
        '\n    if message["method"] == "last": send(slow)'
    )
    async with running(*handler, on_start=noting(starts)) as server:
        slow = asyncio.ensure_future(server.request("slow", None, deadline=at(10)))
        echoes = [server.request("echo", {"n": n}, deadline=at(10)) for n in range(50)]
        answers = await asyncio.gather(*echoes)
        assert not slow.done()
        assert [answer["result"]["n"] for answer in answers] == list(range(50))
        assert (await server.request("last", {}, deadline=at(10)))["result"] == {}
        assert (await slow)["result"] == "slow"
        assert starts == [server]


async def test_an_error_response_is_given_back_as_it_is() -> None:
    async with running() as server:
        answer = await call(server, "nothing")
    assert answer["error"] == {"code": -32602, "message": "Unknown tool: nothing"}


async def test_progress_goes_to_its_own_caller_with_the_token_that_caller_chose() -> None:
    heard: dict[str, list[dict[str, Any]]] = {"one": [], "two": []}

    async def one(who: str, steps: int) -> None:
        params = {
            "name": "progress",
            "arguments": {"steps": steps},
            "_meta": {"progressToken": "same", "x": 1},
        }
        await server.request(
            "tools/call", params, deadline=at(10), on_notification=heard[who].append
        )
        assert params["_meta"] == {"progressToken": "same", "x": 1}

    async with running() as server:
        await asyncio.gather(one("one", 2), one("two", 3))
    for who, total in (("one", 2), ("two", 3)):
        assert [message["params"] for message in heard[who]] == [
            {"progressToken": "same", "progress": step, "total": total}
            for step in range(1, total + 1)
        ]


async def test_other_notifications_are_broadcast_and_those_of_a_subscription_go_to_its_opener() -> (
    None
):
    handler = script(
        'send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});'
        'send({"jsonrpc": "2.0", "method": "notifications/x", "params": {"_meta":'
        ' {"io.modelcontextprotocol/subscriptionId": message["id"]}}});'
        'send({"jsonrpc": "2.0", "id": message["id"], "result": {}})'
    )
    everyone: list[Any] = []
    opener: list[Any] = []
    async with running(*handler, on_broadcast=everyone.append) as server:
        await server.request("listen", None, deadline=at(10), on_notification=opener.append)
    assert [message["method"] for message in everyone] == ["notifications/tools/list_changed"]
    assert [message["method"] for message in opener] == ["notifications/x"]


async def test_a_listener_that_fails_disturbs_nobody() -> None:
    def broken(message: dict[str, Any]) -> None:
        raise RuntimeError("listener")

    params = {"name": "progress", "arguments": {}, "_meta": {"progressToken": 1}}
    async with running() as server:
        answer = await server.request("tools/call", params, deadline=at(10), on_notification=broken)
        assert "result" in answer


async def test_answers_a_ping_of_the_server_and_refuses_its_other_requests() -> None:
    handler = script(
        'send({"jsonrpc": "2.0", "id": "p", "method": "ping"});'
        'send({"jsonrpc": "2.0", "id": 7, "method": "roots/list"});'
        "answers = [json.loads(sys.stdin.readline()) for _ in range(2)];"
        'send({"jsonrpc": "2.0", "id": message["id"], "result": answers})'
    )
    async with running(*handler) as server:
        answer = await server.request("x", {}, deadline=at(10))
    ping, roots = answer["result"]
    assert ping == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert (roots["id"], roots["error"]["code"]) == (7, -32601)


# Giving up


@pytest.mark.parametrize("how", ["deadline", "cancel"])
async def test_giving_up_tells_the_server_and_leaves_the_others_alone(
    how: str, tmp_path: Path
) -> None:
    record = tmp_path / "record"
    async with running("--record", str(record)) as server:
        other = asyncio.ensure_future(call(server, "slow", seconds=0.5))
        await call(server, "echo")
        if how == "deadline":
            params = {"name": "slow", "arguments": {"seconds": 30}}
            with pytest.raises(UpstreamFailed, match=r"gave no answer within 0\.[12]\d* s"):
                await server.request("tools/call", params, deadline=at(0.2))
        else:
            waiting = asyncio.ensure_future(call(server, "slow", seconds=30))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert "result" in await other
        await call(server, "echo")  # it has read by then what was sent before
    messages = [json.loads(line)["body"] for line in record.read_text().splitlines()]
    given_up = [
        m["id"] for m in messages if m.get("params", {}).get("arguments") == {"seconds": 30}
    ]
    told = [m["params"] for m in messages if m["method"] == "notifications/cancelled"]
    assert [params["requestId"] for params in told] == given_up
    assert all(params["reason"] for params in told)


async def test_a_caller_that_gives_up_during_the_start_does_not_stop_it() -> None:
    starts: list[StdioServer] = []
    async with running(on_start=noting(starts)) as server:
        with pytest.raises(UpstreamFailed, match="gave no answer"):
            await call(server, "echo", within=0)
        assert "result" in await call(server, "echo")
        assert starts == [server]


# Ends and starts


async def test_requests_in_flight_fail_with_the_last_words_and_the_next_one_starts_it_again() -> (
    None
):
    words = "\\x1b[31mlast\\x00 words\\x1b[0m\\u202e"
    handler = script(
        'send({"jsonrpc": "2.0", "id": message["id"], "result": {}}) if message["method"] == "ok"'
        f' else message["method"] == "die" and '
        f'(print("{words}", file=sys.stderr), sys.stderr.flush(), os._exit(3))'
    )
    async with running(*handler, backoff=(0.01, 5.0)) as server:
        await server.request("ok", None, deadline=at(10))
        first = pid_of(server)
        calls = [
            asyncio.ensure_future(server.request(method, None, deadline=at(10)))
            for method in ("hang", "hang", "die")
        ]
        for pending in calls:
            with pytest.raises(UpstreamFailed) as caught:
                await pending
            assert caught.value.reason == "exited with code 3; its last words: [31mlast words[0m"
        assert caught.value.reason == (server.failure or "")
        await server.request("ok", None, deadline=at(10))
        assert server.failure is None
        assert pid_of(server) not in (None, first)


async def test_waits_longer_after_each_end_and_says_so() -> None:
    async with running("-c", "raise SystemExit(1)", backoff=(2.0, 8.0)) as server:
        with pytest.raises(UpstreamFailed, match="exited with code 1"):
            await server.request("x", None, deadline=at(10))
        assert server.failure == "exited with code 1"
        with pytest.raises(UpstreamFailed, match=r"exited with code 1 \(next start in [12]\.. s\)"):
            await server.request("x", None, deadline=at(10))


@pytest.mark.parametrize("command", ["no-such-command-anywhere", "/no/such/command"])
async def test_a_command_that_is_not_there_is_named(command: str) -> None:
    server = StdioServer(command, name="missing")
    with pytest.raises(UpstreamFailed, match=f"cannot be started.*{command}"):
        await server.request("x", None, deadline=at(10))
    assert command in (server.failure or "")
    await server.close()


async def test_the_handshake_runs_once_per_start_and_before_every_other_request() -> None:
    seen: list[str] = []

    async def greet(server: StdioServer) -> None:
        answer = await server.request("initialize", {}, deadline=at(10))
        seen.append(answer["result"]["serverInfo"]["name"])
        await server.notify("notifications/initialized")

    async with running("--era", "handshake", on_start=greet, backoff=(0.01, 1.0)) as server:
        await asyncio.gather(*(call(server, "echo") for _ in range(5)))
        assert seen == ["echo-tools"]
        with pytest.raises(UpstreamFailed, match="exited with code 9"):
            await call(server, "die", code=9)
        await call(server, "echo")
        assert seen == ["echo-tools"] * 2


async def test_a_handshake_that_fails_ends_the_process_and_every_waiting_request() -> None:
    pids: list[int | None] = []

    async def greet(server: StdioServer) -> None:
        pids.append(pid_of(server))
        raise UpstreamFailed("speaks no revision we know")

    async with running(on_start=greet) as server:
        calls = [asyncio.ensure_future(call(server, "echo")) for _ in range(2)]
        for pending in calls:
            with pytest.raises(UpstreamFailed, match="speaks no revision we know"):
                await pending
        assert pids[0] is not None
        assert not alive(pids[0])
        assert (server.failure or "").startswith("speaks no revision we know")


async def test_a_handshake_that_hangs_ends_at_its_own_limit() -> None:
    async def greet(server: StdioServer) -> None:
        await server.request("never", None, deadline=at(100))

    async with running(*script("pass"), on_start=greet, start_timeout=0.3) as server:
        with pytest.raises(UpstreamFailed, match=r"did not finish its start within 0\.3 s"):
            await call(server, "echo")


async def test_closing_ends_the_whole_group_even_one_that_ignores_sigterm() -> None:
    stubborn = script(
        'send({"jsonrpc": "2.0", "id": message["id"], "result": [os.getpid(), child]})'
        "\n    while True: time.sleep(1)",
        before=(
            "import signal, subprocess\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "child = subprocess.Popen(['sleep', '300']).pid"
        ),
    )
    server = StdioServer(sys.executable, stubborn, name="stubborn", stop_grace=0.2)
    pids = (await server.request("x", None, deadline=at(10)))["result"]
    waiting = asyncio.ensure_future(server.request("y", None, deadline=at(10)))
    await asyncio.sleep(0)
    await server.close()
    with pytest.raises(UpstreamFailed, match="was stopped by the gateway"):
        await waiting
    async with asyncio.timeout(5):
        while any(map(_runs, pids)):
            await asyncio.sleep(0.01)
    with pytest.raises(UpstreamFailed, match="was stopped by the gateway"):
        await server.request("x", None, deadline=at(10))


def _runs(pid: int) -> bool:
    """True unless gone, or dead and only waiting for its parent (nobody may be there to reap it)."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] not in "ZX"


async def test_closing_during_a_start_fails_the_waiting_request() -> None:
    async def greet(server: StdioServer) -> None:
        started.set()
        await asyncio.Event().wait()

    started = asyncio.Event()
    async with running(on_start=greet) as server:
        waiting = asyncio.ensure_future(call(server, "echo"))
        await started.wait()
        await server.close()
        with pytest.raises(UpstreamFailed, match="was stopped by the gateway"):
            await waiting


async def test_a_process_left_behind_with_the_pipes_open_holds_up_nobody() -> None:
    leaves = script(
        "subprocess.Popen(['sleep', '4'], start_new_session=True); os._exit(5)",
        before="import subprocess",
    )
    async with running(*leaves) as server:
        with pytest.raises(UpstreamFailed, match="exited with code 5"):
            await server.request("x", None, deadline=at(3))


async def test_a_process_that_closes_its_input_is_replaced() -> None:
    handler = script(
        "os.close(0); send({'jsonrpc': '2.0', 'id': message['id'], 'result': os.getpid()});"
        "time.sleep(60)"
    )
    async with running(*handler, backoff=(0.01, 1.0)) as server:
        first = await server.request("x", None, deadline=at(10))
        try:  # a write may be needed to notice
            second = await server.request("x", None, deadline=at(10))
        except UpstreamFailed as error:
            assert error.reason == "closed its standard input"
            second = await server.request("x", None, deadline=at(10))
        assert first["result"] != second["result"]


# Hostile output


async def test_an_end_that_is_half_seen_while_it_starts_is_waited_for() -> None:
    async def input_is_closed(server: StdioServer) -> None:
        assert server._child is not None
        while server._child.running:
            await asyncio.sleep(0.01)

    code = "import os, time; os.close(0); time.sleep(60)"
    async with running("-c", code, on_start=input_is_closed) as server:
        with pytest.raises(UpstreamFailed) as caught:
            await server.request("x", None, deadline=at(10))
        assert caught.value.reason == server.failure == "closed its standard input"


async def test_garbage_that_comes_while_its_pipes_are_attached_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attach, heard = Process.connect, asyncio.Event()
    take = Child.pipe_data_received

    async def attach_slowly(process: Process) -> None:
        await attach(process)
        await asyncio.wait_for(heard.wait(), 10)

    def hear(child: Child, fd: int, data: bytes) -> None:
        take(child, fd, data)
        heard.set()

    monkeypatch.setattr(Process, "connect", attach_slowly)
    monkeypatch.setattr(Child, "pipe_data_received", hear)
    code = "import os, sys; os.write(1, b'no\\n' * 100); sys.stdin.read()"
    async with running("-c", code, backoff=(0.01, 1.0)) as server:
        for _ in range(2):
            with pytest.raises(UpstreamFailed, match="100 lines in a row that are no JSON-RPC"):
                await server.request("x", None, deadline=at(10))


async def test_lines_that_are_no_json_rpc_are_skipped() -> None:
    async with running("--noise") as server:
        for n in range(5):
            assert text_of(await call(server, "echo", n=n)) == {"n": n}
        assert "[31mnoise[0m about tools/call" in last_words(server)


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'{"jsonrpc":"2.0","x":NaN}',
        b"[" * 100_000,
        b'{"jsonrpc":"2.0","id":1,"result":' + b"9" * 5000 + b"}",
        b'{"id":1,"result":{}}',
    ],
    ids=["utf-16", "batch", "null", "nan", "deep", "long number", "no version"],
)
async def test_a_hundred_lines_of_garbage_end_it(line: bytes, tmp_path: Path) -> None:
    Path(path := str(tmp_path / "line")).write_bytes(line + b"\n")
    code = f"import sys\nsys.stdout.buffer.write(open({path!r}, 'rb').read() * 100)\n"
    code += "sys.stdout.flush()\nsys.stdin.read()"
    async with running("-c", code) as server:
        with pytest.raises(UpstreamFailed, match="100 lines in a row that are no JSON-RPC"):
            await server.request("x", None, deadline=at(10))


async def test_responses_that_answer_nothing_are_ignored() -> None:
    handler = script(
        "send({'jsonrpc': '2.0', 'id': True, 'result': 1});"
        "send({'jsonrpc': '2.0', 'id': '1', 'result': 2});"
        "send({'jsonrpc': '2.0', 'id': 99, 'result': 3});"
        "send({'jsonrpc': '2.0', 'id': 1});"
        "send({'jsonrpc': '2.0', 'id': 1, 'result': 4, 'error': {}});"
        "send({'jsonrpc': '2.0', 'id': 1, 'result': 'mine'})"
    )
    async with running(*handler) as server:
        assert (await server.request("x", None, deadline=at(10)))["result"] == "mine"


@pytest.mark.parametrize("ending", ["", "\\n"])
async def test_a_message_over_the_cap_ends_it(ending: str) -> None:
    handler = script(f"sys.stdout.write('x' * 200000 + '{ending}'); sys.stdout.flush()")
    async with running(*handler, max_message=100_000) as server:
        with pytest.raises(UpstreamFailed, match="more than 100000 bytes"):
            await server.request("x", None, deadline=at(10))


async def test_large_messages_arrive_whole_and_in_order_also_when_it_ends_after_them() -> None:
    handler = script(
        "send({'jsonrpc': '2.0', 'method': 'notifications/progress', 'params':"
        " {'progressToken': message['id'], 'message': 'x' * 1000000}});"
        "send({'jsonrpc': '2.0', 'id': message['id'], 'result': 'y' * 2000000}); os._exit(0)"
    )
    heard: list[Any] = []
    async with running(*handler) as server:
        params = {"_meta": {"progressToken": "mine"}}
        answer = await server.request(
            "x",
            params,
            deadline=at(10),
            on_notification=lambda message: heard.append(message["params"]["message"]),
        )
        assert (len(heard[0]), len(answer["result"])) == (1_000_000, 2_000_000)


async def test_a_server_that_does_not_read_is_not_fed_for_ever() -> None:
    async with running("-c", "import time; time.sleep(60)", max_message=100_000) as server:
        params = {"x": "y" * 90_000}
        reasons = set()
        for _ in range(10):
            with pytest.raises(UpstreamFailed) as caught:
                await server.request("x", params, deadline=at(0.05))
            reasons.add(caught.value.reason)
        assert "does not read its standard input" in reasons


async def test_endless_words_on_standard_error_are_capped() -> None:
    code = "import sys; sys.stderr.write('e' * 5_000_000 + '\\nlast\\n'); sys.exit(1)"
    async with running("-c", code, stderr_lines=3) as server:
        with pytest.raises(UpstreamFailed) as caught:
            await server.request("x", None, deadline=at(10))
        assert caught.value.reason.endswith("last")
        assert len(caught.value.reason) < 400
        assert [len(line) for line in last_words(server)] == [300, 4]


async def test_what_it_was_given_in_its_environment_does_not_show_in_its_last_words() -> None:
    code = "import os, sys; sys.exit('x' * 290 + ' key ' + os.environ['API_KEY'] + '; ' + os.environ['MODE'])"
    env = {"API_KEY": "a-key-of-16-or-more-letters", "MODE": "quick"}
    async with running("-c", code.replace("'x' * 290 + ", ""), env=env) as server:
        with pytest.raises(UpstreamFailed) as caught:
            await server.request("x", None, deadline=at(10))
        assert caught.value.reason.endswith("key [hidden]; quick")
    async with running("-c", code, env=env) as server:
        with pytest.raises(UpstreamFailed) as caught:
            await server.request("x", None, deadline=at(10))
        assert "a-key" not in caught.value.reason, "not even where its line is cut"


# Environment


def test_a_child_sees_what_it_was_given_and_little_else() -> None:
    own = {
        "PATH": "/bin",
        "HOME": "/home/x",
        "LC_ALL": "C",
        "AGENTGW_SECRET": "s",
        "AWS_SECRET_ACCESS_KEY": "s",
        "LD_PRELOAD": "x",
        "PYTHONPATH": "x",
    }
    given = {"TOKEN": "t", "PATH": "/opt/bin"}
    assert child_environment(own, given) == {
        "PATH": "/opt/bin",
        "HOME": "/home/x",
        "LC_ALL": "C",
        "TOKEN": "t",
    }


async def test_the_gateways_secrets_never_reach_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AGENTGW_KEY", "secret")
    async with running(env={"GIVEN": "1"}) as server:
        names = text_of(await call(server, "env"))
    assert "GIVEN" in names
    assert "AGENTGW_KEY" not in names


async def test_a_listening_socket_of_ours_is_not_open_in_the_process() -> None:
    handler = script(
        "send({'jsonrpc': '2.0', 'id': message['id'], 'result': [os.readlink('/proc/self/fd/' + n)"
        " for n in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + n)]})"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)  # as web servers do for their workers
        async with running(*handler) as server:
            answer = await server.request("x", None, deadline=at(10))
    open_files = [name for name in answer["result"] if not name.startswith("/proc")]
    assert [name.partition(":")[0] for name in open_files] == ["pipe"] * 3


# A real server


@pytest.mark.skipif(not TIME_SERVER.exists(), reason="mcp-server-time is not installed")
async def test_a_real_server_answers_a_discovery_and_a_call() -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "0"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    server = StdioServer(str(TIME_SERVER), name="time")
    try:
        found = await server.request("server/discover", {"_meta": meta}, deadline=at(20))
        assert "2026-07-28" in found["result"]["supportedVersions"]
        params = {
            "name": "get_current_time",
            "arguments": {"timezone": "Europe/Vienna"},
            "_meta": meta,
        }
        answer = await server.request("tools/call", params, deadline=at(20))
        assert "Europe/Vienna" in json.dumps(answer["result"])
    finally:
        await server.close()
