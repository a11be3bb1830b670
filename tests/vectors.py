"""Public test vectors, which lie beside the checkout and are not part of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "shared" / "vectors"


def read_vectors(name: str) -> Any:
    """The parsed vectors `name`, below $AGENTGW_VECTORS or `../shared/vectors`; skips where absent."""
    folder = Path(os.environ.get("AGENTGW_VECTORS", FOLDER))
    if not (folder / name).is_file():
        pytest.skip(f"no {name} below AGENTGW_VECTORS or ../shared/vectors of the checkout")
    return json.loads((folder / name).read_text("utf-8"))
