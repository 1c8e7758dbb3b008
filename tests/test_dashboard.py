"""The pages in a real browser: every one, wide and narrow, light and dark, on a full lake and on an empty one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import AT, RECIPE, SECRET, broken_words, candidate, fill, serving, visiting
from playwright.sync_api import Browser

from graft.data.delete import delete
from graft.data.lake import Lake
from graft.data.versions import version
from graft.schemas.datasets import Run
from graft.schemas.home import Home

PATHS = (
    "/",
    "/runs",
    "/runs/run1",
    "/datasets",
    "/datasets/shop@2",
    "/datasets/shop@2/quality",
    "/datasets/shop@2/reviews",
    "/datasets/shop@2/changes",
    "/datasets/shop@2/map",
    "/rows",
    "/rows?ref=shop@1&rejected=1",
    "/rows/c_row00000",
    "/datasets/shop@2/people",
    "/review?rule=random",
    "/students",
    "/students/st_shop2?with=st_seeds",
    "/models?days=",
    "/schedules",
    "/preview",
    "/new",
)
MENU = (
    "/",
    "/new",
    "/preview",
    "/runs",
    "/datasets",
    "/rows",
    "/review",
    "/students",
    "/models",
    "/schedules",
    "/settings",
)

SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest.mark.parametrize("width", [1440, 390])
def test_every_page_is_sound_and_accessible(browser: Browser, full: str, empty: str, width: int) -> None:
    with visiting(browser, width) as (page, wrong):
        for address, paths in ((full, PATHS), (empty, MENU)):
            for path in paths:
                answer = page.goto(address + path)
                assert answer is not None and answer.status == 200, path
                for scheme in SCHEMES if width > 400 else SCHEMES[:1]:  # colours do not depend on the width
                    page.emulate_media(color_scheme=scheme)
                    found = Axe().run(page, options={"resultTypes": ["violations"]})
                    assert found.violations_count == 0, f"{path}, {scheme}: {found.generate_report()}"
                assert page.evaluate("document.documentElement.scrollWidth") <= width, path
                assert broken_words(page) == [], path
                assert page.title() not in ("1", ""), path
        assert wrong == []


def test_what_models_say_is_shown_as_text(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/rows/c_row00000")
        shown = page.locator("blockquote").first.inner_text()
        assert '<img src=x onerror="document.title=1">' in shown and "<script>alert(1)</script>" in shown
        assert "\u202e" not in shown and "⟨U+202E⟩" in shown
        page.goto(f"{full}/datasets/shop@2")
        assert page.locator(".card img, .card a, .card script").count() == 0
        assert page.locator(".card table td").first.inner_text().startswith("<img src=x")
        assert wrong == []


def test_a_restricted_row_is_hidden_until_requested_each_time(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/rows?label=delivery&sort=longest")
        assert SECRET not in page.content()
        page.goto(f"{full}/rows?words=restricted+row+says")
        assert "0 rows" in page.content()
        page.goto(f"{full}/rows/c_row00007")
        assert SECRET not in page.content()
        page.get_by_role("link", name="show it once").click()
        assert SECRET in page.locator("blockquote").first.inner_text()
        page.goto(f"{full}/rows/c_row00007")
        assert SECRET not in page.content() and wrong == []


def test_filter_pages_and_history(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/rows?ref=shop@2")
        assert "120 rows, page 1 of 3" in page.content()
        page.get_by_role("link", name="next").first.click()
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
        assert page.request.get(f"{full}/runs?csv=runs").text().splitlines()[1].startswith("run1,shop,,finished")


def test_the_quality_page_shows_the_figures_of_the_command_line(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/datasets/shop@2/quality")
        page.get_by_role("heading", name="Drift").wait_for(timeout=30_000)
        report = page.request.get(f"{full}/datasets/shop@2/quality?format=json").json()
        assert report["rows"] == 120 and report["restricted_rows"] == 1
        words = page.locator(".facts div", has_text=re.compile(r"^different words")).locator("dd").inner_text()
        assert words == f"{report['wording']['vocabulary']:,}"
        taken = page.request.get(f"{full}/datasets/shop@2/quality?format=html")
        assert (
            taken.ok and "<script" not in taken.text() and SECRET not in taken.text() + page.content() and wrong == []
        )


def test_errors_say_what_to_do(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, _):
        for path in ("/runs/none", "/datasets/none@1", "/rows/c_none00", "/nothing"):
            answer = page.goto(full + path)
            assert answer is not None and answer.status == 404, path
            assert page.locator(".notice p").count() >= 2 and "Traceback" not in page.content()


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


def dashboard(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`graft dashboard` where it is to end by itself."""
    command = [sys.executable, "-m", "graft", "dashboard", "--no-open", "--port", "0", *words]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRAFT_DASHBOARD")}
    return subprocess.run(
        command, env={**environment, "GRAFT_HOME": str(home)}, capture_output=True, text=True, timeout=60, check=False
    )


def test_who_may_ask(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, GRAFT_DASHBOARD_PASSWORD="pass-word") as address:
        with visiting(browser) as (page, _):
            assert page.request.get(address).status == 401
            assert page.request.get(address, headers={"Host": "evil.example"}).status == 400
        with visiting(browser, http_credentials={"username": "me", "password": "pass-word"}) as (page, wrong):
            answer = page.goto(address)
            assert answer is not None and answer.status == 200 and wrong == []
    refused = dashboard(tmp_path, "--host", "0.0.0.0")
    assert refused.returncode == 1 and "GRAFT_DASHBOARD_PASSWORD" in refused.stderr


def test_a_proxys_header_names_the_person(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, GRAFT_DASHBOARD_USER_HEADER="X-Forwarded-User") as address:
        with visiting(browser) as (page, _):
            answer = page.request.get(address)
            assert answer.status == 401 and "X-Forwarded-User" in answer.text()
        with visiting(browser, extra_http_headers={"X-Forwarded-User": "ada@example.org"}) as (page, wrong):
            page.goto(address)
            assert page.locator(".where").inner_text() == "ada@example.org" and wrong == []


def test_a_lake_of_a_newer_graft_is_refused_in_words(tmp_path: Path) -> None:
    with Lake.open(Home(tmp_path)) as lake:
        lake.write(
            lambda connection: connection.execute("UPDATE lake.meta SET value = '99' WHERE key = 'schema_version'")
        )
    refused = dashboard(tmp_path)
    assert refused.returncode == 6 and "schema version 99" in refused.stderr and "Traceback" not in refused.stderr


def test_a_version_that_is_deleted_while_its_page_is_open(browser: Browser, tmp_path: Path) -> None:
    fill(Home(tmp_path))
    with serving(tmp_path) as address, visiting(browser) as (page, _):
        page.goto(f"{address}/datasets/shop@1")
        with Lake.open(Home(tmp_path)) as lake:
            delete(lake, version(lake, "shop@1"), by="me")
        for path in ("/datasets/shop@1", "/datasets/shop@1/quality", "/rows?ref=shop@1", "/review?ref=shop@1"):
            answer = page.goto(address + path)
            assert answer is not None and answer.status == 404, path
            assert "deleted" in page.locator(".notice").inner_text(), path
        answer = page.goto(address)
        assert answer is not None and answer.status == 200 and "shop@2" in page.content()
