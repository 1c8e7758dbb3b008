"""The page New: a person's file becomes a recipe, form and YAML stay one, and a preview or a run follows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from browsing import COOKIES, serving, visiting
from fake_llm import Serving
from hypothesis import given
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page, expect

from graft.agents.local.detect import model_spec
from graft.flows.recipe_form import begun, changed, read
from graft.schemas.errors import InputInvalid
from graft.schemas.home import Home

LINES = ["my parcel number {0} is late,complaint", "thank you for the quick parcel {0},praise"]
REVIEWS = "text,label\n" + "\n".join(line.format(n) for n in range(12) for line in LINES) + "\n"
MODEL = model_spec("smollm2-135m-instruct")
PLAIN = begun("shop", "classification", {"complaint": "it broke", "praise": "all is well"}, None, "", MODEL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Home]]:
    folder = tmp_path_factory.mktemp("new")
    with serving(folder) as address:
        yield address, Home(folder)


def sent(address: str, path: str, **form: str) -> httpx.Response:
    return httpx.post(f"{address}/new{path}", data=form, cookies=COOKIES, headers={"origin": address})


def filled(page: Page, address: str, model: str) -> None:
    """A file is given, its labels are described, and a model's address is written."""
    page.goto(f"{address}/new")
    file: Any = {"name": "shop reviews.csv", "mimeType": "text/csv", "buffer": REVIEWS.encode()}
    page.set_input_files("#file", file)
    page.get_by_text("24 rows, texts in 'text'").wait_for()
    page.get_by_label("meaning of complaint").fill("something went wrong")
    page.get_by_label("meaning of praise").fill("the customer is happy")
    page.get_by_label("a text is …").fill("a message to a shop")
    page.locator("#model").select_option("")
    page.get_by_label("MODEL@http").fill(model)
    page.get_by_label("accepted rows of each label").fill("4")
    page.get_by_label("accepted rows of each label").press("Enter")
    expect(page.locator("#yaml")).to_have_value(re.compile("rows_per_label: 4 "))


def test_a_file_becomes_a_recipe_that_is_previewed_edited_and_run(browser: Browser, place: tuple[str, Home]) -> None:
    address, home = place
    with Serving() as llm, visiting(browser) as (page, wrong):
        filled(page, address, f"fake@{llm.url}")
        expect(page.get_by_text("The recipe is valid.")).to_be_visible()
        made = yaml.safe_load(page.locator("#yaml").input_value())
        assert made["name"] == "shop-reviews" and made["seeds"]["path"].startswith("files/shop-reviews-seeds-")
        parts = [(home.recipes / file).read_text() for file in (made["seeds"]["path"], made["student"]["test"])]
        assert [part.count("\n") for part in parts] == [18, 6] and parts[1].count("praise") == 3
        assert not {*parts[0].splitlines()} & {*parts[1].splitlines()}
        assert made["task"]["labels"][0] == {"name": "complaint", "description": "something went wrong"}
        assert made["target"]["rows_per_label"] == 4 and made["models"][0]["base_url"] == llm.url
        page.get_by_role("button", name="preview 5").click()
        page.get_by_role("heading", name="Candidates").wait_for(timeout=30_000)
        page.get_by_role("link", name="edit the recipe").click()
        page.get_by_label("accepted rows of each label").fill("3")
        page.get_by_role("button", name="run", exact=True).click()  # the change is part of the run
        page.get_by_role("link", name="shop-reviews@1").first.wait_for(timeout=60_000)
        page.goto(f"{address}/new?recipe=shop-reviews")
        expect(page.get_by_label("accepted rows of each label")).to_have_value("3")
        page.get_by_role("button", name="put it back").click()
        expect(page.get_by_label("accepted rows of each label")).to_have_value("4")
        assert "# Saved on the page New by " in home.recipe("shop-reviews").read_text() and wrong == []


