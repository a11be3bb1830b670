"""Server-sent events (WHATWG HTML section 9.2), as far as MCP uses them."""

from __future__ import annotations

from collections.abc import Iterator

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


_MAX_LINES = 100_000
"""Lines of one event: each costs far more than its bytes."""


class EventReader:
    """Feeds on chunks of an event stream and gives back the data of each `message` event.

    `limit` bounds the bytes of one event, whatever its lines say; feeding more raises ValueError, as do
    more than 100,000 lines.
    """

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._line = 0
        self._lines = 0
        self._size = 0
        self._limit = limit
        self._skip_line_feed = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes, in order."""
        found = map(data_of, self.blocks(chunk))
        return [data for data in found if data is not None]

    def blocks(self, chunk: bytes) -> Iterator[bytes]:
        """What `chunk` completes, as the bytes were written; `data_of` says what an agent reads there.

        A block is an event with the empty line that ends it, or a comment between events. Take them all
        before the next chunk.
        """
        buffer = self._buffer
        scanned = len(buffer)
        buffer += chunk
        if self._at_start:
            if len(buffer) < 3 and _BYTE_ORDER_MARK.startswith(buffer):
                return
            self._at_start, scanned = False, 0
            if buffer.startswith(_BYTE_ORDER_MARK):
                del buffer[:3]
        start = 0
        if chunk and self._skip_line_feed:
            self._skip_line_feed = False
            if buffer[scanned] == 0x0A:
                scanned += 1
                self._line = scanned
                if scanned == 1:
                    start = 1
                    yield b"\n"
        for end, after in self._line_ends(scanned):
            if self._ends_block(end):
                with memoryview(buffer) as view:
                    block = bytes(view[start:after])
                start = after
                yield block
            self._line = after
        del buffer[:start]
        self._line -= start
        if len(buffer) - self._line + self._size > self._limit:
            raise ValueError("an event is too large")

    def _line_ends(self, scanned: int) -> Iterator[tuple[int, int]]:
        """Where each line ends and the next begins; looks at no byte twice."""
        buffer, size = self._buffer, len(self._buffer)
        line_feed = carriage = -1
        while scanned < size:
            if line_feed < scanned:
                line_feed = buffer.find(b"\n", scanned) % (size + 1)
            if carriage < scanned:
                carriage = buffer.find(b"\r", scanned) % (size + 1)
            end = min(line_feed, carriage)
            if end == size:
                return
            scanned = end + 1
            if end == carriage:
                self._skip_line_feed = scanned == size
                scanned += scanned == line_feed != size
            yield end, scanned

    def _ends_block(self, end: int) -> bool:
        """Count the line that ends at `end`; whether what came so far can go."""
        if end == self._line:
            self._lines = self._size = 0
            return True
        self._size += end - self._line + 1
        if self._size > self._limit or self._lines == _MAX_LINES:
            raise ValueError("an event is too large")
        if self._lines == 0 and self._buffer[self._line] == 0x3A:
            self._size = 0
            return True
        self._lines += 1
        return False


def data_of(block: bytes) -> bytes | None:
    """The data of a block that is an event with any, else None."""
    found = []
    for line in block.splitlines():
        if line.startswith(b"data:"):
            found.append(line[6:] if line[5:6] == b" " else line[5:])
        elif line == b"data":
            found.append(b"")
    return b"\n".join(found) if found else None


def event(data: bytes) -> bytes:
    """One `message` event. `data` is JSON without line feeds."""
    return b"event: message\r\ndata: " + data + b"\r\n\r\n"
