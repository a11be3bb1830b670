"""Where the stories happen: an issuer, the tool server tickets and a gateway, on free ports of this machine.

A story's agentgw.yaml names what differs from run to run as `${env:...}`: GATEWAY, LISTEN, STATE,
ISSUER, TICKETS, PLANNER_SECRET, CODER_JWKS.
"""

from __future__ import annotations

from pathlib import Path

from agentgw.demo.stage import Stage


def laptop(story: str) -> Stage:
    """Opens (`with laptop(__file__) as it:`) what the agentgw.yaml beside `story` describes.

    `it.gateway` and `it.tickets` are URLs, `it.issuer.token(user, client, audience)` is what a login
    ends with, `it.command(*arguments)` runs the agentgw command line to its end.
    """
    text = (Path(story).parent / "agentgw.yaml").read_text("utf-8")
    return Stage(lambda stage: text)
