"""The log of a run and redaction: a key reaches no file and no handler, in whatever way it is logged."""

from __future__ import annotations

import io
import json
import logging
import os
import string
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote, quote_plus

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from graft.agents.gateway.limiter import Limiter
from graft.agents.gateway.sending import log_pause
from graft.flows import logs
from graft.schemas.errors import CallFailed, NotFound
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec
from graft.schemas.redaction import HIDDEN, redact, redact_fields, secret_values

SECRET = "k3y/with+odd \"chars\" & é\\ü-1234"  # fmt: skip


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    with mock.patch.dict(os.environ, variables):
        yield


def lines(home: Home, run: str = "r1") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home.runs / run / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@contextmanager
def other_handler(name: str = "") -> Iterator[io.StringIO]:
    """A handler such as Prefect's, on another logger."""
    shown = io.StringIO()
    handler = logging.StreamHandler(shown)
    logging.getLogger(name).addHandler(handler)
    try:
        yield shown
    finally:
        logging.getLogger(name).removeHandler(handler)


FORMS = {
    "raw": lambda key: key,
    "percent": lambda key: quote(key, safe=""),
    "path": lambda key: quote(key),
    "form": quote_plus,
    "lower percent": lambda key: quote(key, safe="").lower() if key.islower() else quote(key, safe=""),
    "twice percent": lambda key: quote(quote(key, safe=""), safe=""),
    "json": json.dumps,
    "json unicode": lambda key: json.dumps(key, ensure_ascii=False),
    "json in json": lambda key: json.dumps(json.dumps({"k": key})),
    "orjson": lambda key: orjson.dumps(key).decode(),
    "repr": repr,
    "ascii": ascii,
    "bytes": lambda key: repr(key.encode()),
    "repr of json": lambda key: repr(json.dumps([key])),
    "json with slashes": lambda key: json.dumps(key).replace("/", "\\/"),
}
"""Ways in which libraries write a value."""

keys = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=8, max_size=24).filter(
    lambda key: key.strip() == key and key not in HIDDEN
)


def bare(key: str, how: str) -> str:
    """The part of a form that would reveal the key: the form without its quotes."""
    return FORMS[how](key).strip("\"'")


@given(key=keys, how=st.sampled_from(sorted(FORMS)), before=st.text(max_size=20), after=st.text(max_size=20))
@example(key=SECRET, how="json in json", before="", after="")
@example(key="abc def/ghi", how="form", before="", after="")
def test_a_key_is_found_however_it_is_written(key: str, how: str, before: str, after: str) -> None:
    with environment(ODD_API_KEY=key):
        text = redact(f"{before} {FORMS[how](key)} {after}")
    assert key not in text.replace(before, "").replace(after, "") or key in before + after
    assert HIDDEN in text
    with environment(ODD_API_KEY=key):
        assert redact(text) == text


def test_a_variable_that_a_recipe_names_is_secret_whatever_it_is_called() -> None:
    with environment(MY_VAR="plain-value-77", OTHER="plain-value-78"):
        assert redact("plain-value-77 plain-value-78", ["MY_VAR"]) == f"{HIDDEN} plain-value-78"
        assert redact("plain-value-77") == "plain-value-77"


def test_short_values_and_the_working_folder_are_no_secrets() -> None:
    with environment(A_TOKEN="1", PWD="/work/here", B_PASSWORD=""):
        assert not {"1", "/work/here", ""} & set(secret_values())


def test_a_header_variable_hides_its_values() -> None:
    with environment(OTEL_EXPORTER_OTLP_HEADERS="x-team=abcd1234,x-other=efgh5678"):
        assert redact("sent abcd1234 and efgh5678") == f"sent {HIDDEN} and {HIDDEN}"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Authorization: Bearer abc.def-123456", "abc.def-123456"),
        ("Bearer%20abcdef123456", "abcdef123456"),
        ("wrong key sk-proj-aaaabbbbccccdddd given", "sk-proj"),
        ("postgresql://user:pa55word@host/db", "pa55word"),
        ('{"api_key": "zzzz9999"}', "zzzz9999"),
        ("GET /v1/models?key=zzzz9999&x=1", "zzzz9999"),
        ("hf_abcdefghijkl1234", "abcdefghijkl"),
        ("AIzaSyA1234567890abcd", "1234567890"),
        ("Authorization: Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    ],
)
def test_what_has_a_keys_shape_is_hidden(text: str, left: str) -> None:
    assert left not in redact(text)
    assert HIDDEN in redact(text)


