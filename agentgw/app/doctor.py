"""Everything `agentgw doctor` looks at, in the order it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace

from agentgw.app.doctor_network import network
from agentgw.app.doctor_settings import settings
from agentgw.app.doctor_state import state
from agentgw.config.model import Config
from agentgw.core.finding import BAD_CONFIG, Finding, wrong
from agentgw.errors import ConfigError


def look_at_all(config: Config, env: Mapping[str, str], *, offline: bool) -> list[Finding]:
    """Configuration, state and, unless `offline`, everybody the gateway would ask; changes nothing."""
    found = [*settings(config, time.time()), *state(config, env, time.time())]
    return _told(config, found) + ([] if offline else ask_everybody(config))


def ask_everybody(config: Config) -> list[Finding]:
    """Issuers, authorization servers and tool servers, asked now."""
    return _told(config, asyncio.run(network(config, time.time)))


def wrong_file(error: ConfigError) -> Finding:
    """A configuration that cannot be loaded."""
    place = f"{error.file}:{error.line}" if error.line else error.file
    what, why = f"{place}: {error.message}", "agentgw serve does not start with it"
    return wrong("config", what, why, error.hint or "see the line", code=BAD_CONFIG)


def _told(config: Config, findings: list[Finding]) -> list[Finding]:
    """Without the values that came by reference: they may be secrets."""
    return [
        replace(each, what=config.redact(each.what), why=config.redact(each.why))
        for each in findings
    ]
