"""For tool servers: check the token a gateway sends with each request, against that very request.

    verifier = CallVerifier("https://gw.example.com", "https://tickets.example.com/mcp")
    app = CallTokenMiddleware(app, verifier)

A token verifier that never sees the body (such as the MCP SDK's) cannot do this: the middleware can.
Needs PyJWT and httpx2; imports nothing else of this package.
"""

from agentgw.verify.calls import CallVerifier, VerifiedCall
from agentgw.verify.canonical import NotCanonical, params_digest, tool_digest
from agentgw.verify.middleware import CallTokenMiddleware
from agentgw.verify.replay import MemoryReplay, ReplayStore
from agentgw.verify.request import InvalidCall

__all__ = [
    "CallTokenMiddleware",
    "CallVerifier",
    "InvalidCall",
    "MemoryReplay",
    "NotCanonical",
    "ReplayStore",
    "VerifiedCall",
    "params_digest",
    "tool_digest",
]
