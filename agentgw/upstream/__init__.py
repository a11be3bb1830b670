"""How messages reach tool servers: the contract between the story and whoever carries the bytes.

`Link` is what the story sees. Under it lie two transports that know nothing of tokens or policy: `http`
(a pool of connections to one origin) and `stdio` (a child process shared by all callers). Whatever goes
wrong is UpstreamFailed, with a reason that is safe to show and reads on after the server's name.
"""

from agentgw.upstream.link import Authorise, Era, Link, Outbound, Reply, ServerInfo

__all__ = ["Authorise", "Era", "Link", "Outbound", "Reply", "ServerInfo"]
