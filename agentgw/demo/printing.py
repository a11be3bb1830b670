"""How the story looks: text as it happens, or one JSON array at the end."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from agentgw.demo.configuration import demo_configuration
from agentgw.demo.processes import usual_port
from agentgw.demo.stage import Stage
from agentgw.demo.story import Step, tell

_HOUR = 3600
_WATCH_SECONDS = 1.0


def play(leave: bool, as_json: bool) -> int:
    """Open the stage and play; 0 if every step held. Stays until interrupted, unless `leave`."""
    with Stage(demo_configuration, port=usual_port(), with_thief=True) as stage:
        steps = []
        for step in tell(stage):
            steps.append(step)
            if not as_json:
                print(_text(len(steps), step), flush=True)
        held = all(step.ok for step in steps)
        if as_json:
            rows = [{"step": step.step, "ok": step.ok, "detail": step.detail} for step in steps]
            print(json.dumps(rows, ensure_ascii=False), flush=True)
        if not held:
            return 1
        if leave:
            if not as_json:
                print(_NEXT_AFTER_EXIT.format(agentgw=_command()))
            return 0
        _stay(stage, as_json)
    return 0


def _stay(stage: Stage, as_json: bool) -> None:
    token = stage.issuer.token("alice", "planner", f"{stage.gateway}/mcp", life=_HOUR)
    server = {
        "type": "http",
        "url": f"{stage.gateway}/mcp",
        "headers": {"Authorization": f"Bearer {token}"},
    }
    entry = {"mcpServers": {"agentgw-demo": server}}
    if as_json:
        print(json.dumps(entry), flush=True)
    else:
        print(
            _NEXT.format(
                entry=json.dumps(entry, indent=2),
                stage=stage,
                password=stage.issuer.passwords["alice"],
                agentgw=_command(),
                reload=f"kill -HUP {stage.gateway_pid}",
            ),
            flush=True,
        )
    try:
        while True:
            time.sleep(_WATCH_SECONDS)
            stage.check()
    except KeyboardInterrupt:
        if not as_json:
            print("stopping; what was written is removed")


def _command() -> str:
    """How to run agentgw from this very installation, whatever is on PATH."""
    beside = Path(sys.executable).with_name("agentgw")
    found = shutil.which("agentgw")
    if found is not None and Path(found).resolve() == beside.resolve():
        return "agentgw"
    try:
        return str(beside.relative_to(Path.cwd()))
    except ValueError:
        return str(beside)


def _text(number: int, step: Step) -> str:
    verdict = "ok" if step.ok else "FAILED"
    detail = "".join(f"      {line}\n" for line in step.detail.splitlines())
    return f"{number:2}. {step.title}: {verdict}\n{detail}"


_NEXT_AFTER_EXIT = """\
Every step held. Next:
  {agentgw} demo                     the same, and it stays up for a client of your own
  {agentgw} config schema            all that an agentgw.yaml may say
  {agentgw} serve --config FILE      your own gateway"""

_NEXT = """\
Every step held, and everything stays up until Ctrl-C. Next:
  1. Give your MCP client this entry (alice through planner, good for one hour):

{entry}

  2. Or give a client that can log in nothing but {stage.gateway}/mcp. You sign in
     as alice, password {password}, and say what it may do.

  3. See which agents act for alice, and stop them: {stage.gateway}/account

  4. Watch the calls being recorded:

     {agentgw} audit tail -f --state-dir {stage.state}

  5. Read {stage.config}, change a grant, and let the gateway take it:

     {reload}"""
