"""What every test shares: the event loop's kind, and the lanes that plain `pytest` leaves out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import Pool

from tests.chromium import chromium as chromium
from tests.door import Door
from tests.door import door as open_door

# How fast a machine is says nothing about a rule.
settings.register_profile(
    "patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("patient")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Several processes for the whole suite, whose tests mostly wait; one for a lane or for named files."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return max(3, os.cpu_count() or 1) if whole and not config.option.markexpr else 0


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The gateway runs on asyncio only, and so do its tests."""
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
def _databases_are_closed() -> Iterator[None]:
    """Close what a module's database pools leave open: from 3.13 on Python warns of it."""
    opened: list[DBAPIConnection] = []

    def keep(connection: DBAPIConnection, _: object) -> None:
        opened.append(connection)

    event.listen(Pool, "connect", keep)
    yield
    event.remove(Pool, "connect", keep)
    for connection in opened:
        connection.close()


def _needs_node_22() -> str | None:
    node = shutil.which("node")
    if node is None:
        return "node is not installed"
    version = subprocess.run(
        [node, "--version"], capture_output=True, text=True, check=False
    ).stdout
    major = version.strip().removeprefix("v").partition(".")[0]
    return (
        None if major.isdigit() and int(major) >= 22 else f"needs Node 22, found {version.strip()}"
    )


def _needs_keycloak() -> str | None:
    folder = os.environ.get("KEYCLOAK_HOME")
    if not folder:
        return "KEYCLOAK_HOME does not name the folder of an unpacked Keycloak"
    if not Path(folder, "bin", "kc.sh").is_file():
        return f"KEYCLOAK_HOME names {folder}, which holds no bin/kc.sh"
    return None


def _needs_softhsm() -> str | None:
    if shutil.which("softhsm2-util") is None:
        return "softhsm2-util is not installed"
    return None if find_spec("pkcs11") else "python-pkcs11 is not installed: pip install '.[hsm]'"


def _needs(command: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(command) else f"{command} is not installed"


LANES: dict[str, Callable[[], str | None]] = {
    "node": _needs_node_22,
    "conformance": _needs_node_22,
    "oidc_provider": _needs_node_22,
    "keycloak": _needs_keycloak,
    "postgres": _needs("postgres"),
    "valkey": _needs("valkey-server"),
    "hsm": _needs_softhsm,
    "browser": _needs("chromium"),
    "slow": lambda: None,
    "soak": lambda: None,
}
"""Each lane and what says why it cannot run here (None where it can)."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip, with the reason, what belongs to a lane nobody asked for or whose tool is absent."""
    asked = bool(config.option.markexpr)
    reasons: dict[str, str | None] = {}
    for item in items:
        for lane in LANES.keys() & {mark.name for mark in item.iter_markers()}:
            if lane not in reasons:
                reasons[lane] = LANES[lane]() if asked else f"run it with: pytest -m {lane}"
            if reason := reasons[lane]:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """One gateway that all tests of its front door attack; each must leave it in working order."""
    with open_door(tmp_path_factory.mktemp("door")) as opened:
        yield opened
