"""The published schema: current, documented, and of one mind with the loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agentgw.config import Config
from agentgw.config.schema import schema, schema_text
from agentgw.config.source import parse

from .conftest import EXAMPLE, HEAD

PUBLISHED = Path(__file__).parents[2] / "docs" / "agentgw.schema.json"


def is_valid(text: str) -> bool:
    data, _ = parse(text, "agentgw.yaml")
    return bool(jsonschema.Draft202012Validator(schema()).is_valid(data))


def test_the_checked_in_schema_is_current() -> None:
    hint = "run: agentgw config schema > docs/agentgw.schema.json"
    assert PUBLISHED.read_text(encoding="utf-8") == schema_text(), hint


def test_the_schema_is_itself_valid_and_takes_the_example() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert is_valid(EXAMPLE)
    pasted = '{a: {type: http, url: "https://a.example", headers: {A: b}}, b: {command: c}}'
    assert is_valid(HEAD + f"servers: {pasted}\nlimits: {{body: 4MiB, token: 9}}\n")
    assert is_valid(HEAD + f"servers: {{mcpServers: {pasted}}}\n")


@pytest.mark.parametrize(
    "line",
    [
        "isuers: {}",
        "limits: {body: lots}",
        "workers: many",
        "agents: {a: {clients: [{isuer: x}]}}",
        "servers: {A_B: {command: x}}",
        "servers: {a: {command: x, auth: {mode: vault}}}",
        "servers: {mcpServers: {a: {commnd: x}}}",
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(line: str) -> None:
    assert not is_valid(HEAD + line + "\n")


def test_every_field_has_its_sentence() -> None:
    sections = [schema(), *schema()["$defs"].values()]
    lacking = [
        f"{section['title']}.{name}"
        for section in sections
        for name, field in section.get("properties", {}).items()
        if not field.get("description", "").endswith(".")
    ]
    assert not lacking


def test_the_model_is_frozen() -> None:
    config: Any = Config.model_validate({"version": 1, "public_url": "https://gw.example.com"})
    with pytest.raises(ValueError, match="frozen"):
        config.workers = 2
    assert json.loads(schema_text())["properties"].keys() == set(Config.model_fields)
