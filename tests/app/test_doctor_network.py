"""Clocks that differ: whose tokens look not yet valid is told before it happens."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentgw.app.doctor_network import network
from agentgw.config import Config, load
from tests.harness import Issuer, base_config, free_port

pytestmark = pytest.mark.anyio


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    issuer = Issuer().start()
    file = tmp_path / "agentgw.yaml"
    file.touch(mode=0o600)
    written = base_config(issuer, f"http://127.0.0.1:{free_port()}", tmp_path)
    grants = [{"users": ["*"], "tools": ["*/*"]}]
    file.write_text(json.dumps({**written, "grants": grants}))
    yield load(file, {})
    issuer.stop()


@pytest.mark.parametrize(("ahead", "said"), [(3600.0, "behind ours"), (-90.0, "ahead of ours")])
async def test_an_issuers_clock_that_is_off_is_a_warning(
    config: Config, ahead: float, said: str
) -> None:
    found = await network(config, lambda: time.time() + ahead)
    (warning,) = [each for each in found if each.check == "issuer" and each.level == "warning"]
    assert said in warning.what and "NTP" in warning.fix


async def test_one_that_is_right_is_none(config: Config) -> None:
    found = await network(config, time.time)
    assert [each.level for each in found if each.check == "issuer"] == ["ok"]
