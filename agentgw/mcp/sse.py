"""Server-sent events (WHATWG HTML section 9.2), as far as MCP uses them."""

from __future__ import annotations

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventReader:
    """Feeds on chunks of an event stream and gives back the data of each `message` event.

    `limit` bounds the bytes of one event; feeding more raises ValueError.
    """

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._limit = limit
        self._skip_line_feed = False
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that `chunk` completes, in order."""
        events: list[bytes] = []
        if self._skip_line_feed and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if chunk:
            self._skip_line_feed = False
        self._buffer += chunk
        start = 0
        if self._at_start:
            if len(self._buffer) < 3 and _BYTE_ORDER_MARK.startswith(self._buffer):
                return events
            self._at_start = False
            start = 3 if self._buffer.startswith(_BYTE_ORDER_MARK) else 0
        while (found := self._line_end(start)) is not None:
            end, after = found
            self._take(bytes(self._buffer[start:end]), events)
            start = after
        del self._buffer[:start]
        if len(self._buffer) + self._size > self._limit:
            raise ValueError("an event is too large")
        return events

    def _line_end(self, start: int) -> tuple[int, int] | None:
        line_feed = self._buffer.find(b"\n", start)
        carriage = self._buffer.find(
            b"\r", start, line_feed if line_feed >= 0 else len(self._buffer)
        )
        if carriage < 0:
            return None if line_feed < 0 else (line_feed, line_feed + 1)
        if carriage + 1 == len(self._buffer):
            self._skip_line_feed = True
            return carriage, carriage + 1
        return carriage, carriage + (2 if self._buffer[carriage + 1] == 0x0A else 1)

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
            self._data.clear()
            self._size = 0
        elif line.startswith(b"data:"):
            data = line[6:] if line[5:6] == b" " else line[5:]
            self._data.append(data)
            self._size += len(data) + 1
        elif line == b"data":
            self._data.append(b"")
            self._size += 1


def event(data: bytes) -> bytes:
    """One `message` event. `data` is JSON without line feeds."""
    return b"event: message\r\ndata: " + data + b"\r\n\r\n"
