"""The state that all workers share, by what speaks to it: the tables of one database, and used proofs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from sqlalchemy import Engine

from agentgw.registry.assertions import UsedAssertions
from agentgw.registry.consents import Consents
from agentgw.registry.hourly import Hourly
from agentgw.registry.ledger import LedgerQueue
from agentgw.registry.one_time import OneTime
from agentgw.registry.pins import ToolPins
from agentgw.registry.proofs import UsedProofs
from agentgw.registry.refresh_tokens import RefreshTokens
from agentgw.registry.revocations import Revocations
from agentgw.registry.vault import VaultRows

_log = logging.getLogger("agentgw")


class Tables:
    """What `engine` and the file of used proofs beside it hold. Raises Unavailable where that cannot be
    opened."""

    def __init__(self, engine: Engine, state_dir: Path) -> None:
        self.engine = engine
        self.entries = LedgerQueue(engine)
        self.used = UsedAssertions(engine)
        self.one_time = OneTime(engine)
        self.hourly = Hourly(engine)
        self.refresh_tokens = RefreshTokens(engine)
        self.consents = Consents(engine)
        self.revocations = Revocations(engine)
        self.pins = ToolPins(engine)
        self.vault_rows = VaultRows(engine)
        self.used_proofs = UsedProofs(state_dir / "proofs.db")

    async def purge(self, now: int) -> None:
        """Drop what ended before `now` (Unix seconds); what fails is tried again the next time."""
        perishable = (
            self.entries.ledger,
            self.used,
            self.one_time,
            self.revocations,
            self.refresh_tokens,
            self.consents,
            self.vault_rows,
        )
        try:
            for table in perishable:
                await asyncio.to_thread(table.purge, now)
        except Exception:
            _log.exception("old entries of the state database could not be purged")

    async def write_what_waits(self) -> None:
        """Write what waits to be written together; nothing more is taken."""
        await self.entries.close()

    def close(self) -> None:
        """Close both files."""
        self.used_proofs.close()
        self.engine.dispose()
