"""How a configured grant is written, and its reading into a row of the table.

Whatever could never mean what its writer hoped is refused here, at load.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from agentgw.core.grants import KINDS, Condition, Pattern, Row, Users
from agentgw.core.principal import EVIDENCE, Subject

_AGENT = re.compile(r"agent:([a-z0-9][a-z0-9_-]{0,63})")
"""An agent that acts for itself, where a user may be named."""


def parse_pattern(text: str) -> Pattern:
    """Parse `server/name`, split at the first `/`; the name may hold more of them (methods, URIs).

    Raises ValueError where a half is missing.
    """
    server, slash, name = text.partition("/")
    if not (server and slash and name):
        raise ValueError(
            f"the pattern {text!r} is no pair: write server/name, such as tickets/read_*"
        )
    return Pattern(tuple(server.split("*")), tuple(name.split("*")))


def parse_users(entries: Collection[str], aliases: Collection[str], plain: bool) -> Users:
    """Sort entries into `alias|sub`, `alias:group:NAME`, `agent:NAME`, `*` and plain subs.

    `aliases` are the configured issuers and `plain` says whether one of them is `subject: plain`; only
    then may an entry begin with no alias, and it is a plain sub then, whatever it looks like. Raises
    ValueError for an entry that could match nobody, since in a deny row that would let everybody pass.
    """
    pairs, bare, groups, agents = set(), set(), set(), set()
    for entry in entries:
        alias, bar, sub = entry.partition("|")
        group_alias, colon, group = entry.partition(":group:")
        if bar and sub and alias in aliases:
            pairs.add((alias, sub))
        elif colon and group and group_alias in aliases:
            groups.add(entry)
        elif agent := _AGENT.fullmatch(entry):
            agents.add(agent[1])
        elif plain and entry and entry != "*":
            bare.add(entry)
        elif entry != "*":
            raise ValueError(
                f"the user {entry!r} begins with no configured issuer: write alias|sub or "
                f"alias:group:NAME with one of {', '.join(sorted(aliases)) or 'the issuers'}"
            )
    sets = (frozenset(pairs), frozenset(bare), frozenset(groups))
    return Users(*sets, anyone="*" in entries, agents=frozenset(agents))


def parse_row(
    row_id: str,
    entry: Mapping[str, Any],
    aliases: Collection[str],
    plain: bool,
    compile_condition: Callable[[str], Condition],
) -> Row:
    """Turn one configured grant into a row.

    `entry` may hold the members users, agents, tools, resources, prompts, methods (lists of strings),
    when (source text), deny (bool), min_evidence and account_of; absent and None are the
    same. For `aliases` and `plain` see `parse_users`. Raises ValueError, naming the row, for one that could
    never mean what its writer hoped.
    """
    try:
        return _parse_row(row_id, entry, aliases, plain, compile_condition)
    except ValueError as error:
        raise ValueError(f"grant {row_id}: {error}") from None


def _parse_row(
    row_id: str,
    entry: Mapping[str, Any],
    aliases: Collection[str],
    plain: bool,
    compile_condition: Callable[[str], Condition],
) -> Row:
    known = {"users", "agents", *KINDS, "when", "deny", "min_evidence", "account_of"}
    if unknown := sorted(set(entry) - known):
        raise ValueError(
            f"{unknown[0]!r} is no member of a grant; there are {', '.join(sorted(known))}"
        )
    for member in ("users", "agents", *KINDS):
        if entry.get(member) == []:
            raise ValueError(f"{member} is empty: leave it out or name something")
    users, agents = entry.get("users"), entry.get("agents")
    patterns = {
        kind: tuple(parse_pattern(text) for text in entry[kind])
        for kind in KINDS
        if entry.get(kind)
    }
    deny, evidence = bool(entry.get("deny")), entry.get("min_evidence")
    if not patterns:
        raise ValueError("it names no target: add tools, resources, prompts or methods")
    if users is None and agents is None and not deny:
        raise ValueError("it names nobody: add users, agents or both")
    if evidence is not None and evidence not in EVIDENCE:
        raise ValueError(f"min_evidence must be one of {', '.join(EVIDENCE)}")
    if evidence is not None and deny:
        raise ValueError("min_evidence has no meaning in a deny row: put it in the allow row")
    when = entry.get("when")
    named = None if users is None else parse_users(users, aliases, plain)
    account_of = parse_account_of(entry.get("account_of"), named, deny, aliases)
    if named is not None and named.anyone and deny:
        # Whoever forbids something to all means those without a user too; a right is never so given.
        named = replace(named, any_agent=True)
    return Row(
        id=row_id,
        users=named,
        agents=None if agents is None else frozenset(agents),
        patterns=patterns,
        when=None if when is None else compile_condition(when),
        deny=deny,
        min_evidence=evidence,
        account_of=account_of,
    )


def parse_account_of(
    text: str | None, users: Users | None, deny: bool, aliases: Collection[str]
) -> Subject | None:
    """The user of `alias|sub`, in a row that lets agents act for themselves and nobody else.

    Raises ValueError.
    """
    if text is None:
        return None
    if deny or users is None or users != Users(agents=users.agents) or not users.agents:
        raise ValueError(
            "account_of belongs in a row that allows, whose users are agents acting for themselves only: "
            "users: [agent:NAME]"
        )
    alias, bar, sub = text.partition("|")
    if not (bar and sub and alias in aliases):
        raise ValueError(f"account_of {text!r} is no alias|sub of a configured issuer")
    return Subject(alias, sub, text)
