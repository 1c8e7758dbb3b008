"""A newcomer's evening in a real browser on real models: from a file to a student in use, on pages alone.

With GRAFT_PICTURES=FOLDER each step leaves a picture there, of which the strip in the README is made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browsing import serving, visiting
from playwright.sync_api import Browser, Page, expect

from graft.flows.background import end, works
from graft.schemas.home import Home

GOOD = ("thank you: the {0} came early", "I love my new {0}", "your staff helped me with the {0} at once",
        "the {0} is even better than in the picture")  # fmt: skip
BAD = ("the {0} arrived broken", "I have waited three weeks for my {0}", "nobody answers my mails about the {0}",
       "you sent me the wrong {0} again")  # fmt: skip
THINGS = ("lamp", "kettle")
REVIEWS = "text,label\n" + "".join(
    f"{text.format(thing)},{label}\n" for thing in THINGS for texts, label in ((GOOD, "praise"), (BAD, "complaint"))
    for text in texts
)  # fmt: skip
SLOW = 400_000
"""Milliseconds to wait for models on a busy machine."""


@contextmanager
def ended(home: Home) -> Iterator[None]:
    """Work of pages goes on when a page is closed: none is left when the test fails."""
    try:
        yield
    finally:
        for verb in ("preview", "run", "train", "export-student"):
            for one in works(home, verb):
                end(home, one.work.id, "test")


def pictured(page: Page, name: str) -> None:
    if folder := os.environ.get("GRAFT_PICTURES"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def described(page: Page, address: str) -> None:
    page.goto(f"{address}/")
    page.get_by_role("link", name="New", exact=True).click()
    file: Any = {"name": "shop.csv", "mimeType": "text/csv", "buffer": REVIEWS.encode()}
    page.set_input_files("#file", file)
    page.get_by_text("16 rows, texts in 'text'").wait_for()
    page.get_by_label("meaning of complaint").fill("something went wrong, or the customer is unhappy")
    page.get_by_label("meaning of praise").fill("the customer is happy with an article or the staff")
    page.get_by_label("a text is …").fill("a short message that a customer writes to an online shop")
    page.get_by_label("accepted rows of each label").fill("3")
    page.get_by_label("accepted rows of each label").press("Enter")
    expect(page.locator("#yaml")).to_have_value(re.compile(r"rows_per_label: 3 "))
    expect(page.get_by_text("The recipe is valid.")).to_be_visible()
    text = page.locator("#yaml").input_value()
    quicker = {"calibration_texts: 16": "calibration_texts: 4 ", "student:\n": "student:\n  epochs: 2\n"}
    for before, after in quicker.items():
        text = text.replace(before, after)
    page.locator("#yaml").fill(text)
    pictured(page, "1-new")


def stopped_and_resumed(page: Page) -> None:
    """The run is stopped once it has made calls, and resumed: the dataset's version is published."""
    page.get_by_role("button", name="run it").click()
    page.wait_for_url("**/runs/shop-*", timeout=SLOW)
    page.get_by_role("button", name="Stop").click(timeout=SLOW)
    page.get_by_role("button", name="Resume").click(timeout=SLOW)
    page.wait_for_url("**/runs/shop-*", timeout=SLOW)
    page.get_by_role("link", name="shop@1").first.wait_for(timeout=SLOW)
    pictured(page, "3-run")
    page.get_by_role("link", name="shop@1").first.click()


def test_from_a_file_to_a_student_in_use_on_pages_alone(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path) as address, visiting(browser, 1280) as (page, wrong), ended(Home(tmp_path)):
        described(page, address)
        page.get_by_role("button", name="preview 5").click()
        page.get_by_role("heading", name="Candidates").wait_for(timeout=SLOW)
        pictured(page, "2-preview")
        stopped_and_resumed(page)
        pictured(page, "4-dataset")
        page.goto(f"{address}/review?ref=shop@1&rule=random")
        page.get_by_role("button", name=re.compile("^accept")).click()
        page.get_by_text("recorded: accept").wait_for()
        pictured(page, "5-review")
        page.goto(f"{address}/students")
        page.get_by_role("button", name="train").click()
        page.locator("a[href^='/students/st_']").first.wait_for(timeout=SLOW)
        page.goto(f"{address}/students?dataset=shop")
        page.locator("a[href^='/students/st_']").first.click()
        page.get_by_label("text", exact=True).fill("my new lamp is broken and nobody answers")
        page.get_by_role("button", name="label it").click()
        page.locator("#answer").wait_for(timeout=SLOW)
        pictured(page, "6-student")
        page.get_by_role("button", name="export as ONNX").click()
        page.locator("#live .finished").wait_for(timeout=SLOW)
        assert list(tmp_path.glob("exports/**/*.onnx"))
        assert wrong == []
