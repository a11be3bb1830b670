"""What opening a gateway does to the directory of its state."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentgw.app.opening import build
from agentgw.config import Config

pytestmark = pytest.mark.anyio


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.parametrize(
    ("found", "left"), [(None, 0o700), (0o755, 0o700), (0o770, 0o700), (0o1777, 0o1777)]
)  # fmt: skip
async def test_an_existing_state_directory_is_closed_to_others(
    tmp_path: Path, found: int | None, left: int
) -> None:
    state = tmp_path / "state"
    if found is not None:
        state.mkdir()
        state.chmod(found)
    config = Config.model_validate(
        {"version": 1, "public_url": "https://gw.example.com", "state_dir": str(state)}
    )
    app = await build(config)
    await app.close()
    assert mode(state) == left
