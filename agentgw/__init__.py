"""A gateway between AI agents and the tools they call: one delegated token and one record per call."""

__version__ = "0.1.0"
