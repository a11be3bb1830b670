"""The gateway's own keys: the `keys` section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from agentgw.config.values import Duration, FilePath, Section, Text


def _foreign(name: str) -> str:
    if name.upper().startswith("AGENTGW_"):
        raise ValueError("should not begin with AGENTGW_, as variables do that hold settings")
    return name


VariableName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), AfterValidator(_foreign)
]


class WrappingKey(Section):
    """Where 32 random bytes lie, in base64 or hex: one of `file`, `env` and `keyring`."""

    file: FilePath | None = Field(default=None, description="A file that others cannot read.")
    env: VariableName | None = Field(
        default=None,
        description="An environment variable; its name does not begin with AGENTGW_, as settings do.",
    )
    keyring: Text | None = Field(
        default=None,
        description="The user name of an entry of the service `agentgw` in the operating system's keyring; "
        "needs the extra `keyring`.",
    )

    @model_validator(mode="after")
    def _one(self) -> WrappingKey:
        if sum(place is not None for place in (self.file, self.env, self.keyring)) != 1:
            raise ValueError("should have exactly one of file, env and keyring")
        return self


class Wrap(WrappingKey):
    """The key that key files are sealed under: one of `file`, `env` and `keyring`."""

    previous: WrappingKey | None = Field(
        default=None,
        description="The one before it, which still opens files until all are sealed anew.",
    )


class Hsm(Section):
    """Token keys in a hardware security module, by PKCS#11; needs the extra `hsm`."""

    module: FilePath = Field(description="The PKCS#11 library of the device.")
    token: Text = Field(description="The label of the token in it.")
    pin: SecretStr = Field(
        description="The user's PIN; by reference, as ${file:...} or ${env:...}."
    )
    keys: Mapping[Literal["ES256", "RS256"], Annotated[tuple[Text, ...], Field(min_length=1)]] = (
        Field(
            min_length=1,
            description="Labels of key pairs by algorithm: the first signs, the others are published.",
        )
    )


class Keys(Section):
    """The keys that sign and seal."""

    rotate_every: Annotated[Duration, Field(ge=600)] | None = Field(
        default=None,
        description="How long a token key signs before the next takes over, such as 30d; at least 10m. "
        "Default: until `agentgw keys rotate`.",
    )
    wrap: Wrap | None = Field(
        default=None,
        description="Seals the key files under a key that lies elsewhere; plain ones at the next start.",
    )
    hsm: Hsm | None = Field(
        default=None, description="Token keys that never leave a device, which signs with them."
    )
