"""One gateway per file, as the suite's client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.client_role import ClientRole
from tests.people import Visitor, place


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientRole]:
    """A gateway whose user alice signs in at a laptop issuer."""
    with (
        place(tmp_path_factory.mktemp("gateway")) as here,
        Visitor() as alice,
        ClientRole(here, alice) as role,
    ):
        yield role
