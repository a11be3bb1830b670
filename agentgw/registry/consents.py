"""What users chose at the consent page, so that the page shows it to them the next time."""

from __future__ import annotations

import json

from sqlalchemy import Engine, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from agentgw.core.consent import Consent, read_consent
from agentgw.core.offer import Choice
from agentgw.core.principal import Subject
from agentgw.core.revocation import user_key
from agentgw.registry.schema import consents, told

KEPT_SECONDS = 400 * 86_400
"""How long a choice is remembered after it was made."""


class Consents:
    """The last choice per user, client, agent and resource. It fills in a page and gives no right.

    Calls block on the disk; what returned is durable. All raise Unavailable when the database cannot be
    read or written.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def remember(
        self, subject: Subject, client_id: str, agent: str, resource: str, choice: Choice, now: int
    ) -> None:
        """Keep `choice` in place of an earlier one; `now` is Unix seconds."""
        shown = {**choice.consent.shown(), "life": choice.life}
        row = {
            "subject": user_key(subject.iss, subject.sub),
            "client_id": client_id,
            "agent": agent,
            "resource": resource,
            "choice": json.dumps(shown),
            "at": now,
        }
        kept = upsert(consents).values(row)
        changed = kept.on_conflict_do_update(
            index_elements=["subject", "client_id", "agent", "resource"],
            set_={"choice": kept.excluded.choice, "at": kept.excluded.at},
        )
        with told("consents"), self._engine.begin() as connection:
            connection.execute(changed)

    def last(
        self, subject: Subject, client_id: str, agent: str, resource: str
    ) -> tuple[Consent, int] | None:
        """What was chosen, and for how many seconds; None where nothing was yet."""
        query = select(consents.c.choice).where(
            consents.c.subject == user_key(subject.iss, subject.sub),
            consents.c.client_id == client_id,
            consents.c.agent == agent,
            consents.c.resource == resource,
        )
        with told("consents"), self._engine.connect() as connection:
            found = connection.scalar(query)
        if found is None:
            return None
        shown = json.loads(found)
        return read_consent(shown), shown["life"]

    def purge(self, now: int) -> int:
        """Forget what was chosen longer ago than KEPT_SECONDS before `now`; returns how many rows."""
        with told("consents"), self._engine.begin() as connection:
            gone = delete(consents).where(consents.c.at < now - KEPT_SECONDS)
            return connection.execute(gone).rowcount
