"""The pages in a real browser: every one, wide and narrow, light and dark, on a full lake and on an empty one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from data.lake import Lake
from data.versions import publish
from schemas.calls import Call
from schemas.datasets import Row, Run
from schemas.home import Home
from schemas.rows import Candidate, Decision, GateResult, Review, Slot

AT = datetime(2026, 11, 25, tzinfo=UTC)
TRICK = (
    '<img src=x onerror="document.title=1"> [a](http://evil.example) **bold** =1+1 \u202etxt.exe '
    "<script>alert(1)</script>"
)
SECRET = "what a restricted row says"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
PATHS = (
    "/",
    "/runs",
    "/runs/run1",
    "/datasets/shop@2",
    "/datasets/shop@2/quality",
    "/rows",
    "/rows?ref=shop@1&rejected=1",
    "/rows/c_row00000",
)
MENU = ("/", "/runs", "/rows")
LABELS = ("price", "delivery")
RECIPE = {
    "task": {"kind": "classification", "labels": [{"name": name} for name in LABELS]},
    "target": {"rows_per_label": 80},
}


def candidate(number: int, accepted: bool = True) -> Candidate:
    label = LABELS[number % 2]
    text = {0: TRICK, 7: SECRET}.get(number, f"{number}: where is the price of article {number}?")
    slot = Slot(id=f"sl_{number}", run_id="run1", shard=0, round=0, index=number, label=label, seed=number)
    end: dict[str, Any] = (
        {"status": "accepted", "route": "agreed", "code": "accepted.agreed", "reason": "all agreed"}
        if accepted
        else {"status": "rejected", "route": "gate", "code": "gate.near_duplicate", "reason": "too near to another"}
    )
    review = Review(stage="content", role="reviewer", model="minilm", mean=8.5, comment=TRICK, call_key="k")
    gate = GateResult(gate="near_run", rule="passed" if accepted else "near_duplicate", passed=accepted, score=0.9)
    return Candidate(
        id=f"c_row{number:05}", slot=slot, text=text, label=label, intended_label=label, reviews=(review,),
        gates=(gate,), decision=Decision(**end, mean=8.5), models={"generator": "gemma"}, restricted=number == 7,
    )  # fmt: skip


def call(number: int) -> Call:
    return Call(
        key=f"key{number}", run_id="run1", candidate_id=f"c_row{number:05}", role="generator", purpose="text",
        model="gemma", provider="embedded", request="{}", reply=TRICK, prompt_tokens=50, completion_tokens=9,
        served_model=None, revision=None, cached_tokens=None, price_usd=0.001, latency_s=0.2 + number / 100,
        attempts=1, cached=False, at=AT.replace(minute=number % 60),
    )  # fmt: skip


def fill(home: Home) -> None:
    run = Run(
        id="run1", dataset="shop", recipe=RECIPE, status="finished", started_at=AT, code_version="1", calls=120,
        price_usd=0.12, seconds=60, counts={"opened": 160, "accepted": 120}, version=1, stopped_by="target",
    )  # fmt: skip
    rows = [
        Row(id=f"c_row{n:05}", text=candidate(n).text, label=LABELS[n % 2],
            split=("train", "train", "validation", "test")[n % 4], restricted=n == 7)
        for n in range(120)
    ]  # fmt: skip
    with Lake.open(home) as lake:
        lake.save_run(run)
        lake.commit("run1", "b1", [candidate(n, n < 120) for n in range(160)], [call(n) for n in range(120)])
        card = f"# shop\n\n| a | b |\n| --- | --- |\n| {TRICK} | 1 |"
        for some in (rows[:60], rows):
            publish(lake, run=run, rows=some, models={"gemma": "Gemma"}, seeds=2, card=card)  # fmt: skip


@contextmanager
def serving(home: Path, **environment: str) -> Iterator[str]:
    """`graft dashboard` as a person starts it; the address that it printed."""
    command = [sys.executable, "-c", "import graft; graft.main()", "dashboard", "--port", "0", "--no-open"]
    told = {**os.environ, "GRAFT_HOME": str(home), **environment}
    with subprocess.Popen(command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            yield found[0]
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing: make browser"
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("full")
    fill(Home(folder))
    with serving(folder) as address:
        yield address


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("empty")) as address:
        yield address


@contextmanager
def visiting(
    browser: Browser, width: int = 1440, scheme: Any = "light", **more: Any
) -> Iterator[tuple[Page, list[str]]]:
    """A page of its own, and what went wrong on it."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
    page = context.new_page()
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda asked: None if "127.0.0.1" in asked.url or asked.url.startswith("data:") else wrong.append(asked.url),
    )
    page.on("dialog", lambda shown: (wrong.append(shown.message), shown.dismiss()))
    yield page, wrong
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark"), (1440, "dark"), (390, "light")])
def test_every_page_is_sound_and_accessible(browser: Browser, full: str, empty: str, width: int, scheme: str) -> None:
    with visiting(browser, width, scheme) as (page, wrong):
        for address, paths in ((full, PATHS), (empty, MENU)):
            for path in paths:
                answer = page.goto(address + path)
                assert answer is not None and answer.status == 200, path
                found = Axe().run(page, options={"resultTypes": ["violations"]})
                assert found.violations_count == 0, f"{path}: {found.generate_report()}"
                assert page.evaluate("document.documentElement.scrollWidth") <= width, path
                assert page.title() not in ("1", ""), path
        assert wrong == []


