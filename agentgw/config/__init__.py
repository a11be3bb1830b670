"""The configuration: one frozen model, read whole or not at all.

`load(path, env, flags)` gives a `Config` or raises `agentgw.errors.ConfigError`;
`default_config_path(env)` says where the file is looked for.
"""

from agentgw.config.agents import Agent, AgentAuth, AgentClient, Client
from agentgw.config.grants import Grant
from agentgw.config.issuers import Issuer
from agentgw.config.load import load
from agentgw.config.model import (
    Audit,
    Config,
    Limits,
    Sts,
    Tls,
    default_config_path,
    default_state_dir,
)
from agentgw.config.servers import CallToken, Server, ServerAuth, ToolRule
from agentgw.config.source import Loc, Place

__all__ = [
    "Agent",
    "AgentAuth",
    "AgentClient",
    "Audit",
    "CallToken",
    "Client",
    "Config",
    "Grant",
    "Issuer",
    "Limits",
    "Loc",
    "Place",
    "Server",
    "ServerAuth",
    "Sts",
    "Tls",
    "ToolRule",
    "default_config_path",
    "default_state_dir",
    "load",
]
