from __future__ import annotations

import json

from agentgw.core.client_credentials import API_KEY_PREFIX
from agentgw.sts.client_auth.api_key import digest_of

from .conftest import Run


def test_a_key_is_printed_once_with_the_line_for_the_file(run: Run) -> None:
    done = run("agent", "key", "coder")
    key = done.stdout.strip()
    assert done.returncode == 0 and key.startswith(API_KEY_PREFIX) and len(key) == 47
    assert f"agents: {{coder: {{auth: {{api_key_hash: {digest_of(key)}}}}}}}" in done.stderr
    assert key not in done.stderr
    made = json.loads(run("agent", "key", "coder", "--json").stdout)
    assert made["api_key_hash"] == digest_of(made["api_key"]) and made["api_key"] != key


def test_a_name_no_agent_can_have_is_refused(run: Run) -> None:
    done = run("agent", "key", "Coder!")
    assert done.returncode == 1 and not done.stdout and "is no name of an agent" in done.stderr
