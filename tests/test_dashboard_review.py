"""Review in a real browser: every action by key and by button, undo, a blind second look, two people on one row."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browsing import SECRET, fill, serving, visiting
from playwright.sync_api import Browser, Page

from graft.data.edits import decide, edits, in_force, record
from graft.data.lake import Lake
from graft.data.versions import rows, version
from graft.schemas.datasets import Edit
from graft.schemas.home import Home


@pytest.fixture(scope="module")
def lake_of_people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    fill(Home(folder))
    return folder


@pytest.fixture
def desk(lake_of_people: Path, tmp_path: Path) -> Iterator[tuple[Home, str]]:
    """A lake of this test's own, and its dashboard."""
    shutil.copytree(lake_of_people, tmp_path / "home")
    with serving(tmp_path / "home") as address:
        yield Home(tmp_path / "home"), address


@contextmanager
def reviewer(browser: Browser, address: str, name: str, query: str = "rule=random") -> Iterator[tuple[Page, list[str]]]:
    """A person at the queue, under a name."""
    with visiting(browser) as (page, wrong):
        page.goto(f"{address}/review?{query}")
        page.locator(".who summary").click()
        page.get_by_label("your name").fill(name)
        page.get_by_role("button", name="use it").click()
        page.locator(".who strong", has_text=name).wait_for()
        yield page, wrong


def row_of(page: Page) -> str:
    return str(page.locator("#decide input[name=row]").get_attribute("value"))


def press(page: Page, key: str) -> str:
    """Press a key that decides; the id of the row that it was about. Returns when the next row is there."""
    row = row_of(page)
    page.keyboard.press(key)
    page.locator("#undo code", has_text=row[:12]).wait_for()
    return row


def kept(home: Home) -> list[Edit]:
    with Lake.open(home, read_only=True) as lake:
        return edits(lake, "shop")


def test_the_queue_is_worked_by_keys_and_the_next_version_holds_it(browser: Browser, desk: tuple[Home, str]) -> None:
    home, address = desk
    with reviewer(browser, address, "Ada", "ref=shop@2&rule=random") as (page, wrong):
        accepted = press(page, "a")
        rejected = press(page, "r")
        label = "delivery" if "price" in page.locator("button.label:disabled").inner_text() else "price"
        relabelled = press(page, "2" if label == "delivery" else "1")
        row = row_of(page)
        page.keyboard.press("n")
        page.keyboard.type("asks two things")
        page.keyboard.press("Enter")
        assert row_of(page) == row, "a note does not decide"
        page.keyboard.press("Escape")
        skipped = press(page, "s")
        edited = row_of(page)
        page.keyboard.press("e")
        page.locator("textarea[name=text]").fill("What does article 5 cost, please?")
        page.keyboard.press("Control+Enter")
        page.locator("#undo code", has_text=edited[:12]).wait_for()
        made = {edit.row_id: edit for edit in kept(home)}
        assert [made[r].action for r in (accepted, rejected, relabelled, skipped, edited)] == [
            "accept", "reject", "relabel", "skip", "edit",
        ]  # fmt: skip
        assert {edit.by for edit in made.values()} == {"Ada"} and made[relabelled].label == label
        assert made[skipped].note == "asks two things" and made[accepted].queue == "random"
        assert all(edit.seconds is not None and edit.seconds < 60 for edit in made.values())
        page.get_by_role("link", name="would change the next version").click()
        page.get_by_role("button", name="publish it from shop@2").click()
        page.wait_for_url("**/datasets/shop@3")
        assert wrong == []
    with Lake.open(home, read_only=True) as lake:
        held = {one["id"]: one for one in rows(lake, version(lake, "shop@3")).to_pylist()}
    assert rejected not in held and held[relabelled]["label"] == label
    assert held[edited]["text"] == "What does article 5 cost, please?" and accepted in held and len(held) == 119


def test_a_decision_is_taken_back_and_its_row_is_there_again(browser: Browser, desk: tuple[Home, str]) -> None:
    home, address = desk
    with reviewer(browser, address, "Ada") as (page, wrong):
        row = press(page, "r")
        page.keyboard.press("u")
        page.locator(f"#decide input[name=row][value='{row}']").wait_for(state="attached")
        assert [edit.action for edit in kept(home)] == ["reject", "undo"] and in_force(kept(home)) == []
        page.get_by_role("button", name="accept").click()
        page.locator("#undo code", has_text=row[:12]).wait_for()
        assert [edit.action for edit in in_force(kept(home))] == ["accept"] and wrong == []


def test_a_rejected_candidate_is_rescued_from_its_gate(browser: Browser, desk: tuple[Home, str]) -> None:
    home, address = desk
    with reviewer(browser, address, "Ada", "ref=shop@2&rule=gate") as (page, wrong):
        page.locator("select[name=gate]").select_option("near_run")
        page.locator(".why", has_text="rejected by gate near_run").wait_for()
        row = press(page, "a")
        assert [(edit.row_id, edit.queue) for edit in kept(home)] == [(row, "gate:near_run")]
        page.goto(f"{address}/datasets/shop@2/people")
        page.get_by_role("button", name="publish it").click()
        page.wait_for_url("**/datasets/shop@3")
        page.goto(f"{address}/rows/{row}")
        assert "shop@3" in page.content() and wrong == []


