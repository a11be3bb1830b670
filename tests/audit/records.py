"""Records and logs that the tests of this room share."""

from __future__ import annotations

import json
import sys
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgw.audit.files import Files
from agentgw.audit.keys import NoteSigner, note_signer
from agentgw.audit.log import FileLog
from agentgw.audit.writer import LogWriter

ROOT = Path(__file__).parents[2]
SIGNER = note_signer("gw.example.com", Ed25519PrivateKey.from_private_bytes(b"c" * 32))
OTHER_SIGNER = note_signer("gw.example.com", Ed25519PrivateKey.from_private_bytes(b"d" * 32))
VKEY = str(SIGNER.key)


def decision(number: int) -> dict[str, object]:
    return {
        "id": f"d-{number}",
        "event_id": f"e-{number}",
        "phase": "decision",
        "time": "2026-11-23T05:46:45.120Z",
        "subject": {"iss": "acme", "sub": "alice"},
        "chain": [{"id": "https://gw.example.com/a2a/coder", "evidence": "exchange"}],
        "server": "tickets",
        "name": "close_ticket",
        "decision": "allow",
    }


def outcome(number: int) -> dict[str, object]:
    return {
        "id": f"o-{number}",
        "event_id": f"e-{number}",
        "phase": "outcome",
        "time": "2026-11-23T05:46:45.220Z",
        "outcome": "ok",
    }


async def start(root: Path, name: str = "gw-1", **options: Any) -> FileLog:
    options.setdefault("retry_seconds", 0.01)
    return await FileLog.start(root, name, options.pop("signer", SIGNER), **options)


def writer(
    root: Path, files: Files, name: str = "gw-1", signer: NoteSigner = SIGNER, **options: int
) -> LogWriter:
    return LogWriter(root, name, signer, files, lambda: 1795412805.0, lambda n: bytes(n), **options)


def bodies(*records: dict[str, object]) -> list[bytes]:
    return [json.dumps(record, separators=(",", ":")).encode() for record in records]


def lines(root: Path, name: str = "gw-1") -> list[dict[str, Any]]:
    paths = sorted((root / name).glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]


def independent_verifier() -> ModuleType:
    """tools/verify_log.py, loaded into this process: starting it for each mutant takes too long."""
    spec = util.spec_from_file_location("verify_log", ROOT / "tools" / "verify_log.py")
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules.setdefault("verify_log", module)
    spec.loader.exec_module(module)
    return module
