"""The published JSON Schema of the configuration file."""

from __future__ import annotations

import json
from typing import Any

from agentgw.config.model import Config
from agentgw.config.values import ALIAS


def schema() -> dict[str, Any]:
    """The schema (JSON Schema 2020-12) of what may be written, before defaults are filled in."""
    described = Config.model_json_schema(mode="validation")
    servers = described["properties"]["servers"]
    # A pasted block may come with its own key around it (see config.load).
    servers["properties"] = {
        "mcpServers": {
            "type": "object",
            "description": "Entries as pasted, with the key that was around them.",
            "patternProperties": {ALIAS: {"$ref": "#/$defs/Server"}},
        }
    }
    _close(described)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **described,
        "title": "agentgw configuration",
    }


def _close(node: Any) -> None:
    """Where names have a pattern, others are wrong; pydantic leaves that unsaid."""
    if isinstance(node, dict):
        if "patternProperties" in node:
            node["additionalProperties"] = False
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            _close(item)


def schema_text() -> str:
    """The schema as it is checked in and printed."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"
