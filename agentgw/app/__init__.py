"""The composition root: the only room that knows every adapter."""

from agentgw.app.composition import App
from agentgw.app.opening import build
from agentgw.app.serve import serve

__all__ = ["App", "build", "serve"]
