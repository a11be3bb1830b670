"""Who may do what: the rows of the `grants` section."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from agentgw.config.issuers import Evidence
from agentgw.config.values import Section, Text


def _pattern(value: str) -> str:
    server, slash, name = value.partition("/")
    if not (server and slash and name):
        raise ValueError("should be server/name, where * stands for any characters: tickets/read_*")
    return value


Pattern = Annotated[str, StringConstraints(max_length=1024), AfterValidator(_pattern)]
Patterns = Annotated[tuple[Pattern, ...], Field(min_length=1)]
Names = Annotated[tuple[Text, ...], Field(min_length=1)]


class Grant(Section):
    """One row. Without `agents` it is a right of the users, without `users` one of the agents."""

    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")] = Field(
        default="", description="The row's name in records; default g1, g2, ... by position."
    )
    users: Names | None = Field(
        default=None,
        description="Users (`alias|sub`), groups (`alias:group:name`), and agents that act for "
        "themselves (`agent:name`), whom `*` includes only where the row denies.",
    )
    agents: Names | None = Field(default=None, description="Names of agents.")
    tools: Patterns | None = Field(default=None, description="Tools, as server/name patterns.")
    resources: Patterns | None = Field(
        default=None, description="Resources, as server/uri patterns."
    )
    prompts: Patterns | None = Field(default=None, description="Prompts, as server/name patterns.")
    methods: Patterns | None = Field(
        default=None, description="Other JSON-RPC methods, as server/method patterns."
    )
    when: Annotated[str, StringConstraints(min_length=1, max_length=2048)] | None = Field(
        default=None, description="A CEL condition over args, token, chain and now."
    )
    deny: bool = Field(default=False, description="Whether the row forbids; such rows win.")
    min_evidence: Evidence | None = Field(
        default=None,
        description="The weakest evidence of the agents this row is satisfied with: client-claim, act-claim, "
        "client-auth, exchange or mtls; others are not available in this version.",
    )

    account_of: Text | None = Field(
        default=None,
        description="The user (`alias|sub`) whose connected account (`auth: {mode: oauth}`) the row's agents "
        "may use while they act for themselves; its users are then `agent:NAME` only.",
    )

    def entry(self) -> dict[str, Any]:
        """The row as `agentgw.core.grant_syntax.parse_row` takes it: what was named, lists as lists."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self
            if value is not None and key != "id"
        }

    @model_validator(mode="before")
    @classmethod
    def _refuse_empty(cls, data: Any) -> Any:
        # A null where names were meant would silently widen the row to everybody.
        if isinstance(data, dict):
            for key, value in data.items():
                if value is None and key in cls.model_fields:
                    raise ValueError(f"{key} is empty; leave it out or name something")
        return data

    @model_validator(mode="after")
    def _names_something(self) -> Grant:
        if self.users is None and self.agents is None and not self.deny:
            raise ValueError("should name users or agents")
        if self.deny and self.min_evidence is not None:
            raise ValueError(
                "denies, where min_evidence has no meaning; put it in the allowing row"
            )
        if not (self.tools or self.resources or self.prompts or self.methods):
            raise ValueError("should name tools, resources, prompts or methods")
        return self
