"""FastMCP's proxy as its documentation writes it; run by the Python of its own virtual environment."""

import argparse

from fastmcp.server import create_proxy  # type: ignore[import-not-found]


def main() -> None:
    """Serve a proxy of `--upstream` at /mcp on `--port` of 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    proxy = create_proxy(given.upstream, name="bench")
    proxy.run(
        transport="http", host="127.0.0.1", port=given.port, show_banner=False, log_level="WARNING"
    )


if __name__ == "__main__":
    main()
