"""One issuer and one fault-injecting tool server for all integration tests; gateways are per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness import Issuer, faulty_server


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest tests/integration/test_kill.py --kills 1000` is the long run before a release; with
    `--kill-seed` it takes other moments."""
    parser.addoption("--kills", type=int, default=5, help="how often test_kill.py kills a gateway")
    parser.addoption("--kill-seed", type=int, help="decides when it does so")


@pytest.fixture(scope="session")
def issuer() -> Iterator[Issuer]:
    """A running issuer."""
    running = Issuer().start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def faulty() -> Iterator[str]:
    """The base URL of a running tools/servers/faulty.py."""
    with faulty_server() as url:
        yield url
