"""Whom we trust when we ask others by https: the system's authorities, or those the operator names."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentgw.app.outbound import authorities
from agentgw.errors import ConfigError
from tests.certificates import issue


def test_the_authorities_that_the_environment_names_are_the_only_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "authority.pem"
    file.write_text(issue("the company's own", ca=True).pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    known = authorities().get_ca_certs()
    assert [each["subject"] for each in known] == [((("commonName", "the company's own"),),)]


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_cannot_be_read_end_the_start_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    file = tmp_path / "authority.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(ConfigError, match="SSL_CERT_FILE cannot be read") as caught:
        authorities()
    assert caught.value.file == str(file)
