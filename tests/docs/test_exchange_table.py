"""The table of checks in docs/exchange.md names what is there, and enough of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agentgw.core import exchange_checks, exchange_request

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("| \n").split(" | ")]
    for line in (ROOT / "docs" / "exchange.md").read_text("utf-8").splitlines()
    if re.match(r"\| \d+ \|", line)
]
ATTACKS = "".join(path.read_text("utf-8") for path in (ROOT / "tests" / "attacks").glob("*.py"))


def attacks_on(number: str) -> int:
    """How many attacks the row names, each set of parameters counting as one."""
    [row] = [row for row in ROWS if row[0] == number]
    count = 0
    for name in re.findall(r"`(test_\w+)`", row[4]):
        found = re.search(
            rf"((?:^@pytest.mark.parametrize\((?s:.*?)^|)(?:async )?def {name}\()", ATTACKS, re.M
        )
        assert found, name
        count += 3 if found[1].startswith("@") else 1
    return count


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_check_exists_and_meets_three_attacks(row: list[str]) -> None:
    functions = re.findall(r"`((?:check|parse)_\w+)`", row[2])
    assert functions
    for name in functions:
        assert hasattr(exchange_checks, name) or hasattr(exchange_request, name), name
    assert attacks_on(row[0]) >= 3


def test_the_table_has_all_fourteen_in_order() -> None:
    assert [row[0] for row in ROWS] == [str(number) for number in range(1, 15)]


def test_every_check_stands_in_the_table() -> None:
    told = " ".join(row[2] for row in ROWS)
    for name, value in vars(exchange_checks).items():
        here = getattr(value, "__module__", "") == exchange_checks.__name__
        if here and name.startswith("check_") and name != "check_actor_is_enabled":
            assert f"`{name}`" in told, name
