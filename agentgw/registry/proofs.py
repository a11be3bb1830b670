"""DPoP proofs already used, for all workers: a database of its own, since it is written per request.

WAL with normal sync: a commit waits for no disk. What one worker committed every other sees at once, and
it outlives every worker, killed ones too. Only where the machine itself goes down may the last moments be
forgotten: a proof of then could pass once more within its window.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agentgw.errors import Unavailable

KEPT_SECONDS = 310
"""How long a proof is remembered after its `iat`: more than the widest window it may be judged by."""

_PURGE_SECONDS = 5.0
_WAIT_SECONDS = 5.0
_TABLE = """CREATE TABLE IF NOT EXISTS used_proofs
 (iat INTEGER NOT NULL, mark BLOB NOT NULL, PRIMARY KEY (iat, mark)) WITHOUT ROWID"""


class UsedProofs:
    """A replay store at `path`, shared by all who open that file. `clock` gives Unix seconds.

    Each object has one thread of its own, so that waiting for another worker's write holds up no event
    loop. Raises Unavailable where the file cannot be used: what nobody can remember is not accepted.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._purged = 0.0
        self._database = _open(path)
        self._thread = ThreadPoolExecutor(1, "agentgw-proofs")

    async def once(self, mark: bytes, iat: int) -> bool:
        """True the first time any worker sees `mark` of a proof made at `iat`, False ever after."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._once, mark, iat)

    def close(self) -> None:
        """Close the file; nothing may be asked afterwards."""
        self._thread.shutdown(wait=True)
        self._database.close()

    def _once(self, mark: bytes, iat: int) -> bool:
        try:
            now = self._clock()
            if not 0 <= now - self._purged < _PURGE_SECONDS:
                self._purged = now
                oldest = int(now) - KEPT_SECONDS
                self._database.execute("DELETE FROM used_proofs WHERE iat < ?", (oldest,))
            # Raw sqlite3: through SQLAlchemy the same row costs five times as much.
            insert = "INSERT OR IGNORE INTO used_proofs VALUES (?, ?)"
            return self._database.execute(insert, (iat, mark)).rowcount == 1
        except sqlite3.Error as error:
            raise Unavailable(f"used DPoP proofs cannot be remembered: {error}") from None


def _open(path: Path) -> sqlite3.Connection:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise Unavailable(f"{path} cannot be used: {error.strerror}") from None
    database = sqlite3.connect(
        path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
    )
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(_TABLE)
    except sqlite3.Error as error:
        database.close()
        raise Unavailable(
            f"{path} cannot be used: {error}; it holds nothing but used proofs, so it may be deleted"
        ) from None
    return database
