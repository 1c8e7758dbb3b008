"""The log of one run: JSON lines in `<home>/runs/<run>/log.jsonl`, with secrets redacted.

Counts and codes are logged, never the text of a row, prompt or reply. An exception is logged with its class, code and
place; its text only if it was written for people (GraftError, except a failed call) or by the system (OSError).
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from traceback import extract_tb, format_exception
from typing import Any

from graft.schemas.errors import CallFailed, GraftError
from graft.schemas.home import Home
from graft.schemas.redaction import redact, redact_fields

SHARED = ("", "prefect", "prefect.extra", "prefect.flow_runs", "prefect.task_runs", "prefect.workers")
"""Loggers of others whose handlers show Graft's records; the first is the root."""

LARGEST = 16 * 2**20
"""Maximum bytes of a log file; the previous file is kept as log.jsonl.1."""

FRAMES = 12
"""Number of innermost frames logged for an exception."""

BROKEN = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""Errors of formatting an argument; a log line never ends a run."""

LOG = logging.getLogger("graft")
"""The parent of all loggers of Graft, which are named by module."""
_RUN: ContextVar[str | None] = ContextVar("graft_run", default=None)
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_lock = threading.Lock()
_kept: tuple[int, bool, logging.Handler] | None = None
_open = 0


class Redacting(logging.Filter):
    """Redacts secrets in a record before its handler runs: message with arguments, exception, extra fields.

    `keys` are the names of environment variables that hold keys, whatever they are called.
    """

    def __init__(self, keys: Iterable[str] = ()) -> None:
        super().__init__()
        self._keys = tuple(keys)

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record in place; always returns true."""
        text = _message(record)
        clean = redact(text, self._keys)
        if clean != text or _broken(record):
            record.msg, record.args = clean, None
        if record.exc_info and record.exc_info[1] is not None:
            text = record.exc_text or "".join(format_exception(record.exc_info[1])).rstrip()
            clean = redact(text, self._keys)
            if clean != text:
                record.exc_info, record.exc_text = None, clean
        elif record.exc_text:
            record.exc_text = redact(record.exc_text, self._keys)
        if record.stack_info:
            record.stack_info = redact(record.stack_info, self._keys)
        extra = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if extra:
            vars(record).update(_fields(extra, self._keys, keep=True))
        return True


class _Lines(RotatingFileHandler):
    """Writes the records of one run. A full disk costs log lines, never the run."""

    def __init__(self, file: Path, run_id: str, keys: tuple[str, ...]) -> None:
        super().__init__(file, maxBytes=LARGEST, backupCount=1, encoding="utf-8", errors="backslashreplace")
        self._run_id, self._keys, self._warned = run_id, keys, False
        self.setLevel(logging.INFO)

    def filter(self, record: logging.LogRecord) -> bool:
        """Accept this run's records and those of threads outside any run."""
        return _RUN.get() in (None, self._run_id)

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one JSON object without secrets."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(_message(record), self._keys),
            "run": self._run_id,
        }
        extra = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        for name, value in _fields(extra, self._keys).items():
            line.setdefault(name, value)
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = redact_fields(_exception(record.exc_info[1]), self._keys)
        return json.dumps(line, default=str)

    def handleError(self, record: logging.LogRecord) -> None:
        """Report once that a line was lost, without the line."""
        if not self._warned:
            self._warned = True
            error = sys.exc_info()[0]
            print(f"graft: the run's log is incomplete ({error.__name__ if error else 'error'})", file=sys.stderr)


class _Onward(logging.Handler):
    """Forwards records to the root's handlers, as without a run's log.

    Where nobody set up logging, Python prints records on stderr: an error's traceback is not, as the error is raised.
    """

    def emit(self, record: logging.LogRecord) -> None:
        root = logging.getLogger()
        if root.handlers or record.exc_info is None:
            root.callHandlers(record)


@contextmanager
def run_log(home: Home, run_id: str, keys: Iterable[str | None] = ()) -> Iterator[Path]:
    """Write all records of Graft's loggers, from INFO on, to the run's log.jsonl while the block runs; yields the path.

    `keys` are the recipe's `api_key_env` names. Handlers of other loggers (Prefect's, the root's) redact meanwhile.
    Several runs may be open at once. If the file can't be opened, a warning is logged and the run goes on.
    """
    names, file = tuple(name for name in keys if name), home.run(run_id) / "log.jsonl"
    handler: _Lines | None = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler = _Lines(file, run_id, names)
    except OSError as error:
        LOG.warning("this run has no log: %s", error.strerror)
    undo = redact_handlers(names)
    _attach(handler)
    token = _RUN.set(run_id)
    try:
        yield file
    finally:
        _RUN.reset(token)
        _detach(handler)
        for shared, added in undo:
            shared.removeFilter(added)
        if handler is not None:
            handler.close()