def test_what_models_say_is_shown_as_text(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/rows/c_row00000")
        shown = page.locator("blockquote").inner_text()
        assert '<img src=x onerror="document.title=1">' in shown and "<script>alert(1)</script>" in shown
        assert "\u202e" not in shown and "⟨U+202E⟩" in shown
        page.goto(f"{full}/datasets/shop@2")
        assert page.locator(".card img, .card a, .card script").count() == 0
        assert page.locator(".card table td").first.inner_text().startswith("<img src=x")
        assert wrong == []


def test_a_restricted_row_is_hidden_until_asked_for_each_time(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/rows?label=delivery&sort=longest")
        assert SECRET not in page.content()
        page.goto(f"{full}/rows?words=restricted+row+says")
        assert "0 rows" in page.content()
        page.goto(f"{full}/rows/c_row00007")
        assert SECRET not in page.content()
        page.get_by_role("link", name="show it this once").click()
        assert SECRET in page.locator("blockquote").inner_text()
        page.goto(f"{full}/rows/c_row00007")
        assert SECRET not in page.content() and wrong == []


def test_filter_pages_and_history(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/rows?ref=shop@2")
        assert "120 rows, page 1 of 3" in page.content()
        page.get_by_role("link", name="next").click()
        assert "page 2 of 3" in page.content()
        page.goto(f"{full}/rows?ref=shop@2")
        page.get_by_label("words").fill("article 11")
        page.get_by_role("button", name="show").click()
        page.wait_for_url("**words=article+11**")
        texts = page.locator("table.texts tbody tr").all_inner_texts()
        assert len(texts) == 11 and all("article 11" in text for text in texts)
        page.locator("table.texts a").first.click()
        assert "Reviews" in page.content() and "minilm" in page.content()
        page.goto(f"{full}/runs/run1")
        page.get_by_role("link", name="gate.near_duplicate").click()
        assert "40 candidates" in page.content() and wrong == []


def test_tables_and_charts_can_be_taken_along(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, _):
        svg = page.request.get(f"{full}/charts/balance.svg?of=shop@2")
        assert svg.ok and "<svg" in svg.text() and "delivery" in svg.text()
        assert page.request.get(f"{full}/charts/calls.png?of=run1").body()[:4] == b"\x89PNG"
        table = page.request.get(f"{full}/rows?ref=shop@2&format=csv").text()
        assert table.startswith("id,text,") and SECRET not in table
        assert page.request.get(f"{full}/runs?format=csv").text().splitlines()[1].startswith("run1,shop,finished")


def test_the_quality_page_says_what_the_command_line_says(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/datasets/shop@2/quality")
        page.get_by_role("heading", name="Drift").wait_for(timeout=30_000)
        told = page.request.get(f"{full}/datasets/shop@2/quality?format=json").json()
        assert told["rows"] == 120 and told["restricted_rows"] == 1
        words = page.locator("tr", has_text=re.compile(r"^different words")).locator("td.n").inner_text()
        assert words == f"{told['wording']['vocabulary']:,}"
        taken = page.request.get(f"{full}/datasets/shop@2/quality?format=html")
        assert (
            taken.ok and "<script" not in taken.text() and SECRET not in taken.text() + page.content() and wrong == []
        )


def test_errors_say_what_to_do(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, _):
        for path in ("/runs/none", "/datasets/none@1", "/rows/c_none00", "/nothing"):
            answer = page.goto(full + path)
            assert answer is not None and answer.status == 404, path
            assert page.locator(".notice p").count() == 2 and "Traceback" not in page.content()


def test_a_running_run_renews_itself(browser: Browser, tmp_path: Path) -> None:
    home = Home(tmp_path)
    run = Run(id="run1", dataset="shop", recipe=RECIPE, status="running", started_at=AT, code_version="1")
    with Lake.open(home) as lake:
        lake.save_run(run)
        lake.commit("run1", "b1", [candidate(n) for n in range(10)], [])
        with serving(tmp_path) as address, visiting(browser) as (page, wrong):
            page.goto(f"{address}/runs/run1")
            assert page.locator("tr", has_text="opened").locator("td.n").inner_text() == "10"
            lake.commit("run1", "b2", [candidate(n) for n in range(10, 30)], [])
            page.locator("tr", has_text="opened").locator("td.n", has_text="30").wait_for(timeout=10_000)
            lake.save_run(run.model_copy(update={"status": "finished"}))
            page.locator(".status.finished").wait_for(timeout=10_000)
            assert wrong == []


def test_who_may_ask(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, GRAFT_DASHBOARD_PASSWORD="pass-word") as address:
        with visiting(browser) as (page, _):
            assert page.request.get(address).status == 401
            assert page.request.get(address, headers={"Host": "evil.example"}).status == 400
        with visiting(browser, http_credentials={"username": "me", "password": "pass-word"}) as (page, wrong):
            answer = page.goto(address)
            assert answer is not None and answer.status == 200 and wrong == []
    command = [sys.executable, "-c", "import graft; graft.main()", "dashboard", "--host", "0.0.0.0", "--no-open"]
    told = {key: value for key, value in os.environ.items() if key != "GRAFT_DASHBOARD_PASSWORD"}
    refused = subprocess.run(
        command, env={**told, "GRAFT_HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert refused.returncode == 1 and "GRAFT_DASHBOARD_PASSWORD" in refused.stderr
