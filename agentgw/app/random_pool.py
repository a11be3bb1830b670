"""Random bytes by the handful: one system call for many ids."""

from __future__ import annotations

import secrets

POOL_BYTES = 4096


class RandomPool:
    """Gives so many random bytes of the operating system, each given out once.

    Not for threads, and not to be carried over a fork: each process makes its own.
    """

    def __init__(self) -> None:
        self._pool = b""
        self._at = 0

    def __call__(self, count: int) -> bytes:
        """`count` random bytes, at most `POOL_BYTES`."""
        end = self._at + count
        if end > len(self._pool):
            self._pool, self._at, end = secrets.token_bytes(POOL_BYTES), 0, count
        taken = self._pool[self._at : end]
        self._at = end
        return taken