def redact_handlers(keys: Iterable[str] = ()) -> list[tuple[logging.Handler, logging.Filter]]:
    """Put the redacting filter on every handler of the root, Prefect's and Graft's loggers; returns what was added.

    For a process that runs shards without a run's log (Dask): call it once, after Prefect has set up its logging.
    """
    added: list[tuple[logging.Handler, logging.Filter]] = []
    handlers = {handler for name in (*SHARED, LOG.name) for handler in logging.getLogger(name).handlers}
    if logging.lastResort is not None:
        handlers.add(logging.lastResort)
    for handler in handlers:
        if not isinstance(handler, _Lines | _Onward):
            redacting = Redacting(keys)
            handler.addFilter(redacting)
            added.append((handler, redacting))
    return added


def started(dataset: str, method: str, target: int, again: bool) -> None:
    """Log that a run begins or resumes (`again`). `target` in rows."""
    _event("run.started", "the run begins", dataset=dataset, method=method, target=target, again=again)


def shard_ended(shard: str, why: str, opened: int, accepted: int, seconds: float) -> None:
    """Log the end of a shard; `why` is its code, such as `target`."""
    text, seconds = f"a shard ended: {why}", round(seconds, 3)
    _event("shard.ended", text, shard=shard, why=why, opened=opened, accepted=accepted, seconds=seconds)


def stopped_early(why: str, opened: int, accepted: int, target: int) -> None:
    """Log that the run can't reach its target or met a cap; `why` is a code."""
    text, level = f"the run stops early: {why}", logging.WARNING
    _event("run.stopped_early", text, at=level, why=why, opened=opened, accepted=accepted, target=target)


def published(dataset: str, version: int | str, rows: int, price_usd: float | None) -> None:
    """Log a published version. `price_usd` None: unknown."""
    text = "a version is published"
    _event("run.published", text, dataset=dataset, version=version, rows=rows, price_usd=price_usd)


def failed(error: BaseException) -> None:
    """Log the error that ended the run: class, code, place, and traceback frames."""
    fields = {"error": type(error).__name__, "code": getattr(error, "code", None)}
    LOG.error("the run failed: %s", fields["error"], extra={"event": "run.failed", **fields}, exc_info=error)


def _event(event: str, text: str, /, *, at: int = logging.INFO, **fields: str | float | None) -> None:
    LOG.log(at, "%s", text, extra={"event": event, **fields})


def _attach(handler: logging.Handler | None) -> None:
    global _open, _kept
    with _lock:
        _open += 1
        if _kept is None:
            onward = _Onward(LOG.getEffectiveLevel())
            _kept = (LOG.level, LOG.propagate, onward)
            LOG.setLevel(min(logging.INFO, LOG.getEffectiveLevel()))
            if LOG.propagate:
                LOG.addHandler(onward)
                LOG.propagate = False
        if handler is not None:
            LOG.addHandler(handler)


def _detach(handler: logging.Handler | None) -> None:
    global _open, _kept
    with _lock:
        _open -= 1
        if handler is not None:
            LOG.removeHandler(handler)
        if not _open and _kept is not None:
            level, LOG.propagate, onward = _kept
            LOG.setLevel(level)
            LOG.removeHandler(onward)
            _kept = None


def _broken(record: logging.LogRecord) -> bool:
    try:
        record.getMessage()
    except BROKEN:
        return True
    return False


def _message(record: logging.LogRecord) -> str:
    """The record's text; without arguments if they do not fit it."""
    try:
        return record.getMessage()
    except BROKEN:
        return record.msg if isinstance(record.msg, str) else "(a message that cannot be written)"


def _fields(extra: dict[str, Any], keys: tuple[str, ...], keep: bool = False) -> dict[str, Any]:
    """The extra fields without secrets; with `keep` only changed fields, so that others keep their type."""
    clean: dict[str, Any] = {}
    for name, value in extra.items():
        try:
            found = redact_fields({name: value}, keys)
        except BROKEN:
            found = {name: "(cannot be written)"}
        if not keep:
            clean.update(found)
        elif found.get(name) != value and _differs(value, found.get(name)):
            clean[name] = found.get(name, "(redacted)")
    return clean


def _differs(value: object, clean: object) -> bool:
    """Return True if redaction removed something, beyond changing the value's type."""
    return "(redacted)" in json.dumps(clean, default=str) or isinstance(value, str)


def _exception(error: BaseException) -> dict[str, Any]:
    """An exception and its causes, as described in the module docstring."""
    found: dict[str, Any] = {"class": type(error).__name__}
    if isinstance(error, CallFailed):
        found["code"] = error.code
    elif isinstance(error, GraftError):
        found["text"] = str(error)
    elif isinstance(error, OSError):
        found["text"] = error.strerror
    frames = extract_tb(error.__traceback__)[-FRAMES:]
    found["frames"] = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    if isinstance(error, BaseExceptionGroup):
        found["inner"] = [_exception(inner) for inner in error.exceptions[:3]]
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and cause is not error:
        found["cause"] = type(cause).__name__
    return found
