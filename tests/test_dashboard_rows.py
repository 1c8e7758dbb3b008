"""Rows, one row and the map, as a person uses them: filters, files, history, neighbours, and what stays hidden."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import LABELS, SECRET, TRICK, candidate, fill, serving, visiting
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from graft.dashboard.figures.filters import row_query, words
from graft.dashboard.figures.rows import Within, find
from graft.data.delete import delete
from graft.data.lake import Lake
from graft.data.versions import derive, held_by, version
from graft.schemas.home import Home
from graft.schemas.rows import GateResult, Seed
from graft.schemas.sections import HIDDEN

SEEDS = (Seed.of("my parcel never came, where is it?", "delivery"), Seed.of("how much is the lamp?", "price"))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    made = Home(tmp_path_factory.mktemp("shop"))
    fill(made)
    with Lake.open(made) as lake:
        lake.add_seeds("run1", SEEDS)
        held = held_by(lake, version(lake, "shop@2"))
        drop = GateResult(gate="length", rule="too_short", passed=False, detail="under 40 characters")
        derive(lake, version(lake, "shop@2"), held[:40] + held[41:], origin="gates", note="stricter",
               drops=[drop], dropped=[held[40][0].id])  # fmt: skip
        derive(lake, version(lake, "shop@2"), held[:70], origin="gates", note="to be deleted")
    return made


@pytest.fixture(scope="module")
def shop(home: Home) -> Iterator[str]:
    with serving(home.root) as address:
        yield address


def ids(page: Page) -> list[str]:
    return [str(link.get_attribute("href")).removeprefix("/rows/") for link in page.locator("table.listing a").all()]


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def see_map(page: Page, shop: str) -> None:
    """The map with its tables; embedded first, where no test did that before."""
    page.goto(f"{shop}/datasets/shop@2/map")
    if page.get_by_role("button", name="embed it now").count():
        page.get_by_role("button", name="embed it now").click()
    page.locator(".map circle").first.wait_for(timeout=60_000)  # without a reload by the person
    page.get_by_role("region", name="Near duplicates").wait_for(timeout=60_000)


def test_filters_become_chips_and_go_one_at_a_time(browser: Browser, shop: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{shop}/rows?ref=shop@2")
        page.get_by_label("words").fill('"price of article" 11 -110')
        page.get_by_role("button", name="show").click()
        page.wait_for_url("**words=**")
        assert page.locator(".counted").inner_text().startswith("10 rows")
        page.locator("[name=label]").select_option("price")  # a choice acts at once
        page.wait_for_url("**label=price**")
        assert ids(page) == [f"c_row{n:05}" for n in (112, 114, 116, 118)]
        page.get_by_text("more filters").click()
        page.get_by_label("reviewers' mean from").fill("9")
        page.get_by_role("button", name="show").click()
        page.get_by_text("No row matches").wait_for()
        assert page.get_by_label("reviewers' mean from").is_visible()  # what is in force is not folded away
        page.get_by_role("link", name="reviewers' mean from").click()
        page.get_by_role("link", name="words:").click()
        assert page.locator(".counted").inner_text().startswith("60 rows, page 1 of 2")
        page.locator("[name=sort]").select_option("shortest")
        page.wait_for_url("**sort=shortest**")
        lengths = [len(text) for text in page.locator("table.listing td:last-child").all_inner_texts()]
        assert lengths == sorted(lengths) and len(lengths) == 50
        page.get_by_role("link", name="next").first.click()
        page.wait_for_url("**page=1**")
        assert len(ids(page)) == 10 and "c_row00000" in ids(page)  # the longest one
        page.goto(f"{shop}/rows?ref=shop@2&page=900")
        page.get_by_role("link", name="go to the last page").click()
        assert len(ids(page)) == 20 and wrong == []


def test_an_invalid_filter_is_reported_and_ignored(browser: Browser, shop: str) -> None:
    with visiting(browser) as (page, wrong):
        answer = page.goto(f"{shop}/rows?ref=shop@2&words={'parcel+' * 1500}&mean_from=high&sort=best&restricted=maybe")
        assert answer is not None and answer.status == 200
        output = " ".join(page.locator(".notice.warn").all_inner_texts())
        for part in ("10,499 characters; at most 1,000", "needs a number", "'best'", "yes or no"):
            assert part in output
        assert page.locator(".counted").inner_text().startswith("120 rows") and page.locator(".chip").count() == 0
        page.goto(f"{shop}/rows?ref=shop@2&meaning={'x' * 5000}")
        assert "at most 1,000" in page.locator(".notice.warn").inner_text()
        for more in ("mean_from=nan", "words=" + "a+" * 30, "sort=text;--"):
            refused = page.request.get(f"{shop}/rows?ref=shop@2&format=csv&all=1&{more}")
            assert refused.status == 400 and "Traceback" not in refused.text()
        assert wrong == []


def test_rows_are_taken_along_without_secrets_and_formulas(browser: Browser, shop: str) -> None:
    with visiting(browser) as (page, _):
        first = page.request.get(f"{shop}/rows?ref=shop@2&format=csv&page=1").text()
        every = page.request.get(f"{shop}/rows?ref=shop@2&format=csv&all=1&sort=longest")
        assert every.headers["content-disposition"] == 'attachment; filename="rows-shop-2-all.csv"'
        rows = cells(every.text())
        assert len(cells(first)) == 50 and len(rows) == 120 and SECRET not in first + every.text()
        assert {row["text"] for row in rows if row["restricted"] == "true"} == {HIDDEN}
        assert rows[0]["id"] == "c_row00000" and rows[0]["text"] == TRICK
        few = cells(page.request.get(f"{shop}/rows?ref=shop@2&format=csv&all=1&words=%22article+9%22&mean_to=9").text())
        assert len(few) == 11 and {row["mean"] for row in few} == {"8.5"}


def test_what_was_rejected_is_found_by_its_rule(browser: Browser, shop: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{shop}/rows?ref=shop@2&rejected=1")
        assert page.locator(".counted").inner_text().startswith("40 candidates")
        page.locator("[name=gate]").select_option("near_run")
        page.wait_for_url("**gate=near_run**")
        assert page.locator(".counted").inner_text().startswith("40 candidates")
        page.goto(f"{shop}/rows?run=run1&rejected=1&code=gate.near_duplicate&label=price")
        assert page.locator(".counted").inner_text().startswith("20 candidates")
        page.locator("table.listing a").first.click()
        assert "too near to another" in page.content() and page.locator(".status.rejected").count() == 1
        assert page.locator("tr", has_text="near_run").locator(".bad").inner_text() == "near_duplicate"
        assert "not in it: rejected (gate.near_duplicate)" in page.content() and wrong == []


def test_a_row_shows_its_fate_and_exports_as_prov(browser: Browser, shop: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{shop}/rows/c_row00040")
        fate = [row.inner_text() for row in page.get_by_role("region", name="its fate").locator("tbody tr").all()]
        for value, facts in zip(
            ("held, in train", "held, in train", "dropped by length: too_short"), fate, strict=False
        ):
            assert value in facts
        document = json.loads(page.request.get(f"{shop}/rows/c_row00040/prov.json").text())
        assert any("c_row00040" in name for name in document["entity"])
        assert SECRET not in page.request.get(f"{shop}/rows/c_row00007/prov.json").text()
        assert SECRET in page.request.get(f"{shop}/rows/c_row00007/prov.json?show=1").text()
        page.get_by_role("link", name="review it").click()
        page.wait_for_url("**/review?ref=shop*row=c_row00040")
        assert wrong == []


def test_the_map_neighbours_and_search_by_meaning(browser: Browser, shop: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{shop}/rows?ref=shop@2&meaning=a+late+delivery")
        page.get_by_role("button", name="embed it now").click()  # by the real encoder, as nothing is embedded yet
        page.locator("table.listing").wait_for(timeout=60_000)
        cosines = [float(one) for one in page.locator("table.listing td.n").all_inner_texts()]
        assert cosines == sorted(cosines, reverse=True) and "119 rows, nearest in meaning" in page.content()
        page.goto(f"{shop}/rows?ref=shop@2&label=delivery&meaning={SECRET.replace(' ', '+')}")
        assert "59 rows of the 119 nearest" in page.content() and "c_row00007" not in ids(page)

        page.goto(f"{shop}/datasets/shop@2/map")
        assert page.locator(".map circle").count() == 120 and page.locator(".map .seed").count() == 2
        assert page.locator(".map [tabindex='0']").count() == 0  # points are no tab stops
        page.get_by_role("region", name="Near duplicates").wait_for(timeout=30_000)
        content = page.content()
        assert SECRET not in content and HIDDEN in content and "\u202e" not in content
        assert page.locator(".map a[href='/rows/c_row00000'] title").text_content() == "price: " + TRICK.replace(
            "\u202e", "⟨U+202E⟩"
        )
        point = page.locator(".map a[href='/rows/c_row00000'] circle")
        point.dispatch_event("click")
        page.locator("#brief blockquote").wait_for()
        assert "<script>alert(1)</script>" in page.locator("#brief blockquote").inner_text()
        assert page.locator("#brief img, #brief script").count() == 0 and page.url.endswith("/map")
        page.locator(".map a[href='/rows/c_row00007'] circle").dispatch_event("click")
        page.locator("#brief blockquote.restricted").wait_for()
        assert page.locator("#brief blockquote").inner_text() == HIDDEN and SECRET not in page.content()
        page.locator(f".map a[href='/rows/{SEEDS[0].id}'] path").dispatch_event("click")
        page.locator("#brief", has_text="my parcel never came").wait_for()
        assert page.locator("#brief .near li").count() == 4

        page.get_by_role("link", name="reviewers' mean").click()
        assert page.get_by_role("link", name="8 to 9 120").count() == 1
        page.get_by_role("link", name="seeds beside the rows").click()
        assert page.locator(".map svg").count() == 2 and page.locator(".map svg").first.locator("circle").count() == 0
        page.goto(f"{shop}/datasets/shop@2/map?only=price")
        assert page.locator(".map .faint").count() == 61
        page.get_by_role("region", name="Near duplicates").get_by_role("link").first.click()
        page.wait_for_url("**cluster=**")
        assert len(ids(page)) > 1 and page.locator(".chip").inner_text().startswith("near duplicates of")

        page.goto(f"{shop}/rows/c_row00003")
        near = page.get_by_role("region", name="nearest in meaning").locator("tbody tr")
        assert near.count() == 10 and near.locator(".unusual").count() > 0
        assert SECRET not in page.content() and wrong == []


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_an_embedded_version_is_accessible(browser: Browser, shop: str, width: int, scheme: str) -> None:
    with visiting(browser, width, scheme) as (page, wrong):
        see_map(page, shop)
        paths = ("/datasets/shop@2/map?beside=1", "/rows?ref=shop@2&words=article&mean_from=3", "/rows/c_row00003")
        for path in paths:
            page.goto(shop + path)
            found = Axe().run(page, options={"resultTypes": ["violations"]})
            assert found.violations_count == 0, f"{path}: {found.generate_report()}"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert wrong == []


def test_the_map_can_be_taken_along(browser: Browser, shop: str) -> None:
    with visiting(browser) as (page, _):
        see_map(page, shop)
        drawn = page.request.get(f"{shop}/charts/map.svg?of=shop@2&colour=kind").text()
        assert "seed" in drawn and SECRET not in drawn
        assert page.request.get(f"{shop}/charts/map.png?of=shop@2").body()[:4] == b"\x89PNG"
        assert page.request.get(f"{shop}/charts/map.png?of=shop@2&colour=mood").status == 400
        pairs = cells(page.request.get(f"{shop}/datasets/shop@2/map?csv=pairs").text())
        assert pairs and all(one["label"] != one["other_label"] for one in pairs) and SECRET not in str(pairs)


def test_a_version_deleted_while_its_page_is_open(browser: Browser, home: Home, shop: str) -> None:
    with visiting(browser) as (page, _):
        page.goto(f"{shop}/rows?ref=shop@4")
        with Lake.open(home) as lake:
            delete(lake, version(lake, "shop@4"), by="me")
        page.get_by_role("link", name="next").first.click()
        assert page.locator("h1").inner_text() == "Not found" and "shop@2" in page.locator(".notice").inner_text()
        page.goto(f"{shop}/rows/c_row00003")
        assert "shop@4" not in page.content()


@pytest.fixture(scope="module")
def lake(home: Home) -> Iterator[Lake]:
    with Lake.open(home, read_only=True) as opened:
        yield opened


ASKED = st.fixed_dictionaries(
    {},
    optional={
        "words": st.sampled_from(["article", "ARTICLE 1", '"of article 1"', "-article", "price -11", "says"]),
        "label": st.sampled_from(LABELS),
        "split": st.sampled_from(["train", "test"]),
        "restricted": st.sampled_from(["yes", "no"]),
        "length_from": st.sampled_from(["36", "37.5"]),
        "length_to": st.sampled_from(["36", "1e3"]),
        "mean_from": st.sampled_from(["8.5", "9"]),
        "relabelled": st.sampled_from(["yes", "no"]),
        "model": st.sampled_from(["gemma", "other"]),
        "code": st.sampled_from(["accepted.agreed"]),
        "ids": st.sampled_from(["c_row00001,c_row00007,c_row00009"]),
    },
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=ASKED, sort=st.sampled_from(["id", "label", "longest", "shortest", "mean", "spread", "margin"]))
def test_a_filter_finds_what_a_person_would(lake: Lake, query: dict[str, str], sort: str) -> None:
    within = Within(False, "shop", 2, rows=120)
    total, page = find(lake, within, row_query({**query, "sort": sort}), page=0, size=1000)
    expected = {f"c_row{n:05}" for n in range(120) if fits(n, query)}
    assert {row["id"] for row in page} == expected and total == len(expected) == len(page)
    parts = [find(lake, within, row_query({**query, "sort": sort}), page=at, size=37)[1] for at in range(4)]
    assert [row["id"] for part in parts for row in part] == [row["id"] for row in page]  # pages join without a seam


def fits(number: int, query: dict[str, Any]) -> bool:
    """Return True if a row of the filled lake fits: the filters restated in Python."""
    made = candidate(number)
    text, split = made.text.lower(), ("train", "train", "validation", "test")[number % 4]
    checks = {
        "words": lambda value: (
            not made.restricted and all((term.lower() in text) != unwanted for term, unwanted in words(value))
        ),
        "label": lambda value: made.label == value,
        "split": lambda value: split == value,
        "restricted": lambda value: made.restricted == (value == "yes"),
        "length_from": lambda value: len(made.text) >= float(value),
        "length_to": lambda value: len(made.text) <= float(value),
        "mean_from": lambda value: float(value) <= 8.5,
        "relabelled": lambda value: value == "no",
        "model": lambda value: value == "gemma",
        "code": lambda value: True,
        "ids": lambda value: made.id in value.split(","),
    }
    return all(checks[name](value) for name, value in query.items())


def test_a_search_is_read_as_it_is_written() -> None:
    assert words('a "b  c" -d -"e f" "" -') == [("a", False), ("b c", False), ("d", True), ("e f", True), ("-", False)]
    assert words('"never closed') == [("never", False), ("closed", False)]
