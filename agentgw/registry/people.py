"""The `people` table: a random key and a display name per subject, kept out of every record."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable

from sqlalchemy import Engine, delete, insert, select, update

from agentgw.core.recent import remember
from agentgw.registry.schema import people, told

KEY_BYTES = 32


class People:
    """Keys and names of subjects, shared by all workers through the database.

    Keys are remembered in the process for `max_age` seconds, at most `max_cached` of them, so a key
    that another worker forgot dies here too. `random` gives that many bytes, `clock` seconds.
    All raise Unavailable when the database cannot be read or written.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
        clock: Callable[[], float] = time.monotonic,
        max_cached: int = 10_000,
        max_age: float = 60.0,
    ) -> None:
        self._engine = engine
        self._random = random
        self._clock = clock
        self._max_cached = max_cached
        self._max_age = max_age
        self._cache: OrderedDict[tuple[str, str], tuple[bytes, float]] = OrderedDict()

    def key(self, iss: str, sub: str) -> bytes:
        """The subject's 32-byte key for commits, made on first use; one key whoever asks first."""
        cached = self._cache.get((iss, sub))
        now = self._clock()
        if cached is not None and now < cached[1]:
            return cached[0]
        key = self._read(iss, sub) or self._create(iss, sub)
        remember(self._cache, (iss, sub), (key, now + self._max_age), self._max_cached)
        return key

    def name(self, iss: str, sub: str) -> str | None:
        """The display name, if one was set."""
        query = select(people.c.name).where(people.c.iss == iss, people.c.sub == sub)
        with told("people"), self._engine.connect() as connection:
            name: str | None = connection.execute(query).scalar()
        return name

    def set_name(self, iss: str, sub: str, name: str) -> None:
        """Keep the name people call the subject by; it never enters a record."""
        self.key(iss, sub)
        change = update(people).where(people.c.iss == iss, people.c.sub == sub).values(name=name)
        with told("people"), self._engine.begin() as connection:
            connection.execute(change)

    def forget(self, iss: str, sub: str) -> bool:
        """Delete key and name: what commits covered can no longer be guessed. Whether there was one."""
        self._cache.pop((iss, sub), None)
        erase = delete(people).where(people.c.iss == iss, people.c.sub == sub)
        with told("people"), self._engine.begin() as connection:
            return connection.execute(erase).rowcount > 0

    def _read(self, iss: str, sub: str) -> bytes | None:
        query = select(people.c.key).where(people.c.iss == iss, people.c.sub == sub)
        with told("people"), self._engine.connect() as connection:
            key: bytes | None = connection.execute(query).scalar()
        return key

    def _create(self, iss: str, sub: str) -> bytes:
        row = {"iss": iss, "sub": sub, "key": self._random(KEY_BYTES)}
        with told("people"), self._engine.begin() as connection:
            connection.execute(insert(people).prefix_with("OR IGNORE").values(row))
            query = select(people.c.key).where(people.c.iss == iss, people.c.sub == sub)
            key: bytes = connection.execute(query).scalar_one()
        return key
