"""What a look at a gateway found: one line each, and the exit code they come to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Literal

FAILED, BAD_CONFIG, UNREACHABLE, LOG_BAD = 1, 3, 5, 6
_GRAVEST_FIRST = (BAD_CONFIG, LOG_BAD, FAILED, UNREACHABLE)


@dataclass(frozen=True, slots=True)
class Finding:
    """`check` says what was looked at, `name` which of them, `what` what was found, `why` it matters and
    `fix` what to do. `code` is the exit code that an error asks for."""

    level: Literal["ok", "warning", "error"]
    check: str
    name: str
    what: str
    why: str = ""
    fix: str = ""
    code: int = 0

    def __str__(self) -> str:
        """The one line for people."""
        about = f"{self.check} {self.name}".strip()
        because = f": {self.why}" if self.why else ""
        mend = f" (fix: {self.fix})" if self.fix else ""
        return f"{self.level:7}  {about}: {self.what}{because}{mend}"

    def to_json(self) -> dict[str, object]:
        """The same for programs."""
        return asdict(self)


def fine(check: str, what: str, name: str = "") -> Finding:
    """All is well with it."""
    return Finding("ok", check, name, what)


def warn(check: str, what: str, why: str, fix: str, name: str = "") -> Finding:
    """It works, and somebody should know."""
    return Finding("warning", check, name, what, why, fix)


def wrong(check: str, what: str, why: str, fix: str, name: str = "", code: int = FAILED) -> Finding:
    """It does not work."""
    return Finding("error", check, name, what, why, fix, code)


def exit_code(findings: Collection[Finding]) -> int:
    """0 where nothing is wrong, else the code of the gravest: configuration, log, other, unreachable."""
    codes = {finding.code for finding in findings}
    return next((code for code in _GRAVEST_FIRST if code in codes), 0)
