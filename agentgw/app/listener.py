"""The socket the gateway listens on, and the certificate it shows there."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

from agentgw.config.model import Config
from agentgw.errors import AgentgwError

BACKLOG = 2048


class Listener:
    """A listening socket for `config.listen`. Raises AgentgwError where the address cannot be had."""

    def __init__(self, config: Config) -> None:
        address = config.address
        self._path = address if isinstance(address, Path) else None
        try:
            self.socket = _unix(address) if isinstance(address, Path) else _tcp(address)
        except OSError as error:
            reason = error.strerror or str(error)
            raise AgentgwError(f"cannot serve on {config.listen}: {reason}") from error
        self._inode = None if self._path is None else self._path.stat().st_ino

    def close(self, owner: bool = True) -> None:
        """Take no more connections. The `owner` takes its unix socket's name away too."""
        self.socket.close()
        try:
            if owner and self._path is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except OSError:
            return


def _unix(path: Path) -> socket.socket:
    if path.is_socket() and _is_stale(path):
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Made with its mode, so that there is no moment in which others may connect.
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return _listening(listener)


def _is_stale(path: Path) -> bool:
    """Whether nobody listens there any more: a gateway that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except OSError:
            return False
    return False


def _tcp(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return _listening(listener)


def _listening(listener: socket.socket) -> socket.socket:
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def check_tls(config: Config) -> None:
    """Raise ConfigError unless certificate and key can be read and belong together."""
    if config.tls is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls.cert, config.tls.key, password=_no_password)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise config.error(
            ("tls", "cert"),
            f"tls.cert and tls.key cannot be used: {reason}",
            "both are PEM, the key is not encrypted and belongs to the first certificate",
        ) from None


def _no_password() -> str:
    raise ValueError("the key is encrypted")
