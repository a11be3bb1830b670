"""A real Keycloak in dev mode: found by KEYCLOAK_HOME, its realm imported from realm.json."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.harness import NO_TLS, free_port, wait_for

FOLDER = Path(__file__).parent
START_SECONDS = 300
"""The first start of an installation builds it for the chosen options: a minute on two busy cores."""

OPTIONS = (
    "start-dev", "--import-realm", "--db", "dev-mem", "--cache", "local", "--log-level", "warn",
    "--http-host", "127.0.0.1", "--features", "token-exchange-delegation,parameterized-scopes",
)  # fmt: skip
ADMIN = {"KC_BOOTSTRAP_ADMIN_USERNAME": "admin", "KC_BOOTSTRAP_ADMIN_PASSWORD": "admin-password"}
OLDEST_JDK = 17


def distribution() -> Path | None:
    """The unpacked Keycloak that KEYCLOAK_HOME names."""
    named = os.environ.get("KEYCLOAK_HOME")
    found = Path(named).resolve() if named else None
    return found if found is not None and (found / "bin" / "kc.sh").is_file() else None


def jdks() -> list[Path]:
    """The homes of the installed JDKs that Keycloak may run on, the newest first."""
    on_path = shutil.which("java")
    homes = [Path(home) for home in [os.environ.get("JAVA_HOME")] if home]
    homes += [Path(on_path).resolve().parents[1]] if on_path else []
    homes += Path("/usr/lib/jvm").glob("*")
    found: dict[Path, int] = {}
    for home in homes:
        java = home / "bin" / "java"
        if java.is_file() and home.resolve() not in found:
            said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
            number = re.search(r'version "(\d+)', said.stderr)
            found[home.resolve()] = int(number[1]) if number else 0
    fitting = [home for home, version in found.items() if version >= OLDEST_JDK]
    return sorted(fitting, key=lambda home: found[home], reverse=True)


@dataclass
class Keycloak:
    """One process. `home` is a folder of its own, so that the installation stays as it was."""

    installed: Path
    jdk: Path
    home: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    rotations: int = 0

    @property
    def root(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The realm: its issuer identifier."""
        return f"{self.root}/realms/acme"

    @property
    def output(self) -> str:
        """What it has said so far."""
        return (self.home / "output.txt").read_text(errors="replace")

    def start(self) -> bool:
        """Start it and wait until the realm answers; False where this JDK is not for it."""
        imports = self.home / "data" / "import"
        imports.mkdir(parents=True, exist_ok=True)
        shutil.copy(FOLDER / "realm.json", imports)
        for part in ("lib", "conf", "providers", "themes"):
            if not (self.home / part).is_symlink():
                (self.home / part).symlink_to(self.installed / part)
        command = [str(self.installed / "bin" / "kc.sh"), *OPTIONS, "--http-port", str(self.port)]
        with (self.home / "output.txt").open("wb") as output:
            self.process = subprocess.Popen(
                [*command, f"-Dkc.home.dir={self.home}"],
                env={**os.environ, **ADMIN, "JAVA_HOME": str(self.jdk)},
                cwd=self.home,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for(self._answers_or_ended, "Keycloak to start", START_SECONDS)
        return self.process.poll() is None

    def _answers_or_ended(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        with contextlib.suppress(httpx2.HTTPError), self.http() as http:
            return http.get(f"{self.url}/.well-known/openid-configuration").status_code == 200
        return False

    def signal(self, number: int) -> None:
        """Send a signal to it and its children (SIGSTOP: it hangs; SIGCONT: it goes on)."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def hang(self) -> None:
        """Have it accept connections and answer nothing, until SIGCONT.

        One thread takes SIGSTOP and has the others stop: on a busy machine these may go on for a while.
        """
        assert self.process is not None
        self.signal(signal.SIGSTOP)
        group = self.process.pid
        wait_for(lambda: _states(group) == {"T"}, "Keycloak to stop")

    def stop(self) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            self.process.wait(30)

    def http(self) -> httpx2.Client:
        """A client for it."""
        return httpx2.Client(transport=httpx2.HTTPTransport(verify=NO_TLS), timeout=60)

    def answer(self, client: str, **form: str) -> httpx2.Response:
        """Ask its token endpoint, as a client of realm.json; public ones have no secret."""
        form |= {"client_id": client}
        if client not in ("portal", "laptop-agent"):
            form |= {"client_secret": f"{client}-secret"}
        with self.http() as http:
            return http.post(f"{self.url}/protocol/openid-connect/token", data=form)

    def token(self, client: str, **form: str) -> str:
        """An access token of it."""
        answer = self.answer(client, **form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def token_of(self, user: str, client: str, scope: str = "tickets.read tickets.write") -> str:
        """The access token a user's sign-in at `client` gives (by password: there is no browser here)."""
        asked = {"username": user, "password": f"{user}-password", "scope": scope}
        return self.token(client, grant_type="password", **asked)

    def administer(self, method: str, path: str, json: Any = None, realm: str = "/acme") -> Any:
        """One request to the admin API, below a realm."""
        name, password = ADMIN.values()
        form = {"grant_type": "password", "client_id": "admin-cli"}
        form |= {"username": name, "password": password}
        with self.http() as http:
            token = http.post(f"{self.root}/realms/master/protocol/openid-connect/token", data=form)
            headers = {"Authorization": f"Bearer {token.json()['access_token']}"}
            url = f"{self.root}/admin/realms{realm}{path}"
            answer = http.request(method, url, json=json, headers=headers)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def rotate_keys(self) -> None:
        """Make a new RS256 key and sign with it from now on; the old ones stay published."""
        self.rotations += 1
        component = {
            "name": f"rotated-{self.rotations}",
            "providerId": "rsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider",
            "parentId": self.administer("GET", "")["id"],
            "config": {"priority": [str(1000 + self.rotations)]},
        }
        self.administer("POST", "/components", component)


@contextlib.contextmanager
def keycloak(folder: Path) -> Iterator[Keycloak]:
    """A running Keycloak on the newest JDK that it accepts."""
    installed = distribution()
    assert installed is not None
    for number, jdk in enumerate(jdks()):
        home = folder / f"home-{number}"
        home.mkdir()
        running = Keycloak(installed, jdk, home)
        try:
            if running.start():
                yield running
                return
        finally:
            running.stop()
    raise AssertionError(f"Keycloak started on none of {jdks()}")


def _states(group: int) -> set[str]:
    """The states of all threads of a process group (proc_pid_stat(5))."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it ended meanwhile
        if int(its_group) == group:
            found.add(state)
    return found
