"""The `dynamic_clients` table: clients that registered themselves (RFC 7591)."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sqlalchemy import Engine, delete, func, insert, select, update

from agentgw.core.client_metadata import ClientMetadata
from agentgw.registry.schema import consents, dynamic_clients, told

MOST = 10_000
"""Clients kept; beyond that the one that was used the longest ago goes, those first that no user let in:
strangers who register without end must not push out the programs of users."""


@dataclass(frozen=True, slots=True)
class DynamicClients:
    """Calls block on the disk: keep them out of the event loop. All raise Unavailable."""

    engine: Engine
    most: int = MOST

    def add(self, client_id: str, metadata: ClientMetadata, now: int) -> None:
        """Keep a client; `now` in Unix seconds."""
        row = {
            "client_id": client_id,
            "name": metadata.name,
            "redirect_uris": json.dumps(metadata.redirect_uris),
            "at": now,
            "used": now,
        }
        table = dynamic_clients.c
        with told("dynamic_clients"), self.engine.begin() as connection:
            connection.execute(insert(dynamic_clients).values(row))
            count = connection.scalar(select(func.count()).select_from(dynamic_clients)) or 0
            if count > self.most:
                let_in = table.client_id.in_(select(consents.c.client_id))
                oldest = (
                    select(table.client_id)
                    .where(table.client_id != client_id)
                    .order_by(let_in, table.used, table.client_id)
                    .limit(count - self.most)
                )
                connection.execute(delete(dynamic_clients).where(table.client_id.in_(oldest)))

    def find(self, client_id: str, now: int) -> ClientMetadata | None:
        """The client of that id, which counts as used `now`; None where there is none."""
        table = dynamic_clients.c
        query = select(table.name, table.redirect_uris, table.used).where(
            table.client_id == client_id
        )
        with told("dynamic_clients"), self.engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if now - row.used > _USED_STEP:
            mark = update(dynamic_clients).where(table.client_id == client_id).values(used=now)
            with told("dynamic_clients"), self.engine.begin() as connection:
                connection.execute(mark)
        return ClientMetadata(row.name, tuple(json.loads(row.redirect_uris)))


_USED_STEP = 3600
"""Seconds by which the note of the last use may be behind, so that most look-ups write nothing."""
