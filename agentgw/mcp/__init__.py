"""The MCP wire without any I/O: bytes and values in, bytes and values out.

`message` parses strictly, `modern` and `handshake` hold what each era demands, `bridge` turns one era's
messages into the other's, `sse` reads and writes event streams.
"""
