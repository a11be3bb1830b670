"""The authorization server that the tests of its faces share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.sts.sts_under_test import StsUnderTest


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[StsUnderTest]:
    async with StsUnderTest(tmp_path) as made:
        yield made