def test_an_error_is_shown_at_its_line_and_undone(browser: Browser, place: tuple[str, Home]) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{place[0]}/new")
        page.get_by_label("a text is …").fill("a question")
        page.get_by_label("a text is …").press("Enter")
        expect(page.locator("#yaml")).to_have_value(re.compile("text: a question"))
        text = page.locator("#yaml").input_value()
        page.locator("#yaml").fill(text.replace("rows_per_label: 50", "rows_per_label: many"))
        number = text[: text.index("rows_per_label")].count("\n") + 1
        page.get_by_role("button", name=f"line {number}").click()
        assert page.locator("#lines b").last.inner_text().strip() == f"● {number}"
        assert page.evaluate("document.activeElement.id") == "yaml"
        page.locator("#yaml").fill("name: [")
        expect(page.get_by_label("a text is …")).to_be_disabled()
        page.locator("#yaml").fill(text)
        expect(page.get_by_label("a text is …")).to_be_enabled()
        page.get_by_role("button", name="undo the last change").click()
        expect(page.get_by_label("a text is …")).to_have_value("a short text")
        for width, scheme in ((1440, "light"), (390, "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = Axe().run(page, options={"resultTypes": ["violations"]})
            assert found.violations_count == 0, found.generate_report()
        assert wrong == []


def test_pasted_texts_are_labelled(browser: Browser, place: tuple[str, Home]) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{place[0]}/new")
        page.get_by_text("paste texts instead").click()
        page.get_by_label("one text a line").fill('it is "late"\n\nthank you, it is fine\n')
        page.get_by_role("button", name="use these texts").click()
        page.get_by_text("2 rows, texts in 'text'").wait_for()
        made = yaml.safe_load(page.locator("#yaml").input_value())
        assert made["method"]["kind"] == "label" and wrong == []
        assert (place[1].recipes / made["method"]["texts"]).read_text().splitlines()[0] == '{"text":"it is \\"late\\""}'


def test_a_recipe_is_never_replaced_unseen(place: tuple[str, Home]) -> None:
    address, home = place
    mine = PLAIN.replace("name: shop", "name: mine")
    assert sent(address, "/save", yaml=mine, then="save").status_code == 303
    again = sent(address, "/save", yaml=mine + "# other\n", then="save")
    assert again.status_code == 400 and "a recipe of this name exists" in again.text
    stale = sent(address, "/save", yaml=mine + "# other\n", then="save", of="mine", seen="0" * 16)
    assert stale.status_code == 400 and "somebody changed this recipe meanwhile" in stale.text
    assert "# other" in stale.text and "# other" not in home.recipe("mine").read_text()
    bundled = sent(address, "/save", yaml=PLAIN.replace("name: shop", "name: demo"), then="run")
    assert bundled.status_code == 400 and not home.recipe("demo").exists()
    broken = sent(address, "/save", yaml=PLAIN.replace("kind: classification", "kind: sorting"), then="run")
    assert broken.status_code == 400 and "mend the problems" in broken.text
    for name in ("../../evil", "/etc/evil", ".evil"):
        bad = sent(address, "/save", yaml=PLAIN.replace("name: shop", f"name: {name}"), then="save")
        assert bad.status_code == 400, name
    assert not list(home.root.parent.glob("evil*"))


def test_a_recipe_of_the_gallery_is_copied_with_its_files(place: tuple[str, Home]) -> None:
    address, home = place
    answer = sent(address, "/copy", recipe="topics")
    assert answer.status_code == 303 and answer.headers["location"] == "/new?recipe=topics-copy"
    text = home.recipe("topics-copy").read_text()
    assert read(text, home.recipe("topics-copy")).problems == () and "name: topics-copy" in text
    assert sent(address, "/copy", recipe="topics").headers["location"] == "/new?recipe=topics-copy2"
    assert sent(address, "/copy", recipe="../x").status_code == 404


def test_files_stay_in_their_folder_and_none_replaces_another(place: tuple[str, Home]) -> None:
    address, home = place

    def put(name: str, body: bytes) -> dict[str, Any]:
        return httpx.post(f"{address}/new/file", params={"name": name}, content=body, cookies=COOKIES,
                          headers={"origin": address}).json()  # fmt: skip

    assert put("../../a b.csv", b"text\none\n") == {"file": "a-b.csv"}
    assert put("a b.csv", b"text\none\n") == {"file": "a-b.csv"} and put("a b.csv", b"text\n") == {"file": "a-b-2.csv"}
    assert (home.recipes / "files" / "a-b.csv").read_bytes() == b"text\none\n"
    refused = sent(address, "/compose", yaml=PLAIN, kind="classification", file="../../dashboard.secret")
    assert refused.status_code == 400 and "not a valid id" in refused.json()["refused"][0]["what"]
    empty = sent(address, "/compose", yaml=PLAIN, kind="classification", file="a-b-2.csv").json()
    assert empty["refused"] and not list((home.recipes / "files").glob(".*"))


def test_recipes_are_not_written_where_several_people_are_admitted(tmp_path: Path) -> None:
    with serving(tmp_path, GRAFT_DASHBOARD_PASSWORD="open") as address:
        answer = httpx.post(f"{address}/new/save", data={"yaml": PLAIN, "then": "run"}, auth=("ann", "open"),
                            headers={"origin": address})  # fmt: skip
        assert answer.status_code == 400 and "owner" in answer.text
        page = httpx.get(f"{address}/new", auth=("ann", "open"))
        assert page.status_code == 200 and "textarea" not in page.text and not (tmp_path / "recipes").exists()


TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=40).map(str.strip).filter(bool)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5, unique_by=lambda one: one[0]), TEXT)
def test_a_changed_field_leaves_every_other_one(labels: list[tuple[str, str]], about: str) -> None:
    named = [{"name": name, "description": text} for name, text in labels]
    made = changed(changed(PLAIN, "labels", named, {}), "task.text", about, {})
    expected = yaml.safe_load(PLAIN)
    expected["task"] |= {"labels": named, "text": about}
    assert yaml.safe_load(made) == expected and "# accepted rows, not attempts" in made


def test_a_model_is_replaced_in_every_role() -> None:
    text = PLAIN.replace("roles:\n", f"roles:\n  labeler: {{models: [{MODEL['name']}]}}\n")
    made = yaml.safe_load(changed(text, "model", "openai/gpt-4o-mini", {}))
    assert made["roles"]["labeler"]["models"] == [made["models"][0]["name"]] == ["gpt-4o-mini"]
    with pytest.raises(InputInvalid, match="not a whole number"):
        changed(PLAIN, "target.rows_per_label", "many", {})
    with pytest.raises(InputInvalid, match="mend the YAML first"):
        changed("name: [", "name", json.dumps("x"), {})
