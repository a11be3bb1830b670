"""A SoftHSM token of the test's own, with key pairs in it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
PIN = "pin-of-a-test-7301"


@dataclass(frozen=True)
class SoftHsm:
    """A token labelled `token`; a process that uses it needs `env`."""

    folder: Path
    token: str
    module: Path

    @property
    def env(self) -> dict[str, str]:
        return {"SOFTHSM2_CONF": str(self.folder / "softhsm2.conf")}

    def make(self, alg: str, label: str) -> None:
        """A key pair for `alg`, in a process of its own: a process loads a module only once."""
        script = (
            "import sys, pkcs11, pkcs11.util.ec as ec\n"
            "module, token, pin, alg, label = sys.argv[1:]\n"
            "with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as s:\n"
            "    if alg == 'RS256':\n"
            "        s.generate_keypair(pkcs11.KeyType.RSA, 3072, label=label, store=True)\n"
            "    else:\n"
            "        curve = {pkcs11.Attribute.EC_PARAMS: ec.encode_named_curve_parameters(\n"
            "            'secp256r1' if alg == 'ES256' else 'secp384r1')}\n"
            "        made = s.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)\n"
            "        made.generate_keypair(label=label, store=True)\n"
        )
        subprocess.run(
            [sys.executable, "-c", script, str(self.module), self.token, PIN, alg, label],
            check=True,
            env={**os.environ, **self.env},
            timeout=60,
        )


@contextmanager
def softhsm(folder: Path, token: str = "agentgw") -> Iterator[SoftHsm]:
    """A fresh token; SOFTHSM2_CONF names it for as long as this lasts."""
    module = next(Path(path) for path in MODULES if Path(path).exists())
    made = SoftHsm(folder, token, module)
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(
        f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    subprocess.run(
        [
            "softhsm2-util",
            "--init-token",
            "--free",
            "--label",
            token,
            "--so-pin",
            "5678",
            "--pin",
            PIN,
        ],
        check=True,
        capture_output=True,
        env={**os.environ, **made.env},
    )
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ.update(made.env)
    try:
        yield made
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
