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
        self._at = POOL_BYTES

    def __call__(self, count: int) -> bytes:
        """`count` random bytes, at most `POOL_BYTES`."""
        at = self._at
        self._at = end = at + count
        if end > POOL_BYTES:
            self._pool, at, self._at = secrets.token_bytes(POOL_BYTES), 0, count
        return self._pool[at : self._at]
