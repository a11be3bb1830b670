"""Strangers who guess at clients' secrets: the log says where and as whom, and not what they sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentgw.sts.clients import ASSERTION_TYPE
from tests.attacks.oauth_endpoints import basic
from tests.door import door
from tests.sts.sts_under_test import StsUnderTest, with_assertion

GUESS = "a-secret-sent-in-the-wrong-field"
FORM = {"token": "any"}


def test_one_record_tells_where_strangers_tried_and_as_which_agents(tmp_path: Path) -> None:
    with door(tmp_path) as at, at.gw.client() as client:
        for secret in ("guess-1", "guess-2"):
            wrong = {"Authorization": basic("planner", secret)}
            assert client.post("/oauth/token", data=FORM, headers=wrong).status_code == 401
        coder = {"client_id": "coder", "client_secret": "guess-3"}
        assert client.post("/oauth/revoke", data=coder).status_code == 401
        for number in range(50):
            stranger = {"Authorization": basic(f"{GUESS}-{number}", "x")}
            assert client.post("/oauth/introspect", data=FORM, headers=stranger).status_code == 401
        assert client.post("/mcp", json={}).status_code == 401
        at.gw.stop()
        found = [each for each in at.gw.records() if each["method"] == "unauthenticated"]
    assert 1 <= len(found) <= 2, "one a minute"
    counted: dict[str, dict[str, int]] = {"at": {}, "unproven_clients": {}}
    for record in found:
        assert record["source"] == "127.0.0.1"
        for what, sums in counted.items():
            for name, count in record["detail"][what].items():
                sums[name] = sums.get(name, 0) + count
    paths = {"/oauth/token": 2, "/oauth/revoke": 1, "/oauth/introspect": 50, "/mcp": 1}
    assert counted["at"] == paths
    assert counted["unproven_clients"] == {"planner": 2, "coder": 1, "(others)": 50}
    text = json.dumps(found)
    assert GUESS not in text and "guess-" not in text


@pytest.mark.anyio
async def test_whom_a_refused_assertion_names_is_told(tmp_path: Path) -> None:
    async with StsUnderTest(tmp_path) as service:
        token = service.assertion()
        forged = token[: token.rindex(".") + 1] + "A" * 86
        answer = await service.client.post("/oauth/token", data=with_assertion({}, forged))
        assert answer.status_code == 401
        broken = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": "no JWT"}
        answer = await service.client.post("/oauth/token", data=broken)
        assert answer.status_code == 401
        told = [(at, claimed) for _, at, claimed in service.refused]
    assert told == [("/oauth/token", "coder"), ("/oauth/token", None)]