@pytest.mark.parametrize(
    "text",
    ["120 rows of shop-assistant, 3 rejected: too_long", "http://127.0.0.1:8000/v1", "risk-assessment-of-returns-desk",
     "prompt_tokens=1200 cached_tokens=800", "set OPENAI_API_KEY and run again", "round 1: writing and reviewing"],
)  # fmt: skip
def test_ordinary_lines_stay_as_they_are(text: str) -> None:
    assert redact(text) == text


def test_fields_are_hidden_by_name_and_inside() -> None:
    fields = {"api_key": "x", "api_key_env": "MY_KEY", "prompt_tokens": 12, "nested": {"password": "y", "n": [1, None]},
              "headers": {"a": "b"}, "Authorization": "Basic q", "usd": 0.5, "ok": True}  # fmt: skip
    assert redact_fields(fields) == {
        "api_key": HIDDEN, "api_key_env": "MY_KEY", "prompt_tokens": 12, "nested": {"password": HIDDEN, "n": [1, None]},
        "headers": HIDDEN, "Authorization": HIDDEN, "usd": 0.5, "ok": True,
    }  # fmt: skip
    with environment(PIN_SECRET="12345678"):
        assert redact_fields({"n": 12345678, "name 12345678": 1}) == {"n": HIDDEN, f"name {HIDDEN}": 1}


def test_a_run_leaves_its_events_as_json_lines(home: Home) -> None:
    with logs.run_log(home, "r1") as file:
        logs.started("shop", "gra", target=100, again=False)
        logs.shard_ended("0", "target", opened=40, accepted=25, seconds=1.23456)
        log_pause(ModelSpec(name="gemma", provider="embedded", model="gemma-3-270m"), Limiter())
        logs.stopped_early("out_of_reach", opened=20, accepted=0, target=100)
        logs.published("shop", 3, rows=100, price_usd=None)
        logging.getLogger("graft.data.seeds").info("%d repeated seeds were merged", 3)
    assert file == home.runs / "r1" / "log.jsonl"
    found = lines(home)
    events = ["run.started", "shard.ended", "endpoint.paused", "run.stopped_early", "run.published", None]
    assert [line.get("event") for line in found] == events
    assert all(line["run"] == "r1" and line["time"].endswith("+00:00") for line in found)
    assert found[1] | {"opened": 40, "accepted": 25, "seconds": 1.235, "why": "target"} == found[1]
    assert found[5]["logger"] == "graft.data.seeds" and found[5]["message"] == "3 repeated seeds were merged"
    assert [line["level"] for line in found[:4]] == ["info", "info", "warning", "warning"]


def test_an_exception_leaves_class_code_and_frames_but_no_server_text(home: Home) -> None:
    with logs.run_log(home, "r1"):
        for error in (CallFailed("malformed", "the server said: unusual words"), NotFound("no such dataset"),
                      ValueError("input_value='unusual words'")):  # fmt: skip
            try:
                raise error
            except (CallFailed, NotFound, ValueError) as caught:
                logs.failed(caught)
    assert "unusual words" not in (home.runs / "r1" / "log.jsonl").read_text()
    call, person, value = (line["exception"] for line in lines(home))
    assert (call["class"], call["code"]) == ("CallFailed", "malformed")
    assert person["text"] == "no such dataset"
    assert "text" not in value and value["frames"][0].startswith("test_flows_logs.py:")


def test_loggers_are_left_as_they_were_and_info_does_not_reach_the_root(home: Home) -> None:
    def state() -> list[Any]:
        loggers = [logging.getLogger(name) for name in ("", "graft")]
        return [(one.level, one.propagate, list(one.handlers), [list(h.filters) for h in one.handlers])
                for one in loggers]  # fmt: skip

    before = state()
    with other_handler() as shown:
        with logs.run_log(home, "r1"), logs.run_log(home, "r2"):
            logging.getLogger("graft.agents.roles").info("only in the file")
            logging.getLogger("graft.agents.roles").warning("seen by everybody")
        assert shown.getvalue() == "seen by everybody\n"
    assert state() == before
    assert not (home.runs / "r1" / "log.jsonl").read_text(), "a record belongs to the run that it was logged in"
    assert len(lines(home, "r2")) == 2


