"""Opening state directory and log, and putting a gateway together on them."""

from __future__ import annotations

import os

from sqlalchemy.exc import SQLAlchemyError

from agentgw.app.composition import App
from agentgw.app.own_keys import open_keyring
from agentgw.app.state import open_state, publish_vkey
from agentgw.audit.keys import note_signer
from agentgw.audit.log import FileLog
from agentgw.config.model import Config
from agentgw.errors import Unavailable
from agentgw.registry.schema import open_database


async def build(config: Config, worker: int = 1) -> App:
    """Open state and log, and put a gateway together on the running loop.

    `worker` numbers the processes of one gateway from 1; each writes a log of its own. Raises
    ConfigError for what cannot be right, Unavailable where the state cannot be opened.
    """
    state = config.state_dir
    try:
        open_state(state)
        keyring = open_keyring(config, os.environ)
        keyring.make_way_for_device()
        private, name = keyring.checkpoint_key()
        engine = open_database(state / "agentgw.db")
        signer = note_signer(name, private)
        publish_vkey(state / "keys" / "checkpoints.vkey", str(signer.key))
    except (OSError, SQLAlchemyError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "orig", None) or error
        raise Unavailable(f"the state directory {state} cannot be used: {reason}") from error
    audit = await FileLog.start(
        state / "log",
        f"gw-{worker}",
        signer,
        checkpoint_seconds=config.audit.checkpoint_seconds,
        checkpoint_records=config.audit.checkpoint_records,
    )
    try:
        return App(config, audit, keyring, engine)
    except BaseException:
        await audit.close()
        raise
