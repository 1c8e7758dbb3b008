"""What can go wrong, each with what to do about it. The command line prints these; nothing else is meant for people."""

from __future__ import annotations

import errno
from dataclasses import dataclass

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system says of a disk that is full, or over its quota."""


class GraftError(Exception):
    """An error that a person can act on: what was wrong, where, and the fix."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  fix: {self.fix}" if self.fix else head


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a file: where (file, line, field), what, and the fix."""

    file: str
    line: int | None
    field: str
    what: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        field = f" {self.field}:" if self.field else ""
        return f"{place}:{field} {self.what}" + (f"\n    fix: {self.fix}" if self.fix else "")


class InputInvalid(GraftError):
    """A recipe or a data file that cannot be used; carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"{len(problems)} {noun}\n" + "\n".join(f"  {p}" for p in problems))

    def __reduce__(self) -> tuple[type[InputInvalid], tuple[list[Problem]]]:
        return (type(self), (self.problems,))


class ModelUnreachable(GraftError):
    """A model's endpoint did not answer, or answered that it will not serve us (401, 403, 404)."""

    exit_code = 3


class NoPrefill(ModelUnreachable):
    """A model's server cannot continue a begun assistant turn, and no other way to send one is known."""


class KeyMissing(GraftError):
    """The environment variable that should hold a key is not set. Names the variable, never a value."""

    exit_code = 3


class MissingExtra(GraftError):
    """A heavy library that this verb needs is not installed; names the extra that brings it."""

    exit_code = 4


class AlreadyRunning(GraftError):
    """The same run is going on in another process."""

    exit_code = 5


class LakeTooNew(GraftError):
    """The lake was written by a later Graft than this one."""

    exit_code = 6


class YieldTooLow(GraftError):
    """Nearly nothing is accepted: the run stopped early. Shows the yield and raw examples."""

    exit_code = 7


class NotFound(GraftError):
    """No such dataset, version, row, run or student; lists what there is."""

    exit_code = 8


class StorageFull(GraftError):
    """No space left where Graft writes; what was committed is safe and a rerun continues."""

    exit_code = 9


class Interrupted(GraftError):
    """A person stopped the run (Ctrl-C). What had finished is committed."""

    exit_code = 130


class CallFailed(GraftError):
    """One model call ended without a usable reply, after every retry. `raw` is what came back, for the record."""

    def __init__(self, code: str, what: str, *, where: str = "", raw: str = "") -> None:
        self.code, self.raw = code, raw
        super().__init__(what, where=where)

    def __reduce__(self) -> tuple[object, ...]:
        return (_call_failed, (type(self), self.code, self.what, self.where, self.raw))


class BudgetExhausted(CallFailed):
    """The money or token cap leaves no room for another call. Nothing was sent."""

    def __init__(self, what: str, *, where: str = "", code: str = "budget", raw: str = "") -> None:
        super().__init__(code, what, where=where, raw=raw)


def _call_failed(kind: type[CallFailed], code: str, what: str, where: str, raw: str) -> CallFailed:
    return kind(code=code, what=what, where=where, raw=raw)
