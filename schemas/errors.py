"""Errors that a user can act on, each with its exit code. The command line prints only these."""

from __future__ import annotations

import errno
from dataclasses import dataclass

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Error numbers of a full disk or an exceeded quota."""


class GraftError(Exception):
    """An error that a user can act on.

    Args:
        what: What is wrong.
        where: The file, field, row or service that is affected.
        fix: What to do.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  fix: {self.fix}" if self.fix else head

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: a notebook shows the message in place of a traceback."""
        return [f"error: {self}"]


@dataclass(frozen=True)
class Problem:
    """A problem in a file: its place (file, line, field), what is wrong, and the fix."""

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
    """A recipe or a data file cannot be used; carries all problems, not only the first."""

    exit_code = 2

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        noun = "problem" if len(problems) == 1 else "problems"
        super().__init__(f"{len(problems)} {noun}\n" + "\n".join(f"  {p}" for p in problems))

    def __reduce__(self) -> tuple[type[InputInvalid], tuple[list[Problem]]]:
        return (type(self), (self.problems,))


class ModelUnreachable(GraftError):
    """A model's endpoint did not answer, or refused the request (401, 403, 404)."""

    exit_code = 3


class NoPrefill(ModelUnreachable):
    """A model's server cannot continue a prefilled assistant turn, and no alternative is configured."""


class KeyMissing(GraftError):
    """The environment variable for a key is not set. Names the variable, never a value."""

    exit_code = 3


class MissingExtra(GraftError):
    """An optional library that this command needs is not installed; names the extra that installs it."""

    exit_code = 4


class AlreadyRunning(GraftError):
    """The same run is active in another process."""

    exit_code = 5


class LakeTooNew(GraftError):
    """The lake was written by a later version of Graft."""

    exit_code = 6


class YieldTooLow(GraftError):
    """The run stopped early because nearly nothing is accepted. Shows the yield and raw examples."""

    exit_code = 7


class JudgesDisagree(YieldTooLow):
    """The run stopped early because its reviewers agree less than chance. Shows the figure and three candidates."""


class NotFound(GraftError):
    """The dataset, version, row, run or student does not exist; lists the existing ones."""

    exit_code = 8


class StorageFull(GraftError):
    """No space is left on the disk; committed data is safe, and a rerun continues."""

    exit_code = 9


class Interrupted(GraftError):
    """A person stopped the run (Ctrl-C). Finished work is committed."""

    exit_code = 130


def by_ctrl_c(error: RuntimeError) -> bool:
    """Return True if a signal's KeyboardInterrupt hit a query of DuckDB, which raises a RuntimeError in its place."""
    return isinstance(error.__cause__, KeyboardInterrupt)


class CallFailed(GraftError):
    """A model call ended without a usable reply after all retries. `raw` is the reply, for the record."""

    def __init__(self, code: str, what: str, *, where: str = "", raw: str = "") -> None:
        self.code, self.raw = code, raw
        super().__init__(what, where=where)

    def __reduce__(self) -> tuple[object, ...]:
        return (_call_failed, (type(self), self.code, self.what, self.where, self.raw))


class TextCut(CallFailed):
    """A written text ends where the model was cut off, by its token limit or by its schema. `raw` is the text."""

    def __init__(self, what: str, *, where: str = "", code: str = "cut", raw: str = "") -> None:
        super().__init__(code, what, where=where, raw=raw)


class BudgetExhausted(CallFailed):
    """The cap on money or tokens does not allow another call. Nothing was sent."""

    def __init__(self, what: str, *, where: str = "", code: str = "budget", raw: str = "") -> None:
        super().__init__(code, what, where=where, raw=raw)


def _call_failed(kind: type[CallFailed], code: str, what: str, where: str, raw: str) -> CallFailed:
    return kind(code=code, what=what, where=where, raw=raw)
