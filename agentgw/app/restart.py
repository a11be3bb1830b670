"""What of a new configuration a running process cannot take on."""

from __future__ import annotations

from agentgw.config.model import Config

FIXED = ("public_url", "listen", "tls", "state_dir", "dev", "workers", "trusted_proxies")
COMMAND = ("command", "args", "env", "cwd")


def keep_until_restart(running: Config, wanted: Config) -> tuple[Config, list[str]]:
    """`wanted` with the running values where only a restart can change them, and the names of those.

    These are the process's own address, place and name, and the commands of stdio servers that run.
    """
    kept = {field: getattr(running, field) for field in FIXED}
    names = [field for field in FIXED if kept[field] != getattr(wanted, field)]
    servers = dict(wanted.servers)
    for name, server in wanted.servers.items():
        before = running.servers.get(name)
        if before is None or before.command is None or server.command is None:
            continue
        command = {field: getattr(before, field) for field in COMMAND}
        changed = [field for field in COMMAND if command[field] != getattr(server, field)]
        if changed:
            servers[name] = server.model_copy(update=command)
            names += [f"servers.{name}.{field}" for field in changed]
    return wanted.model_copy(update={**kept, "servers": servers}), names
