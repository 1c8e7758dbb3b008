"""Students in a real browser: try one, open its mistakes, compare two on the same texts, and free disk space."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import LABELS, fill, run_of, serving, visiting
from playwright.sync_api import Browser, Page
from tiny_encoder import write

from graft.data.lake import Lake
from graft.schemas.home import Home
from graft.schemas.students import StudentSettings
from graft.students.launch import train_classifier

ROWS = [("what does it cost", "price"), ("the cost is high", "price"), ("when will it come", "delivery"),
        ("it did not come", "delivery")]  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A lake with two students that have weights, and a training that nobody continued."""
    root = tmp_path_factory.mktemp("students")
    encoder = write(root / "encoder", [text for text, _ in ROWS])
    home = Home(root / "home")
    fill(home)
    (root / "test.csv").write_text("text,label\n" + "".join(f"held-out text {n},{LABELS[n % 2]}\n" for n in range(40)))
    with Lake.open(home) as lake:
        lake.save_run(run_of("shop", "run2").model_copy(update={"recipe_file": str(root / "recipe.yaml")}))
    settings = StudentSettings(encoder=str(encoder), epochs=8, learning_rate=5e-3, max_length=16)
    train_classifier(ROWS, LABELS, settings, root / "trained")
    for name in ("st_seeds", "st_shop2"):
        shutil.copytree(root / "trained", home.student(name), dirs_exist_ok=True)
    left = home.students / "st_left.partial"
    left.mkdir()
    (left / "checkpoint.pt").write_bytes(b"0" * 2000)
    for path in (left / "checkpoint.pt", left):
        os.utime(path, (time.time() - 200_000,) * 2)
    return home


@pytest.fixture(scope="module")
def address(home: Home) -> Iterator[str]:
    with serving(home.root) as address:
        yield address


def sound(page: Page) -> None:
    for width, scheme in ((1280, "light"), (390, "dark")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page, options={"resultTypes": ["violations"]})
        assert found.violations_count == 0, found.generate_report()
        if folder := os.environ.get("SHOTS"):
            name = page.title().split()[0] + f"-{width}.png"
            page.screenshot(path=Path(folder) / name, full_page=True)
    page.set_viewport_size({"width": 1280, "height": 900})


def test_a_student_is_tried_and_its_mistakes_are_opened(browser: Browser, address: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{address}/students/st_shop2")
        page.locator("textarea").fill("what is the cost")
        page.get_by_role("button", name="label it").click()
        page.locator("#answer").wait_for(timeout=30_000)
        assert page.locator("#table-tried tbody tr").count() == 2 and "cost" not in page.url
        page.locator("textarea").fill("did it come")
        began = time.monotonic()
        page.get_by_role("button", name="label it").click()
        page.wait_for_function("document.querySelector('textarea').value == 'did it come'")
        assert "delivery" in page.locator("#answer strong").inner_text() and time.monotonic() - began < 1.5
        page.locator(".matrix a").first.click()
        assert "true label" in page.locator("#mistakes + p").inner_text()
        assert page.get_by_role("region", name="mistakes").locator("tbody tr").count() == 5
        assert "held-out text 8" in page.get_by_role("region", name="mistakes").inner_text()
        sound(page)
        assert wrong == []


def test_two_students_are_compared_on_the_same_texts(browser: Browser, address: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{address}/students/compare?a=st_seeds&b=st_shop2")
        assert "McNemar" in page.locator("main").inner_text()
        page.get_by_label("texts, one per line").fill("what is the cost\n\nwhen does it come")
        page.get_by_role("button", name="compare").click()
        page.locator("#table-predictions").wait_for(timeout=30_000)
        assert page.locator("#table-predictions tbody tr").count() == 2
        sound(page)
        assert wrong == []


def test_settings_name_the_home_and_free_an_abandoned_checkpoint(browser: Browser, address: str, home: Home) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{address}/settings")
        text = page.locator("main").inner_text()
        assert f"{home.root}: GRAFT_HOME names it" in text and "st_left.partial" in text
        sound(page)
        page.locator("summary").click()
        page.get_by_role("button", name="delete them").click()
        page.get_by_text("2.0 kB freed").wait_for(timeout=30_000)
        assert not (home.students / "st_left.partial").exists() and home.student("st_shop2").is_dir()
        assert wrong == []
