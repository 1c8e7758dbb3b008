"""The run's page in a real browser: its buttons start, stop, resume and extend the run of a recipe."""

from __future__ import annotations

from pathlib import Path

import httpx
from axe_playwright_python.sync_playwright import Axe
from browsing import COOKIES, serving, visiting
from fake_llm import Serving
from playwright.sync_api import Browser
from test_dashboard_preview import known
from test_flows_make_dataset import write_recipe


def test_a_run_is_stopped_resumed_and_extended_on_its_page(browser: Browser, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Serving(median_ms=900) as llm, serving(home) as address, visiting(browser) as (page, wrong):
        recipe = write_recipe(tmp_path, llm.url, rows=60)
        known(home, recipe)
        page.goto(f"{address}/preview")
        page.get_by_label("recipe").select_option(str(recipe))
        page.get_by_role("button", name="run", exact=True).click()
        page.get_by_role("button", name="Stop").wait_for(timeout=30_000)
        page.locator("#latest tbody tr").first.wait_for(timeout=30_000)
        assert "of 120 rows accepted" in page.locator("#live").inner_text()
        page.get_by_role("button", name="Stop").click()
        page.get_by_role("alert").wait_for(timeout=12_000)
        assert "stopped by" in page.locator("#live").inner_text()
        page.screenshot(path=tmp_path / "stopped.png", full_page=True)
        httpx.post(f"{llm.url.removesuffix('/v1')}/behave", json={"median_ms": 1})
        page.get_by_role("button", name="Resume").click()
        page.get_by_role("button", name="Run again with more rows").wait_for(timeout=40_000)
        assert page.get_by_role("alert").count() == 0
        page.get_by_text("Recipe", exact=True).click()
        assert "rows_per_label: 60" in page.locator("details").last.inner_text()
        for width, scheme in ((1280, "light"), (390, "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = Axe().run(page, options={"resultTypes": ["violations"]})
            assert found.violations_count == 0, found.generate_report()
            page.screenshot(path=tmp_path / f"run-{width}.png", full_page=True)
        page.get_by_label("more rows").fill("4")
        page.get_by_role("button", name="Run again with more rows").click()
        page.get_by_text("shop@2").first.wait_for(timeout=40_000)
        assert wrong == []


def test_only_listed_recipes_and_sound_numbers_start_a_run(empty: str) -> None:
    for path, form in (("start", {"recipe": "/etc/passwd"}), ("x/more", {"more": "-1"}), ("x/stop", {})):
        answer = httpx.post(f"{empty}/runs/{path}", data=form, cookies=COOKIES, headers={"origin": empty})
        assert answer.status_code in (400, 404), answer.text
    answer = httpx.post(f"{empty}/runs/start", data={"recipe": "demo"}, cookies=COOKIES,
                        headers={"origin": "http://evil.example"})  # fmt: skip
    assert answer.status_code == 403
