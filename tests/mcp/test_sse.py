"""The event stream reader: the same events however the bytes are cut."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgw.mcp.sse import EventReader, data_of, event

ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINES = st.sampled_from(
    [b"data: x", b"data:y", b"data:  z", b"data", b"data: ", b": ping", b"id: 7", b"event: message",
     b"retry: 5", b"", b"", b"", b"datax: no", b"Data: no", b"data: a: b", "data: \u2028é".encode()]
)  # fmt: skip


def oracle(stream: bytes) -> list[bytes]:
    """WHATWG HTML section 9.2.6 on the whole stream; events without data are none."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    *lines, _ = re.split(b"\r\n|\n|\r", stream)
    events: list[bytes] = []
    data: list[bytes] = []
    for line in lines:
        if not line:
            if data:
                events.append(b"\n".join(data))
            data = []
            continue
        field, colon, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" ") if colon else b"")
    return events


def read(stream: bytes, cuts: list[int]) -> list[bytes]:
    reader, events, start = EventReader(10_000), [], 0
    for cut in [*sorted(cuts), len(stream)]:
        events += reader.feed(stream[start : max(start, cut)])
        start = max(start, cut)
    return events


@given(
    st.booleans(), st.lists(st.tuples(LINES, ENDS), max_size=20), st.lists(st.integers(0, 200), max_size=12)
)  # fmt: skip
def test_reads_what_the_standard_says_wherever_the_chunks_end(
    mark: bool, lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = (b"\xef\xbb\xbf" if mark else b"") + b"".join(line + end for line, end in lines)
    assert read(stream, cuts) == oracle(stream)


@given(st.binary(max_size=80), st.lists(st.integers(0, 80), max_size=8))
def test_reads_any_bytes_the_same_in_one_piece_and_in_many(stream: bytes, cuts: list[int]) -> None:
    assert read(stream, cuts) == read(stream, []) == oracle(stream)


@given(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])))
def test_what_is_written_is_what_is_read(text: str) -> None:
    data = text.encode()
    assert EventReader(10_000).feed(event(data) + event(data)) == [data, data]


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 101, b"data: xxxxxxxxx\n" * 12, b"x" * 101])
def test_an_event_over_the_limit_is_refused(stream: bytes) -> None:
    with pytest.raises(ValueError, match="too large"):
        EventReader(100).feed(stream)
    reader = EventReader(100)
    with pytest.raises(ValueError, match="too large"):
        for byte in stream:
            reader.feed(bytes([byte]))


def test_comments_and_small_events_never_add_up_to_the_limit() -> None:
    reader = EventReader(100)
    for _ in range(100):
        assert reader.feed(b": ping\r\n\r\n") == []
        assert reader.feed(b"data: x\n\n") == [b"x"]


@given(
    st.booleans(), st.lists(st.tuples(LINES, ENDS), max_size=20), st.lists(st.integers(0, 200), max_size=12)
)  # fmt: skip
def test_the_blocks_are_the_stream_as_it_was_written(
    mark: bool, lines: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(line + end for line, end in lines)
    whole = (b"\xef\xbb\xbf" if mark else b"") + stream
    reader, passed, start = EventReader(10_000), b"", 0
    for cut in [*sorted(cuts), len(whole)]:
        for block in reader.blocks(whole[start : max(start, cut)]):
            data = data_of(block)
            assert oracle(block) == ([] if data is None else [data])
            passed += block
        start = max(start, cut)
    assert stream.startswith(passed)
    assert not oracle(stream[len(passed) :])


def test_a_comment_between_events_need_not_wait_for_an_empty_line() -> None:
    reader = EventReader(100)
    assert list(reader.blocks(b": ping\n: po")) == [b": ping\n"]
    assert list(reader.blocks(b"ng\ndata: x\n: in an event\n")) == [b": pong\n"]
    assert list(reader.blocks(b"\n")) == [b"data: x\n: in an event\n\n"]


@pytest.mark.parametrize("line", [b"data\n", b"x\n", b"id: 7\r", b"data:\r\n"])
def test_every_line_of_an_event_counts(line: bytes) -> None:
    reader = EventReader(1000)
    with pytest.raises(ValueError, match="too large"):
        for _ in range(1000):
            reader.feed(line)


def test_an_event_has_a_number_of_lines_to_stay_under() -> None:
    reader = EventReader(16 * 2**20)
    assert len(reader.feed(b"data:\n" * 100_000 + b"\n")) == 1
    with pytest.raises(ValueError, match="too large"):
        reader.feed(b"data:\n" * 100_001)


def test_the_limit_holds_wherever_the_chunks_end() -> None:
    for size in (94, 95):
        stream = b"data:" + b"x" * size + b"\n\n"
        for chunks in ([stream], [stream[n : n + 1] for n in range(len(stream))]):
            reader = EventReader(100)
            if size == 94:
                assert sum(len(reader.feed(chunk)) for chunk in chunks) == 1
            else:
                with pytest.raises(ValueError, match="too large"):
                    for chunk in chunks:
                        reader.feed(chunk)


def test_one_byte_more_of_a_long_event_costs_one_byte_more() -> None:
    reader = EventReader(16 * 2**20)
    reader.feed(b"data: " + b"a" * 14_000_000)
    began = time.process_time()
    for _ in range(2000):
        reader.feed(b"a")
    assert time.process_time() - began < 1  # 2000 looks at all of it would take over 2 seconds
