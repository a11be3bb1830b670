"""A real MCP server (the official SDK) whose users have accounts at the provider, and a gateway before it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin

import httpx2
from mcp.server import MCPServer
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from pydantic import AnyHttpUrl

from tests.harness import Gateway, Issuer, allow_all, free_port, gateway
from tests.integration.toolserver import serving
from tests.oidc_provider.server import OidcProvider
from tests.saas import UserBrowser

SCOPE = "openid offline_access notes.read"


@dataclass
class Introspecting:
    """Asks the provider about each token, each time; keeps those that it let in."""

    provider: OidcProvider
    resource: str
    seen: list[str] = field(default_factory=list)

    async def verify_token(self, token: str) -> AccessToken | None:
        """Who a token stands for, None where the provider does not know it as one for us."""
        transport = httpx2.AsyncHTTPTransport(verify=self.provider.trust)
        async with httpx2.AsyncClient(transport=transport) as http:
            answer = await http.post(
                f"{self.provider.url}/token/introspection",
                data={"token": token},
                auth=("gateway", "gateway-secret-for-tests"),
            )
        said = answer.json()
        if not said.get("active"):
            return None
        self.seen.append(token)
        return AccessToken(
            token=token,
            client_id=said["client_id"],
            scopes=said.get("scope", "").split(),
            expires_at=said.get("exp"),
            resource=said.get("aud"),
            subject=said["sub"],
        )


@dataclass
class Notes:
    """The gateway `gw` before the notes server, at which it is the client `client_id`."""

    gw: Gateway
    provider: OidcProvider
    verifier: Introspecting
    client_id: str
    secret: str
    browsers: list[UserBrowser] = field(default_factory=list)

    def browser(self, user: str) -> UserBrowser:
        """A new browser in which `user` is signed in at the gateway, and nobody at the provider."""
        self.browsers.append(UserBrowser(self.gw, user))
        return self.browsers[-1]

    def sign_in_there(self, browser: UserBrowser, answer: httpx2.Response, account: str) -> str:
        """What a person does at the provider: signs in and agrees. The URL it sends back to."""
        assert answer.status_code == 303, answer.text
        answer = browser.http.get(answer.headers["location"])
        for form in (
            {"prompt": "login", "login": account, "password": "any"},
            {"prompt": "consent"},
        ):
            page = urljoin(self.provider.url, answer.headers["location"])
            assert "/interaction/" in page, page
            answer = browser.http.post(page, data=form)
            answer = browser.http.get(urljoin(page, answer.headers["location"]))
        return answer.headers["location"]

    def connect(self, user: str, account: str) -> None:
        """Let `user` connect an account by the link of a refused call."""
        browser = self.browser(user)
        left = browser.agree(browser.open(self.link(user)))
        done = browser.open(self.sign_in_there(browser, left, account))
        assert done.status_code == 200 and "is connected" in done.text, done.text

    def call(self, user: str, token: str | None = None) -> httpx2.Response:
        """Call the tool as `user`."""
        return self.gw.call("notes__whose", token or self.gw.token(sub=user))

    def link(self, user: str) -> str:
        """The link a call of `user` is refused with."""
        error = self.call(user).json()["error"]
        assert error["code"] == 46008, error
        return str(error["data"]["url"])

    def whose(self, user: str) -> str:
        """Whose notes a call of `user` gets."""
        answer = self.call(user)
        assert "result" in answer.json(), answer.text
        return str(answer.json()["result"]["content"][0]["text"])


@contextlib.contextmanager
def notes_server(provider: OidcProvider, path: str = "/mcp") -> Iterator[Introspecting]:
    """Run the MCP server; what it asks about tokens, and its resource identifier, which is its URL."""
    port = free_port()
    resource = f"http://127.0.0.1:{port}{path}"
    verifier = Introspecting(provider, resource)
    auth = AuthSettings(
        issuer_url=AnyHttpUrl(provider.url),
        resource_server_url=AnyHttpUrl(resource),
        required_scopes=["notes.read"],
        validate_token_resource=True,
    )
    server = MCPServer("notes", token_verifier=verifier, auth=auth, log_level="ERROR")

    @server.tool()
    async def whose() -> str:
        """Whose notes these are."""
        token = get_access_token()
        assert token is not None
        return f"the notes of {token.subject}"

    app = server.streamable_http_app(streamable_http_path=path, json_response=True)
    with serving(app, lifespan=True, port=port):
        yield verifier


@contextlib.contextmanager
def notes(
    folder: Path, provider: OidcProvider, issuer: Issuer, path: str = "/mcp"
) -> Iterator[Notes]:
    """Run both; `/brief/mcp` as path gives access tokens that end at once."""
    with notes_server(provider, path) as verifier, gateway(folder, issuer, {}) as gw:
        with provider.http() as http:
            wanted = {
                "redirect_uris": [f"{gw.url}/oauth/connect/callback/notes"],
                "grant_types": ["authorization_code", "refresh_token"],
                "response_types": ["code"],
            }
            answer = http.post(f"{provider.url}/reg", json=wanted)
            assert answer.status_code == 201, answer.text
            client = answer.json()
        oauth = {
            "issuer": provider.url, "scope": SCOPE,
            "client_id": client["client_id"], "client_secret": client["client_secret"],
        }  # fmt: skip
        auth_section = {"mode": "oauth", "oauth": oauth}
        gw.config["servers"] = {"notes": {"url": verifier.resource, "auth": auth_section}}
        gw.config["grants"] = allow_all("notes")
        gw.config["login"] = {"issuer": "laptop", "client_id": "agentgw"}
        gw.reload()
        running = Notes(gw, provider, verifier, client["client_id"], client["client_secret"])
        yield running
        for browser in running.browsers:
            browser.close()
