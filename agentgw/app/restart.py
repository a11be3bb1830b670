"""What of a new configuration a running process cannot take on."""

from __future__ import annotations

from agentgw.config.model import Config

FIXED = ("public_url", "listen", "tls", "state_dir", "dev", "workers", "trusted_proxies")
FIXED_WITHIN = {
    "limits": ("headers", "header_count", "header_deadline"),
    "keys": ("hsm",),
    "audit": ("checkpoint_seconds", "checkpoint_records"),
}
COMMAND = ("command", "args", "env", "cwd", "sandbox", "isolation")


def keep_until_restart(running: Config, wanted: Config) -> tuple[Config, list[str]]:
    """`wanted` with the running values where only a restart can change them, and the names of those.

    These are the process's own address, place and name, what its connections and its log were opened
    with, and the commands of stdio servers that run.
    """
    kept = {field: getattr(running, field) for field in FIXED}
    names = [field for field in FIXED if kept[field] != getattr(wanted, field)]
    for section, fields in FIXED_WITHIN.items():
        before, after = getattr(running, section), getattr(wanted, section)
        values = {field: getattr(before, field) for field in fields}
        kept[section] = after.model_copy(update=values)
        names += [
            f"{section}.{field}" for field in fields if values[field] != getattr(after, field)
        ]
    servers = dict(wanted.servers)
    for name, server in wanted.servers.items():
        known = running.servers.get(name)
        if known is None or known.command is None or server.command is None:
            continue
        command = {field: getattr(known, field) for field in COMMAND}
        changed = [field for field in COMMAND if command[field] != getattr(server, field)]
        if changed:
            servers[name] = server.model_copy(update=command)
            names += [f"servers.{name}.{field}" for field in changed]
    return wanted.model_copy(update={**kept, "servers": servers}), names