def test_other_handlers_see_no_key_either(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prefect")
    import prefect.logging.configuration  # noqa: F401

    # another test may have had Prefect set up its loggers: saying errors only, and to a server
    for field, value in {"level": logging.INFO, "handlers": [], "_cache": {}}.items():
        monkeypatch.setattr(logging.getLogger("prefect.flow_runs"), field, value)
    with environment(SHOP_API_KEY=SECRET), other_handler("prefect.flow_runs") as flow, other_handler() as root:
        with logs.run_log(home, "r1"):
            for name in ("prefect.flow_runs", "graft", "somebody.else"):
                log = logging.getLogger(name)
                log.warning("using %s of %r", SECRET, {"k": SECRET})
                try:
                    raise ValueError(f"refused {SECRET}")
                except ValueError:
                    log.exception("failed", extra={"sent": [SECRET]})
        text = flow.getvalue() + root.getvalue()
    assert text.count("using (redacted) of {'k': '(redacted)'}") >= 3
    assert "ValueError: refused (redacted)" in text
    assert SECRET not in text and "k3y" not in text


class Awkward:
    """An object whose text is the key."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __str__(self) -> str:
        return f"<{self.key}>"

    __repr__ = __str__


def log_it(how: str, form: str) -> None:
    """Log a key in one of the ways that code does."""
    log = logging.getLogger("graft.agents.gateway.some")
    match how:
        case "message":
            log.warning(form)
        case "argument":
            log.info("asked with %s of %d", form, 3)
        case "repr argument":
            log.warning("asked with %r", (form, {"a": form}))
        case "object":
            log.warning("asked with %s", Awkward(form))
        case "split":
            middle = len(form) // 2
            log.warning("%s%s", form[:middle], form[middle:])
        case "wrong arguments":
            log.warning("%d rows", form)
        case "named":
            log.warning("%(it)s", {"it": form})
        case "extra":
            log.warning("asked", extra={"it": form, "deep": {"list": [Awkward(form), (form,)]}, form: 1})
        case "stack":
            log.warning("asked %s", form, stack_info=True)
        case "exception":
            try:
                try:
                    raise NotFound(form, where=form, fix=form)
                except NotFound as error:
                    raise OSError(5, form) from error
            except OSError as error:
                error.add_note(form)
                log.exception("failed: %s", error)


HOWS = ("message", "argument", "repr argument", "object", "split", "wrong arguments", "named", "extra", "stack",
        "exception")  # fmt: skip


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=keys, form=st.sampled_from(sorted(FORMS)), how=st.sampled_from(HOWS))
@example(key=SECRET, form="raw", how="extra")
@example(key=SECRET, form="raw", how="exception")
def test_no_key_reaches_the_file_or_another_handler(tmp_path: Path, key: str, form: str, how: str) -> None:
    home = Home(tmp_path)
    (home.runs / "r1" / "log.jsonl").unlink(missing_ok=True)
    with environment(SHOP_API_KEY=key), other_handler() as shown, logs.run_log(home, "r1"):
        log_it(how, FORMS[form](key))
        other = shown.getvalue()
    text = (home.runs / "r1" / "log.jsonl").read_text()
    result = json.dumps([{k: v for k, v in line.items() if k not in ("time",)} for line in lines(home)],
                      ensure_ascii=False)  # fmt: skip
    assert len(lines(home)) == 1
    for place in (text, result, other):
        assert key not in place
        assert bare(key, form) not in place
        assert json.dumps(key)[1:-1] not in place


def test_a_log_that_cannot_be_opened_does_not_stop_the_run(home: Home) -> None:
    home.runs.mkdir()
    (home.runs / "r1").write_text("a file where the folder should be")
    done = []
    with other_handler() as shown, logs.run_log(home, "r1"):
        logs.started("shop", "gra", target=1, again=False)
        done.append(1)
    assert done and "this run has no log" in shown.getvalue()


def test_a_full_disk_costs_lines_only_and_prints_none(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with environment(SHOP_API_KEY=SECRET), logs.run_log(home, "r1"):
        handler = next(one for one in logging.getLogger("graft").handlers if isinstance(one, logs._Lines))
        with mock.patch.object(handler, "stream") as out:
            out.write.side_effect = full
            out.tell.return_value = 0
            for _ in range(3):
                logging.getLogger("graft").info("using %s", SECRET)
    shown = capsys.readouterr().err
    assert shown.count("incomplete (OSError)") == 1 and "k3y" not in shown


def test_the_file_is_capped(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LARGEST", 2000)
    with logs.run_log(home, "r1"):
        for place in range(200):
            logs.shard_ended(str(place), "target", opened=1, accepted=1, seconds=0.1)
    files = sorted(file.name for file in (home.runs / "r1").iterdir())
    assert files == ["log.jsonl", "log.jsonl.1"]
    assert all(file.stat().st_size <= 2000 for file in (home.runs / "r1").iterdir())
    assert lines(home)[-1]["shard"] == "199"


def test_redaction_is_quick() -> None:
    names = {f"K{n}_API_KEY": "".join(string.ascii_letters[(n * 7 + i) % 52] for i in range(40)) for n in range(10)}
    with environment(**names):
        redact("warm")
        since = time.thread_time()
        for _ in range(100):
            redact("round 1: writing and reviewing, 120 rows of shop-assistant accepted so far " * 2)
    assert (time.thread_time() - since) / 100 < 0.005
