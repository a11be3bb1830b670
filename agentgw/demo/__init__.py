"""A whole laptop installation, and the story that `agentgw demo` plays on it.

`issuer` vouches for two users, `tickets` is a tool server that checks who calls, `stage` starts both and
the gateway as processes of this machine, `story` plays the calls, `thief` misuses what it finds and
`printing` shows how it went. Everything binds to loopback and needs no network.
"""

from __future__ import annotations

from importlib.util import find_spec

from agentgw.errors import AgentgwError

_NEEDED = ("mcp", "mcp_server_time")


def run(exit: bool = False, json: bool = False) -> int:
    """Play the story; 0 if every step held, else 1.

    Without `exit` everything stays up afterwards, until interrupted, for a client of your own. `json`
    prints one array of `{step, ok, detail}` instead of text. Raises AgentgwError where the demo's
    packages are missing or something does not start.
    """
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise AgentgwError(
            f"the demo's packages are not installed ({', '.join(missing)}): "
            'pip install "agentgw[demo]"'
        )
    from agentgw.demo.printing import play

    return play(leave=exit, as_json=json)
