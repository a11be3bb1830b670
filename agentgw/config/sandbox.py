"""How a stdio tool server is shut in: `servers.*.sandbox`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from agentgw.config.values import FilePath, Section, Text

KINDS = ("none", "bwrap", "landlock", "uid")


def _name(value: Any) -> Any:
    return str(value) if type(value) is int else value


class Sandbox(Section):
    """What a stdio server may see of this machine."""

    kind: Literal["none", "bwrap", "landlock", "uid"] = Field(
        default="none",
        description="`none`: whatever the gateway's own user may; `bwrap`: shut in by bubblewrap, which must "
        "be installed; `landlock`: shut in by the kernel itself (Linux 6.2); `uid`: run as another user.",
    )
    user: Annotated[Text, BeforeValidator(_name)] | None = Field(
        default=None, description="For `uid`: the name or number of that user."
    )
    network: bool = Field(
        default=False,
        description="Whether it may use the network; `none` and `uid` cannot keep it from that, and say so.",
    )
    read: tuple[FilePath, ...] = Field(
        default=(),
        description="What it may read of what `bwrap` and `landlock` hide from it: the home folder, /run, "
        "/tmp and the gateway's own files.",
    )
    write: tuple[FilePath, ...] = Field(
        default=(), description="Where it may write besides its own working folder."
    )

    @property
    def closes_files(self) -> bool:
        """Whether `read`, `write` and `network` mean something: the others leave those to the machine."""
        return self.kind in ("bwrap", "landlock")

    @model_validator(mode="before")
    @classmethod
    def _say_what_is_open(cls, data: Any) -> Any:
        """Where nothing keeps it from the network, `config show` must not look as if something did."""
        if isinstance(data, dict) and data.get("kind", "none") in ("none", "uid"):
            return {"network": True, **data}
        return data

    @model_validator(mode="after")
    def _agree(self) -> Sandbox:
        if (self.kind == "uid") != (self.user is not None):
            raise ValueError("should have user with kind uid, and only there")
        if self.closes_files:
            return self
        if self.read or self.write:
            raise ValueError(f"is {self.kind}, which neither hides files nor keeps from writing")
        if not self.network:
            raise ValueError(f"is {self.kind}, which cannot keep a server from the network")
        return self


def _word(value: Any) -> Any:
    """The kind alone where the whole may stand."""
    return {"kind": value} if isinstance(value, str) else value


SandboxOrKind = Annotated[
    Sandbox,
    BeforeValidator(_word),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": ["none", "bwrap", "landlock"]},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "kind": {"type": "string", "enum": list(KINDS)},
                        "user": {"type": ["string", "integer"]},
                        "network": {"type": "boolean"},
                        "read": {"type": "array", "items": {"type": "string"}},
                        "write": {"type": "array", "items": {"type": "string"}},
                    },
                },
            ]
        }
    ),
]
"""A word, or a section."""
