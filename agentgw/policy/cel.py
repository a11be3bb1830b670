"""Conditions of grants in CEL (Common Expression Language), compiled once when the table is loaded.

An expression sees four variables and is true or false; anything else is an error:

- `args`: the call's arguments; `has(args.x)` asks whether one is there,
- `token`: the verified claims of the caller's token,
- `chain`: the agents, the one calling first, each `{agent, id, evidence}`,
- `now`: a timestamp, so `now < timestamp('2027-01-01T00:00:00Z')` and `now.getHours()` (UTC) work.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentgw.core.grants import AccessRequest
from agentgw.errors import AgentgwError

if TYPE_CHECKING:
    import cel

MAX_SOURCE_BYTES = 2048
VARIABLES = frozenset({"args", "token", "chain", "now"})
FUNCTIONS = frozenset(
    {"size", "contains", "startsWith", "endsWith", "matches", "type", "dyn"}
    | {"int", "uint", "double", "string", "bytes", "timestamp", "duration"}
    | {"getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfYear", "getDayOfWeek"}
    | {"getHours", "getMinutes", "getSeconds", "getMilliseconds"}
)
_TYPES = frozenset({"bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type"})
_BOUND = re.compile(
    r"\.\s*(?:all|exists|exists_one|existsOne|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,"
)


class ConditionFailed(AgentgwError):
    """A condition could not be told: a member is missing, types differ, the result is no bool."""


class CelCondition:
    """One compiled expression. Immutable; may be shared by threads."""

    __slots__ = ("_program", "_variables", "over_arguments", "source")

    def __init__(self, source: str, program: cel.Program, variables: frozenset[str]) -> None:
        self.source = source
        self.over_arguments = "args" in variables
        self._program = program
        self._variables = variables

    def holds(self, request: AccessRequest) -> bool:
        """Evaluate for one request. Raises ConditionFailed, whose text holds no argument or claim."""
        try:
            result = self._program.execute(self._bind(request))
        except Exception as error:
            raise ConditionFailed(f"the condition failed: {type(error).__name__}") from None
        except BaseException as error:
            # A panic inside the native library arrives as an exception that is no Exception.
            if type(error).__name__ != "PanicException":
                raise
            raise ConditionFailed("the condition failed inside the CEL library") from None
        if result is True or result is False:
            return bool(result)
        raise ConditionFailed(f"the condition is a {type(result).__name__}, no bool")

    def _bind(self, request: AccessRequest) -> dict[str, Any]:
        """Only what the expression reads: conversion costs more than evaluation does."""
        values: dict[str, Any] = {}
        if "args" in self._variables and request.arguments is not None:
            values["args"] = dict(request.arguments)
        if "token" in self._variables:
            values["token"] = dict(request.caller.claims)
        if "chain" in self._variables:
            values["chain"] = [
                {"agent": hop.agent, "id": hop.id, "evidence": hop.evidence}
                for hop in request.caller.chain
            ]
        if "now" in self._variables:
            values["now"] = datetime.fromtimestamp(request.now, UTC)
        return values


def compile_condition(source: str) -> CelCondition:
    """Compile `source`. Raises ValueError, in one line, for what could never evaluate.

    Refused are syntax errors, names beside the four variables, functions the library lacks and
    anything over 2 KiB; types are known only when a call comes.
    """
    if len(source.encode("utf-8", "surrogatepass")) > MAX_SOURCE_BYTES:
        raise ValueError(
            f"when is longer than {MAX_SOURCE_BYTES} bytes: split it into several grants"
        )
    # It brings rich and prompt_toolkit along: 0.15 s and 30 MiB that a table without `when` can spare.
    import cel

    try:
        program = cel.compile(source)
    except Exception as error:
        detail = str(error).partition("ERROR: <input>:")[2] or str(error)
        raise ValueError(f"when is no CEL expression: {detail.splitlines()[0][:160]}") from None
    variables = frozenset(program.variables())
    if unknown := sorted(variables - VARIABLES - _TYPES - set(_BOUND.findall(source))):
        raise ValueError(
            f"when reads {unknown[0]!r}, but there are only {', '.join(sorted(VARIABLES))}"
        )
    called = {name for name in program.functions() if name[0] not in "_@!-"}
    if missing := sorted(called - FUNCTIONS):
        raise ValueError(f"when calls {missing[0]}(), which this CEL does not have")
    return CelCondition(source, program, variables)
