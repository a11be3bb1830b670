"""Users' credentials at tool servers, and at the identity provider they sign in at, encrypted at rest.

Each row is sealed with AES-256-GCM under a key named in it, and its place (user, issuer, server, resource)
is authenticated with it: a row that was moved to another place does not open there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import ColumnElement, Engine, and_, delete, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from agentgw.core.connected import Account, Opened, Place
from agentgw.errors import Unavailable, Unreadable
from agentgw.registry.schema import ledger, revocations, told, vault

SESSION_SECONDS = 7 * 86_400
"""The longest that a browser session may last, in which a login may still begin (config/login.py)."""

_NONCE = 12
_MORE_TRIES = 2
_LABEL = "agentgw vault 1"


class Vault:
    """One row per place. Calls block on the disk; all raise Unavailable.

    `keys` are 32-byte keys by id, the one that seals first; `anew` gives them as they are now, for a row
    that another worker sealed under a key made since. `random` gives so many random bytes, `clock` Unix
    seconds. A row that does not open, because it was altered, moved or sealed under a key that is
    gone, raises Unreadable: nobody's credential is guessed.
    """

    def __init__(
        self,
        engine: Engine,
        keys: Mapping[str, bytes],
        random: Callable[[int], bytes],
        clock: Callable[[], float],
        anew: Callable[[], Mapping[str, bytes]] = dict,
    ) -> None:
        self._engine = engine
        self._ciphers = {kid: AESGCM(key) for kid, key in keys.items()}
        self._current = next(iter(self._ciphers))
        self._anew = anew
        self._random = random
        self._clock = clock

    def get(self, place: Place) -> Account | None:
        """The account connected at `place`. Raises Unreadable too."""
        found = self.open(place)
        return None if found is None else Account.read(*found)

    def open(self, place: Place) -> Opened | None:
        """What is kept at `place`. Raises Unreadable too."""
        columns = (vault.c.sealed, vault.c.version, vault.c.connected)
        asked = select(*columns).where(_at(place))
        with told("vault"), self._engine.connect() as connection:
            row = connection.execute(asked).one_or_none()
        if row is None:
            return None
        return Opened(self._unsealed(place, row.sealed), row.version, row.connected)

    def latest(self, issuer: str, server: str, resource: str) -> Place | None:
        """Whose account was connected last at a server."""
        asked = (
            select(vault.c.user_iss, vault.c.user_sub)
            .where(vault.c.issuer == issuer, vault.c.server == server, vault.c.resource == resource)
            .order_by(vault.c.connected.desc())
            .limit(1)
        )
        with told("vault"), self._engine.connect() as connection:
            row = connection.execute(asked).one_or_none()
        return None if row is None else Place(row.user_iss, row.user_sub, issuer, server, resource)

    def put(self, place: Place, content: Mapping[str, Any]) -> None:
        """Keep what was connected just now, in place of what was there."""
        values = {"sealed": self._seal(place, content), "connected": self._clock(), "claimed": 0.0}
        again = {**values, "version": vault.c.version + 1}
        with told("vault"):
            for _ in range(2):
                with self._engine.begin() as connection:
                    if connection.execute(update(vault).where(_at(place)).values(again)).rowcount:
                        return
                try:
                    with self._engine.begin() as connection:
                        row = {**values, **_columns(place), "version": self._first_version()}
                        connection.execute(insert(vault).values(row))
                    return
                except IntegrityError:
                    continue  # another worker was first: replace its row
        raise Unavailable("vault of the state database changes faster than it can be written")

    def claim(self, place: Place, version: int, seconds: float) -> bool:
        """Whether the caller alone may refresh the account it read as `version`, for so many seconds."""
        now = self._clock()
        claimed = (
            update(vault)
            .where(_at(place), vault.c.version == version, vault.c.claimed < now)
            .values(claimed=now + seconds)
        )
        return self._changes(claimed)

    def replace(self, place: Place, version: int, content: Mapping[str, Any]) -> bool:
        """Keep what the holder of the claim refreshed; False where the account was connected anew.

        What was refreshed cannot be had again, so a database that is busy is asked more than once.
        """
        changed = (
            update(vault)
            .where(_at(place), vault.c.version == version)
            .values(sealed=self._seal(place, content), version=version + 1, claimed=0.0)
        )
        for _ in range(_MORE_TRIES):
            with suppress(Unavailable):
                return self._changes(changed)
        return self._changes(changed)

    def release(self, place: Place, version: int) -> None:
        """Give a claim back, nothing having changed."""
        changed = update(vault).where(_at(place), vault.c.version == version)
        self._changes(changed.values(claimed=0.0))

    def drop(self, place: Place, version: int | None = None) -> bool:
        """Forget an account, with `version` only if it is still that one."""
        where = _at(place) if version is None else and_(_at(place), vault.c.version == version)
        return self._changes(delete(vault).where(where))

    def _first_version(self) -> int:
        """One that no earlier row of the place had: whoever still refreshes what stood there before it was
        dropped must not change what was connected since."""
        return int.from_bytes(self._random(4)) >> 2

    def _changes(self, statement: Any) -> bool:
        with told("vault"), self._engine.begin() as connection:
            return bool(connection.execute(statement).rowcount)

    def _seal(self, place: Place, content: Mapping[str, Any]) -> bytes:
        kid, nonce = self._current, self._random(_NONCE)
        plain = json.dumps(dict(content)).encode()
        sealed = self._ciphers[kid].encrypt(nonce, plain, _bound(place, kid))
        return kid.encode("ascii") + b"." + nonce + sealed

    def _cipher(self, kid: str) -> AESGCM | None:
        if kid not in self._ciphers:
            self._ciphers |= {name: AESGCM(key) for name, key in self._anew().items()}
        return self._ciphers.get(kid)

    def _unsealed(self, place: Place, sealed: bytes) -> dict[str, Any]:
        kid, _, rest = sealed.partition(b".")
        cipher = self._cipher(kid.decode("ascii", "replace"))
        if cipher is None:
            raise Unreadable("a row of the vault is sealed under a key that is not here")
        try:
            bound = _bound(place, kid.decode("ascii"))
            content: dict[str, Any] = json.loads(
                cipher.decrypt(rest[:_NONCE], rest[_NONCE:], bound)
            )
        except (InvalidTag, ValueError):
            raise Unreadable("a row of the vault was altered, or moved from its place") from None
        return content


class VaultRows:
    """What the vault holds, without opening it. Calls block on the disk; all raise Unavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def of(self, user_iss: str, user_sub: str) -> list[tuple[Place, float]]:
        """Where a user has connected an account of theirs, and when (Unix seconds), by server."""
        mine = and_(vault.c.user_iss == user_iss, vault.c.user_sub == user_sub)
        asked = (
            select(vault)
            .where(mine, vault.c.server != "")
            .order_by(vault.c.server, vault.c.connected)
        )
        with told("vault"), self._engine.connect() as connection:
            rows = connection.execute(asked).all()
        return [
            (Place(user_iss, user_sub, row.issuer, row.server, row.resource), row.connected)
            for row in rows
        ]

    def purge(self, now: int) -> int:
        """Drop sign-ins that no login stands on, nor will: their browser session ended before `now`, in Unix
        seconds. Returns how many rows."""
        taken_back = exists().where(
            revocations.c.kind == "token",
            revocations.c.key == ledger.c.jti,
            revocations.c.lifted.is_(False),
        )
        gone = delete(vault).where(
            vault.c.server == "",
            vault.c.connected < now - SESSION_SECONDS,
            ~exists().where(ledger.c.parent == vault.c.resource, ~taken_back),
        )
        with told("vault"), self._engine.begin() as connection:
            return connection.execute(gone).rowcount


def _bound(place: Place, kid: str) -> bytes:
    """What is authenticated with the content; a JSON list, so that no two places read alike."""
    return json.dumps([_LABEL, kid, *place]).encode()


def _at(place: Place) -> ColumnElement[bool]:
    return and_(*(vault.c[name] == value for name, value in _columns(place).items()))


def _columns(place: Place) -> dict[str, str]:
    return dict(zip(("user_iss", "user_sub", "issuer", "server", "resource"), place, strict=True))
