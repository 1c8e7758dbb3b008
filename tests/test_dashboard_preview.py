"""The preview's page in a real browser: start, watch, read, stop, and an error that names its fix."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import AT, COOKIES, RECIPE, serving, visiting
from fake_llm import Serving
from playwright.sync_api import Browser, Page
from test_flows_make_dataset import write_recipe

from graft.data.lake import Lake
from graft.flows.background import begin, end, progress
from graft.schemas.datasets import Run
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home


def known(home: Path, *recipes: Path) -> None:
    """Runs of these recipes, so that the page may name their files."""
    with Lake.open(Home(home)) as lake:
        for place, file in enumerate(recipes):
            lake.save_run(
                Run(id=f"run{place}", dataset="shop", recipe=RECIPE, recipe_file=str(file), status="finished",
                    started_at=AT, code_version="1")
            )  # fmt: skip


def started(page: Page, address: str, recipe: Path, rows: int) -> None:
    page.goto(f"{address}/preview")
    page.get_by_label("recipe").select_option(str(recipe))
    page.get_by_role("textbox", name="rows").fill(str(rows))
    page.get_by_role("button", name="preview").click()


def test_a_preview_shows_rows_with_reviews_and_a_projection(browser: Browser, tmp_path: Path) -> None:
    with Serving() as llm, serving(tmp_path / "home") as address, visiting(browser) as (page, wrong):
        recipe = write_recipe(tmp_path, llm.url)
        known(tmp_path / "home", recipe)
        started(page, address, recipe, 4)
        page.get_by_role("heading", name="Candidates").wait_for(timeout=30_000)
        text = page.locator("#live").inner_text()
        assert "For 40 rows: about" in text and "accepted" in text and "reviewer" in text
        assert page.locator("#live blockquote").count() >= 4
        page.locator("details").first.click()
        assert "Write a new one" in page.locator("details blockquote").first.inner_text()
        assert "done" in page.get_by_role("region").last.inner_text()
        for width, scheme in ((1440, "light"), (390, "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = Axe().run(page, options={"resultTypes": ["violations"]})
            assert found.violations_count == 0, found.generate_report()
        page.screenshot(path=tmp_path / "preview.png", full_page=True)
        assert wrong == []


def test_a_preview_can_be_stopped_and_a_failed_one_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    with Serving(median_ms=20_000) as slow, serving(tmp_path / "home") as address, visiting(browser) as (page, wrong):
        folders = [tmp_path / name for name in ("slow", "away")]
        for folder in folders:
            folder.mkdir()
        held, away = write_recipe(folders[0], slow.url), write_recipe(folders[1], "http://127.0.0.1:9/v1")
        known(tmp_path / "home", held, away)
        started(page, address, held, 4)
        page.get_by_role("button", name="stop").wait_for()
        answer = httpx.post(f"{address}/preview/start", data={"recipe": str(away), "rows": "4"}, cookies=COOKIES,
                            headers={"origin": address})  # fmt: skip
        assert answer.status_code == 400 and "still running" in answer.text
        page.get_by_role("button", name="stop").click()
        page.get_by_text("stopped by").first.wait_for(timeout=20_000)
        assert page.get_by_role("button", name="stop").count() == 0
        started(page, address, away, 4)
        page.get_by_role("alert").wait_for(timeout=30_000)
        assert "fix:" in page.get_by_role("alert").inner_text() and wrong == []


def test_only_listed_recipes_and_sound_numbers_are_started(empty: str) -> None:
    for form in ({"recipe": "/etc/passwd", "rows": "5"}, {"recipe": "demo", "rows": "-1"}, {"recipe": "demo --set"}):
        answer = httpx.post(f"{empty}/preview/start", data=form, cookies=COOKIES, headers={"origin": empty})
        assert answer.status_code in (400, 404), answer.text


def test_work_is_found_by_its_id_alone(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for name in ("w_0", "../../x", "w_0123456789abcdef"):
        with pytest.raises(NotFound):
            progress(home, name)
    work = begin(home, "preview", ("no-such-recipe",), "ann")
    with pytest.raises(GraftError, match="still running"):
        begin(home, "preview", ("demo",), "bob")
    assert end(home, work.id, "bob").state in ("failed", "stopped")
