"""npm's oidc-provider as a process (provider.mjs), and a browser's part played by a script."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2

from tests.harness import NO_TLS, free_port
from tests.provider_house import ACCESS_TOKEN, EXCHANGE

SCRIPT = Path(__file__).parent / "provider.mjs"
CALLBACK = "https://agent.example/callback"
SCOPE = "tickets.read tickets.write"
PUBLIC = ("laptop",)


@dataclass
class OidcProvider:
    """The running provider. Its keys are new with each start; `packages` is where npm put it.

    With `tls`, a folder with its `server.pem` and the `authority.pem` of all others here, it is served by
    https, and takes client metadata documents from https servers of that authority.
    """

    packages: Path
    port: int = field(default_factory=free_port)
    tls: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its issuer identifier."""
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def trust(self) -> ssl.SSLContext:
        """What a client of it trusts."""
        if self.tls is None:
            return NO_TLS
        return ssl.create_default_context(cafile=self.tls / "authority.pem")

    def start(self) -> None:
        """Start it and wait until it says that it listens."""
        node = shutil.which("node")
        assert node is not None
        tls, env = self.tls, {**os.environ, "NODE_ENV": "development"}
        if tls is not None:
            env["NODE_EXTRA_CA_CERTS"] = str(tls / "authority.pem")
        self.process = subprocess.Popen(
            [
                node,
                str(SCRIPT),
                str(self.port),
                *([] if tls is None else [str(tls / "server.pem")]),
            ],
            cwd=self.packages,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"
        self.process.stdout.close()

    def stop(self) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """It accepts connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def http(self) -> httpx2.Client:
        """A client for it, with cookies of its own."""
        return httpx2.Client(transport=httpx2.HTTPTransport(verify=self.trust), timeout=30)

    def post(
        self,
        path: str,
        client: str,
        form: Mapping[str, str],
        headers: Mapping[str, str] | None = None,
        secret: str | None = None,
    ) -> httpx2.Response:
        """Post a form as one of its clients."""
        with self.http() as http:
            if client in PUBLIC:
                return http.post(
                    self.url + path, data={**form, "client_id": client}, headers=headers
                )
            auth = (client, secret or f"{client}-secret-for-tests")
            return http.post(self.url + path, data=dict(form), auth=auth, headers=headers)

    def code(
        self, user: str, client: str, resource: str, scope: str = SCOPE, **more: str
    ) -> tuple[str, dict[str, str]]:
        """Sign `user` in at `client`, as a browser would; returns the code and the rest of the form."""
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest())
        asked = {
            "client_id": client, "response_type": "code", "redirect_uri": CALLBACK, "scope": scope,
            "resource": resource, "code_challenge_method": "S256", "state": "s",
            "code_challenge": challenge.rstrip(b"=").decode(), **more,
        }  # fmt: skip
        with self.http() as http:
            answer = http.get(f"{self.url}/auth", params=asked)
            for form in (
                {"prompt": "login", "login": user, "password": "any"},
                {"prompt": "consent"},
            ):
                page = urljoin(self.url, answer.headers["location"])
                assert "/interaction/" in page, page
                answer = http.post(page, data=form)
                answer = http.get(urljoin(page, answer.headers["location"]))
        query = parse_qs(urlsplit(answer.headers["location"]).query)
        assert query["iss"] == [self.url], answer.headers["location"]
        return query["code"][0], {"redirect_uri": CALLBACK, "code_verifier": verifier}

    def sign_in(
        self,
        user: str,
        client: str = "planner",
        resource: str = "urn:gateway:es256",
        scope: str = SCOPE,
        headers: Mapping[str, str] | None = None,
        secret: str | None = None,
    ) -> dict[str, Any]:
        """What the token endpoint answers after `user` signed in (RFC 6749 section 5.1)."""
        code, form = self.code(user, client, resource, scope)
        form |= {"grant_type": "authorization_code", "code": code, "resource": resource}
        answer = self.post("/token", client, form, headers, secret)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def token_of(self, user: str, **how: Any) -> str:
        """The access token of a sign-in."""
        return str(self.sign_in(user, **how)["access_token"])

    def exchange(self, client: str, token: str, resource: str = "urn:gateway:es256") -> str:
        """The token its exchange gives, in which `client` is the outermost `act`."""
        form = {"grant_type": EXCHANGE, "subject_token": token, "subject_token_type": ACCESS_TOKEN}
        answer = self.post("/token", client, {**form, "resource": resource})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])
