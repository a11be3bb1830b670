"""The command line that shuts a server in."""

from __future__ import annotations

import json

from agentgw.core.sandbox import Sandbox, as_user, bubblewrap, landlocked

WALL = Sandbox(
    "/state/servers/a", ("/home/u", "/state"), "/etc/agentgw.yaml", ("/opt",), ("/data",)
)


def after(line: tuple[str, ...], *words: str) -> int:
    """Where these words stand in the line, one behind the other."""
    for index in range(len(line)):
        if line[index : index + len(words)] == words:
            return index
    raise AssertionError(f"{words} is not in {line}")


def test_what_is_hidden_is_hidden_before_anything_of_it_is_given_back() -> None:
    line = bubblewrap(WALL, "/usr/bin/tool", ("-x",))
    root = after(line, "--ro-bind", "/", "/")
    hidden = [after(line, "--tmpfs", path) for path in ("/tmp", "/run", "/home/u", "/state")]
    masked = after(line, "--ro-bind", "/dev/null", "/etc/agentgw.yaml")
    given = after(line, "--ro-bind", "/opt", "/opt")
    own = after(line, "--bind", "/state/servers/a", "/state/servers/a")
    assert (
        root < min(hidden)
        and max(hidden) < masked < given < after(line, "--bind", "/data", "/data") < own
    )
    assert line[-3:] == ("--", "/usr/bin/tool", "-x")


def test_no_capability_is_kept_whoever_starts_it() -> None:
    line = bubblewrap(WALL, "t", ())
    assert after(line, "--cap-drop", "ALL") < line.index("--")


def test_it_stays_in_our_process_group_so_that_it_can_be_asked_to_end() -> None:
    assert "--new-session" not in bubblewrap(WALL, "t", ())


def test_the_launcher_is_told_the_same_and_never_mistakes_the_command_for_it() -> None:
    kind, orders, *command = landlocked(WALL, "/usr/bin/tool", ("uid", "{}"))
    assert (kind, command) == ("landlock", ["/usr/bin/tool", "uid", "{}"])
    assert json.loads(orders) == {
        "workdir": "/state/servers/a",
        "hidden": ["/home/u", "/state", "/etc/agentgw.yaml"],
        "read": ["/opt"],
        "write": ["/data"],
        "network": False,
    }
    kind, orders, *command = as_user(7, 8, "/home/tool", "/usr/bin/tool", ("-x",))
    assert (kind, command) == ("uid", ["/usr/bin/tool", "-x"])
    assert json.loads(orders) == {"uid": 7, "gid": 8, "workdir": "/home/tool"}


def test_there_is_no_network_unless_it_is_given() -> None:
    assert "--unshare-net" in bubblewrap(WALL, "t", ())
    with_network = Sandbox("/w", (), None, network=True)
    assert "--unshare-net" not in bubblewrap(with_network, "t", ())


def test_a_command_that_looks_like_an_option_is_none() -> None:
    line = bubblewrap(WALL, "--bind", ("/", "/"))
    assert line[line.index("--") + 1 :] == ("--bind", "/", "/")
