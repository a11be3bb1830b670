"""Many registrations at once: what is bounded one after another is bounded side by side."""

from __future__ import annotations

import asyncio
import collections
from pathlib import Path

import httpx2
import pytest

from agentgw.http.registration import REGISTRATIONS
from tests.attacks.test_registration import AGENTS, CALLBACK
from tests.harness import stay_within_an_hour
from tests.login import attacked_place

PER_SOURCE = REGISTRATIONS.per_source

pytestmark = pytest.mark.anyio


async def test_one_source_at_once_registers_no_more_than_one_by_one_with_any_worker(
    tmp_path: Path,
) -> None:
    with attacked_place(tmp_path, agents=AGENTS, workers=2) as place:
        stay_within_an_hour()
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            answers = await asyncio.gather(
                *(
                    client.post(f"{place.url}/oauth/register", json={"redirect_uris": [CALLBACK]})
                    for _ in range(4 * PER_SOURCE)
                )
            )
        counted = collections.Counter(answer.status_code for answer in answers)
        assert counted == {201: PER_SOURCE, 429: 3 * PER_SOURCE}
        kept = [r for r in place.gateway.records() if r["method"] == "oauth/register"]
        assert len(kept) == PER_SOURCE