def test_a_blind_second_reviewer_sees_no_decision_and_agreement_is_shown(
    browser: Browser, desk: tuple[Home, str]
) -> None:
    home, address = desk
    with reviewer(browser, address, "Ada", "ref=shop@2&rule=random") as (page, wrong):
        first = [press(page, key) for key in "aar"]
        assert wrong == []
    with reviewer(browser, address, "Bob", "ref=shop@2&rule=random") as (page, wrong):
        assert row_of(page) not in first, "a decided row leaves the queue"
        page.goto(f"{address}/review?ref=shop@2&rule=random&blind=1")
        page.locator(".who strong", has_text="Bob").wait_for()
        requests = []
        while page.locator("#decide").count():
            assert "Ada" not in page.content()
            requests.append(press(page, "a"))
        assert sorted(requests) == sorted(first)
        page.goto(f"{address}/datasets/shop@2/people")
        tile = page.locator(".facts div", has_text="all agree").locator("dd")
        assert "2 of 3" in tile.inner_text()
        assert page.locator("#table-differ tbody tr").count() == 1
        assert page.locator("#table-judges", has_text="reviewer").count() == 1 and wrong == []
    assert [edit.blind for edit in kept(home)] == [False] * 3 + [True] * 3


def test_two_people_on_one_row_lose_nothing_and_see_the_clash(browser: Browser, desk: tuple[Home, str]) -> None:
    home, address = desk
    with reviewer(browser, address, "Ada") as (ada, wrong), reviewer(browser, address, "Bob") as (bob, wrong_too):
        ada.goto(f"{address}/review?ref=shop@2&rule=random")
        bob.goto(f"{address}/review?ref=shop@2&rule=random")
        assert row_of(ada) != row_of(bob), "each has a row of their own"
        bob.goto(f"{address}/review?ref=shop@2&rule=random&row={row_of(ada)}")
        row = press(ada, "r")
        bob.keyboard.press("a")
        bob.get_by_role("alert").wait_for()
        assert "Ada: reject" in bob.content() and [edit.by for edit in kept(home)] == ["Ada"]
        bob.get_by_role("button", name="record mine too").click()
        bob.locator("#undo code", has_text=row[:12]).wait_for()
        assert [(edit.by, edit.action) for edit in kept(home)] == [("Ada", "reject"), ("Bob", "accept")]
        assert wrong == [] == wrong_too


def test_restricted_words_are_hidden_in_the_queue_until_requested(browser: Browser, desk: tuple[Home, str]) -> None:
    _, address = desk
    with visiting(browser) as (page, wrong):
        page.goto(f"{address}/review?ref=shop@2&row=c_row00007")
        assert SECRET not in page.content()
        page.get_by_role("link", name="show it once").click()
        assert SECRET in page.locator("blockquote").first.inner_text()
        page.keyboard.press("r")
        page.locator("#undo").wait_for()
        page.goto(f"{address}/datasets/shop@2/people")
        assert SECRET not in page.content()
        result = page.request.get(f"{address}/datasets/shop@2/people?csv=decisions").text()
        assert "c_row00007" in result and SECRET not in result and wrong == []


def test_what_would_change_something_is_refused_from_elsewhere(browser: Browser, desk: tuple[Home, str]) -> None:
    home, address = desk
    form = {"ref": "shop@2", "row": "c_row00001", "action": "reject", "token": "t"}
    with visiting(browser) as (page, _):
        page.goto(f"{address}/review")
        for _ in range(2):  # sent twice, kept once
            sent = page.request.post(
                f"{address}/review/decide", form=form, headers={"Origin": address}, max_redirects=0
            )
            assert sent.status == 303
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        body = urllib.parse.urlencode(form).encode()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(urllib.request.Request(f"{address}/review/decide", body, headers))
    assert len(kept(home)) == 1


def test_bad_questions_are_answered_in_words(browser: Browser, desk: tuple[Home, str]) -> None:
    home, address = desk
    requested = {
        "rule=nonsense": "no queue", "rule=query&where=drop+table": "", "rule=query&where=nothing+=+1": "",
        "ref=shop@9": "shop", "row=c_none0000": "has no row",
    }  # fmt: skip
    with visiting(browser) as (page, _):
        for query, facts in requested.items():
            answer = page.goto(f"{address}/review?{query}")
            assert answer is not None and answer.status in (400, 404), query
            assert facts in page.locator(".notice").inner_text() and "Traceback" not in page.content()
    with Lake.open(home) as lake:
        made = decide(lake, version(lake, "shop@2"), "c_row00001", "note", note='=1+1 <img src="x">', by="Eve <b>")
        record(lake, [made])
    with visiting(browser) as (page, wrong):
        page.goto(f"{address}/review?row=c_row00001")
        assert "Eve <b>: note" in page.locator("article").inner_text() and page.locator("article img").count() == 0
        table = page.request.get(f"{address}/datasets/shop@2/people?csv=decisions").text()
        assert "'=1+1" in table and wrong == []
