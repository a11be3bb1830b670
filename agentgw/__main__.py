"""`python -m agentgw` is `agentgw`."""

from agentgw.cli import main

main()
