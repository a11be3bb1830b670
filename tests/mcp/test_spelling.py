"""A secret is found in JSON in whichever of its spellings."""

from __future__ import annotations

import json

import pytest

from agentgw.mcp.spelling import holds, respelled, secret_words, spelled

SECRET = "s3cret/of-a-server+77=="


def found(written: str, secret: str = SECRET) -> bool:
    return holds((spelled(secret),), written.encode(), json.loads(written))


@pytest.mark.parametrize("letter", range(len(SECRET)))
def test_with_any_letter_written_as_an_escape(letter: int) -> None:
    escaped = f"\\u{ord(SECRET[letter]):04X}".join((SECRET[:letter], SECRET[letter + 1 :]))
    assert found(f'{{"a": ["x{escaped}y"]}}')
    assert found(f'{{"{escaped}": 1}}')


def test_with_an_escaped_slash_and_as_it_is() -> None:
    assert found(json.dumps(SECRET).replace("/", "\\/"))
    assert found(json.dumps({"a": f"Bearer {SECRET}"}))


def test_with_quotes_backslashes_and_letters_beyond_ascii_in_it() -> None:
    for secret in ('with"quotes"and-more', "with\\backslashes\\too", "päßwörter-mit-ümläut"):
        assert found(json.dumps([secret], ensure_ascii=False), secret)
        assert found(json.dumps([secret]), secret)


def test_but_nothing_else_is() -> None:
    assert not found(json.dumps({"a": SECRET[:-1], "b": "\u00e4/\n"}))
    assert not holds((), json.dumps(SECRET).encode(), SECRET)


def test_a_text_without_escapes_is_not_written_again() -> None:
    assert respelled(b'{"a": "line\\nline \\"x\\""}', {}) is None


def test_words_of_a_header_count_from_sixteen_characters_on() -> None:
    assert secret_words("Bearer 0123456789abcdef") == (b"0123456789abcdef",)
    assert secret_words("Bearer 0123456789abcde") == ()
