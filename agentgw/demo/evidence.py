"""The auditor's part: a checkpoint kept elsewhere, `agentgw audit verify`, and a forged copy of the log."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from agentgw.demo.stage import Stage
from agentgw.errors import AgentgwError

_PATIENCE = 10.0


class Evidence:
    """What is needed to check the log of `stage`: its public key and a checkpoint, both kept apart."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._log = stage.state / "log"
        self._held = stage.folder / "held.checkpoint"

    def verify(self) -> dict[str, Any]:
        """Keep the checkpoint that covers all there is now, and verify the log against it."""
        self._keep_checkpoint()
        return self._verify(self._log)

    def verify_changed_copy(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Copy the log, change one byte of the denied call, verify: that record, and the finding."""
        copy = self._stage.folder / "forged"
        shutil.copytree(self._log, copy)
        segment = next(copy.glob("gw-1/*.jsonl"))
        lines = segment.read_bytes().splitlines(keepends=True)
        at, record = next(
            (at, record)
            for at, line in enumerate(lines)
            if (record := json.loads(line)).get("rule") == "people-decide"
        )
        lines[at] = lines[at].replace(b'"sub":"alice"', b'"sub":"alyce"', 1)
        segment.write_bytes(b"".join(lines))
        return record, self._verify(copy)

    def _keep_checkpoint(self) -> None:
        checkpoint = self._log / "gw-1" / "checkpoint"
        written = self._records()
        deadline = time.monotonic() + _PATIENCE
        while not checkpoint.exists() or _size(checkpoint) < written:
            if time.monotonic() > deadline:
                raise AgentgwError(f"no checkpoint over {written} records came")
            time.sleep(0.05)
        shutil.copyfile(checkpoint, self._held)

    def _records(self) -> int:
        segments = (self._log / "gw-1").glob("*.jsonl")
        return sum(segment.read_bytes().count(b"\n") for segment in segments)

    def _verify(self, log: Path) -> dict[str, Any]:
        vkey = (self._stage.state / "keys" / "checkpoints.vkey").read_text("utf-8").strip()
        arguments = ("--key", vkey, "--checkpoint", str(self._held), "--json")
        done = self._stage.command("audit", "verify", str(log), *arguments)
        if done.returncode not in (0, 6):
            raise AgentgwError(f"audit verify failed: {done.stderr.strip()}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def _size(checkpoint: Path) -> int:
    """The tree size of a checkpoint: its second line (C2SP tlog-checkpoint)."""
    lines = checkpoint.read_text("utf-8").splitlines()
    return int(lines[1]) if len(lines) > 1 else 0
