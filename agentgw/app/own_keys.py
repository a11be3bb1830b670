"""The gateway's own keys, opened as its configuration says."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from agentgw.app.convert import token_algorithms
from agentgw.config.keys import WrappingKey as Place
from agentgw.config.model import Config
from agentgw.sts.hsm import Hsm, HsmError
from agentgw.sts.key_files import KeyFiles
from agentgw.sts.keys import KeyRing
from agentgw.sts.wrapping import (
    Wrapping,
    WrappingKey,
    WrappingKeyError,
    key_from_environment,
    key_from_file,
    key_from_keyring,
)

_log = logging.getLogger("agentgw")


def open_keyring(config: Config, env: Mapping[str, str]) -> KeyRing:
    """The keys in the state directory, made where there are none.

    `env` is where a wrapping key may lie. Raises ConfigError where the wrapping key is missing or another
    than files are sealed under, or the HSM is not as told; Unavailable where files cannot be read or written.
    """
    with wrapping_as_configured(config):
        wrapping = _wrapping(config, env)
        device = open_hsm(config)
        try:
            keyring = KeyRing(
                config.state_dir,
                log_name=_note_name(config.public_url),
                algorithms=token_algorithms(config),
                wrapping=wrapping,
                device=device,
            )
        except BaseException:
            if device is not None:
                device.close()
            raise
    if keyring.sealed:
        _log.info("key files sealed under the wrapping key: %s", ", ".join(keyring.sealed))
    return keyring


def open_key_files(config: Config, env: Mapping[str, str]) -> KeyFiles:
    """The files alone, to look at. Raises ConfigError as `open_keyring` does."""
    with wrapping_as_configured(config):
        return KeyFiles(config.state_dir / "keys", _wrapping(config, env))


def adapt_keyring(keyring: KeyRing, config: Config, env: Mapping[str, str]) -> None:
    """Give a running key ring the wrapping key and the algorithms of a new configuration; blocks.

    Raises what `open_keyring` does, and then the wrapping key is the old one still.
    """
    with wrapping_as_configured(config):
        keyring.use(_wrapping(config, env))
        keyring.need(token_algorithms(config))


def open_hsm(config: Config) -> Hsm | None:
    """The device that token keys lie in, if one is configured. Raises ConfigError."""
    told = config.keys.hsm
    if told is None:
        return None
    labels: dict[str, tuple[str, ...]] = dict(told.keys.items())
    try:
        return Hsm(told.module, told.token, told.pin.get_secret_value(), labels)
    except HsmError as error:
        raise config.error(("keys", "hsm"), str(error)) from None


@contextmanager
def wrapping_as_configured(config: Config) -> Iterator[None]:
    """Turn what is wrong with the wrapping key into a ConfigError that points at `keys.wrap`."""
    try:
        yield
    except WrappingKeyError as error:
        raise config.error(("keys", "wrap"), str(error)) from None


def _wrapping(config: Config, env: Mapping[str, str]) -> Wrapping | None:
    wrap = config.keys.wrap
    if wrap is None:
        return None
    previous = None if wrap.previous is None else _key(wrap.previous, env)
    return Wrapping(_key(wrap, env), previous)


def _key(place: Place, env: Mapping[str, str]) -> WrappingKey:
    if place.file is not None:
        return key_from_file(place.file)
    if place.env is not None:
        return key_from_environment(place.env, env)
    assert place.keyring is not None
    return key_from_keyring(place.keyring)


def _note_name(public_url: str) -> str:
    """A signed note's key name has neither spaces nor plus signs (C2SP signed-note)."""
    return public_url.partition("://")[2].replace("+", "_")
