"""Threat: somebody who can write the state database, but has no keys, moves or alters credentials.

What does not open where it stands counts as not connected: nothing of anybody's is sent.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.saas import House
from tests.saas import house as run_house

_numbers = itertools.count()
Users = tuple[str, str]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with run_house(tmp_path_factory.mktemp("vault")) as running:
        yield running


@pytest.fixture
def users(house: House) -> Users:
    """Two users nobody has seen yet, both connected."""
    number = next(_numbers)
    victim, attacker = f"victim{number}", f"attacker{number}"
    for user in (victim, attacker):
        house.connect(user)
        assert house.notes(user) == f"the notes of {user}"
    return victim, attacker


def write(house: House, statement: str, *values: object) -> None:
    """Change the database behind the gateway's back, and let it forget what it remembers."""
    with closing(sqlite3.connect(house.gw.state / "agentgw.db", timeout=10)) as database:
        with database:
            assert database.execute(statement, values).rowcount > 0
    house.gw.reload()


def sealed(house: House, user: str) -> bytes:
    with closing(sqlite3.connect(house.gw.state / "agentgw.db", timeout=10)) as database:
        query = "SELECT sealed FROM vault WHERE user_sub = ?"
        (found,) = database.execute(query, (user,)).fetchone()
    return bytes(found)


def refused_untouched(house: House, user: str) -> None:
    """A call is refused, nothing of anybody's reaches the tool, and the user can connect anew."""
    before = len(house.saas.seen)
    link = house.link(user)
    assert [sent for method, sent, _ in house.saas.seen[before:] if method == "tools/call"] == []
    assert "is connected" in house.browser(user).connect(link, user).text
    assert house.notes(user) == f"the notes of {user}"


def test_a_row_in_the_place_of_anothers_does_not_open(house: House, users: Users) -> None:
    victim, attacker = users
    theirs = sealed(house, victim)
    write(house, "UPDATE vault SET sealed = ? WHERE user_sub = ?", theirs, attacker)
    refused_untouched(house, attacker)
    assert house.notes(victim) == f"the notes of {victim}"


def test_a_row_under_another_users_name_does_not_open(house: House, users: Users) -> None:
    victim, attacker = users
    write(house, "DELETE FROM vault WHERE user_sub = ?", attacker)
    write(house, "UPDATE vault SET user_sub = ? WHERE user_sub = ?", attacker, victim)
    refused_untouched(house, attacker)


def test_two_rows_swapped_do_not_open(house: House, users: Users) -> None:
    victim, attacker = users
    theirs, own = sealed(house, victim), sealed(house, attacker)
    write(house, "UPDATE vault SET sealed = ? WHERE user_sub = ?", own, victim)
    write(house, "UPDATE vault SET sealed = ? WHERE user_sub = ?", theirs, attacker)
    refused_untouched(house, attacker)
    refused_untouched(house, victim)


@pytest.mark.parametrize("column", ["user_iss", "issuer", "server", "resource"])
def test_a_row_moved_to_another_place_is_found_by_nobody(
    house: House, users: Users, column: str
) -> None:
    victim, other = users
    write(house, f"UPDATE vault SET {column} = {column} || 'x' WHERE user_sub = ?", victim)  # noqa: S608
    refused_untouched(house, victim)
    assert house.notes(other) == f"the notes of {other}"


def test_an_altered_row_does_not_open(house: House, users: Users) -> None:
    victim, other = users
    whole = sealed(house, victim)
    altered = whole[:-1] + bytes([whole[-1] ^ 1])
    write(house, "UPDATE vault SET sealed = ? WHERE user_sub = ?", altered, victim)
    refused_untouched(house, victim)
    assert house.notes(other) == f"the notes of {other}"


@pytest.mark.parametrize("content", [b"", b"x", b".", b"kid." + bytes(40), b"\xff." + bytes(40)])
def test_a_row_of_rubbish_does_not_open(house: House, users: Users, content: bytes) -> None:
    write(house, "UPDATE vault SET sealed = ? WHERE user_sub = ?", content, users[0])
    refused_untouched(house, users[0])
