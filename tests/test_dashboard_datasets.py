"""Dataset pages and the one file of a version: many labels, judges, mixes, guards, imports, derived versions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import AT, candidate, fill, serving, visiting
from playwright.sync_api import Browser, Page

import graft
from graft.data.lake import Lake
from graft.data.tags import set_tag
from graft.data.versions import derive, held_by, publish
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, GateResult, Labelling, Review
from graft.schemas.students import ClassScore, Evaluation, Student, StudentSettings

HOSTILE = '<img src=x onerror="document.title=1"> {{7*7}} =1+1 \u202elabel'
HIDDEN_WORDS = "the vault opens with a hairpin"
NAMES = (HOSTILE, *(" ".join([f"label {n:02}", *["long"] * (n % 9)]) for n in range(76)))
AGREED = Decision(status="accepted", route="agreed", code="accepted.agreed", reason="agreed", mean=8.0)
CALLED = Decision(status="accepted", route="adjudicated", code="accepted.adjudicated", reason="called", mean=6.0)
REFUSED = Decision(status="rejected", route="adjudicated", code="rejected.adjudicated", reason="no", mean=6.0)
LOW = Decision(status="rejected", route="low_mean", code="rejected.low_mean", reason="low", mean=2.5)


def made(run_id: str, number: int, label: str, **more: Any) -> Candidate:
    """A candidate of a run; `more` replaces its fields."""
    base = candidate(number)
    slot = base.slot.model_copy(update={"run_id": run_id, "label": label, **more.pop("slot", {})})
    changed = {
        "id": f"c_{run_id}{number:05}",
        "slot": slot,
        "text": f"{run_id} {number}: may I return it?",
        "label": label,
        "intended_label": label,
        "restricted": False,
        "decision": AGREED,
        "reviews": (),
        **more,
    }
    return base.model_copy(update=changed)  # fmt: skip


def review(model: str, mean: float) -> Review:
    return Review(stage="content", role="reviewer", model=model, mean=mean, call_key="k")


def row(one: Candidate, number: int) -> Row:
    split = ("train", "train", "train", "validation", "test")[number % 5]
    return Row(id=one.id, text=one.text, response=one.response, label=one.label, split=split, restricted=one.restricted)


def run(name: str, dataset: str, method: str, kind: str = "classification", **more: Any) -> Run:
    recipe = {"task": {"kind": kind}, "method": {"kind": method}}
    return Run(id=name, dataset=dataset, recipe=recipe, status="finished", started_at=AT, code_version="1", **more)


def many(lake: Lake) -> DatasetVersion:
    """231 rows over 77 labels, from 240 candidates that two models judged; a derived version with fewer rows."""
    ends = {n: REFUSED if n > 234 else LOW if n > 230 else CALLED if n % 7 == 0 else AGREED for n in range(240)}
    every = [
        made("wide", n, NAMES[n % 77], decision=ends[n],
             text=HIDDEN_WORDS if n == 5 else f"{n}: {HOSTILE if n == 9 else 'where is it?'}", restricted=n == 5,
             intended_label=NAMES[(n + 1) % 77] if n % 50 == 1 else NAMES[n % 77],
             reviews=(review("minilm", 8.0 + n % 2), review("gemma", 6.0 + n % 3)))
        for n in range(240)
    ]  # fmt: skip
    made_run = run("wide", "many", "gra")
    lake.save_run(made_run)
    lake.commit("wide", "b", every, [])
    rows = [row(one, n) for n, one in enumerate(every[:231])]
    facts: dict[str, Any] = {
        "models": {"minilm": "Apache-2.0", "gemma": "Gemma"},
        "seeds": 4,
        "card": f"# many\n\n{HOSTILE}\n",
    }
    first = publish(lake, run=made_run, rows=rows, **facts)
    held = held_by(lake, first)
    moved = held[3][0].model_copy(update={"label": NAMES[2]})
    kept = [*held[:3], (moved, *held[3][1:]), *held[4:200]]
    gone = [one.id for one, *_ in held[200:]]
    why = GateResult(gate="length", rule="too_short", passed=False, score=1.0)
    return derive(
        lake, first, kept, origin="gates", note="stricter <b>gates</b>", drops=[why] * len(gone), dropped=gone
    )


def mixed(lake: Lake) -> None:
    """A PromptMix run of two alphas: of the lower one half goes to the partner."""
    every = [
        made("mixing", n, "b" if n % 4 == 0 else "a", intended_label="a",
             slot={"label": "a",
                   "payload": {"partner": "b", "alpha": 0.6 if n % 2 == 0 else 0.9, "classes": ["a", "b"]}},
             labelling=Labelling(by="labeler", candidates=("a", "b"), label="b" if n % 4 == 0 else "a",
                                 relabelled=n % 4 == 0, margin=0.1 if n % 2 == 0 else 0.7, second="a"))
        for n in range(40)
    ]  # fmt: skip
    made_run = run("mixing", "mixed", "promptmix")
    lake.save_run(made_run)
    lake.commit("mixing", "b", every, [])
    publish(lake, run=made_run, rows=[row(one, n) for n, one in enumerate(every)], models={}, seeds=2, card="# mixed")


def guard(lake: Lake) -> None:
    """A HarmAug run whose harmful rows are restricted."""
    every = [
        made("guarding", n, "harmful" if n % 2 else "safe", restricted=bool(n % 2), response="I would rather not.",
             text=f"{HIDDEN_WORDS} {n}" if n % 2 else f"how do I wash wool? {n}",
             soft_label={"harmful": 0.9 if n % 2 else 0.1},
             slot={"payload": {"side": "harmful" if n % 2 else "benign", "variant": "refusal"}},
             notes={"prefilled": True})
        for n in range(20)
    ]  # fmt: skip
    made_run = run("guarding", "guard", "harmaug", "guard")
    lake.save_run(made_run)
    lake.commit("guarding", "b", every, [])
    publish(lake, run=made_run, rows=[row(one, n) for n, one in enumerate(every)], models={}, seeds=2, card="# guard")


def brought(lake: Lake) -> None:
    """An import whose run the lake does not know, with domains and responses."""
    rows = [
        Row(id=f"i_{n}", text=f"explain knitting {n}", response="row by row " * n, label="crafts", split="train",
            source="imported")
        for n in range(1, 9)
    ]  # fmt: skip
    publish(
        lake, run=run("gone", "brought", "gra", "instruction"), rows=rows, models={}, seeds=0, card="", origin="import"
    )


def student(lake: Lake) -> None:
    one = Student(
        id="st_many1", dataset="many", version=1, trained_on="version", settings=StudentSettings(),
        encoder_revision="r", train_rows=138, device="cpu", seconds=12.0, path="students/st_many1", created_at=AT,
    )  # fmt: skip
    score = ClassScore(label="a", precision=0.5, recall=0.5, f1=0.5, support=10)
    base = one.model_copy(update={"id": "st_alone1", "version": None, "trained_on": "seeds"})
    for each, accuracy in ((one, 0.7125), (base, 0.65)):
        lake.save_student(each)
        lake.save_evaluation(
            Evaluation(student_id=each.id, test_file="held.jsonl", test_hash="h", rows=20, accuracy=accuracy,
                       macro_f1=0.7, classes=(score,), confusion=((1,),), labels=("a",), interval=(0.6, 0.8))
        )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    fill(Home(folder))
    with Lake.open(Home(folder)) as lake:
        set_tag(lake, many(lake), "prod", by="ann")
        mixed(lake)
        guard(lake)
        brought(lake)
        student(lake)
    return folder


@pytest.fixture(scope="module")
def pages(home: Path) -> Iterator[str]:
    with serving(home) as address:
        yield address


def settled(page: Page, address: str) -> None:
    """Go to a page and wait until nothing of it is being computed."""
    answer = page.goto(address)
    assert answer is not None and answer.status == 200, address
    page.locator("#live [role=status]").first.wait_for(state="detached", timeout=60_000)


PLACES = ("/datasets/many@2", "/datasets/many@2/reviews", "/datasets/many@2/changes")
OTHERS = ("/datasets", "/datasets/mixed/reviews", "/datasets/guard/reviews",
          "/datasets/brought")  # fmt: skip


@pytest.mark.parametrize(("width", "scheme", "places"), [(1440, "light", PLACES + OTHERS), (390, "dark", PLACES)])
def test_every_kind_of_dataset_has_sound_pages(
    browser: Browser, pages: str, width: int, scheme: str, places: tuple[str, ...]
) -> None:
    with visiting(browser, width, scheme) as (page, wrong):
        for place in places:
            settled(page, pages + place)
            found = Axe().run(page, options={"resultTypes": ["violations"]})
            assert found.violations_count == 0, f"{place}: {found.generate_report()}"
            assert page.evaluate("document.documentElement.scrollWidth") <= width, place
            assert page.title() != "1" and HIDDEN_WORDS not in page.content() and "\u202e" not in page.content(), place
            assert page.locator("table:not(:has(tbody tr)), figure:empty").count() == 0, place
        assert wrong == []


def test_the_list_leads_to_a_version_that_explains_itself(browser: Browser, pages: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(pages)
        page.get_by_role("navigation", name="menu").get_by_role("link", name="Datasets").click()
        many = page.locator("tr", has_text="many@2")
        assert "prod = @2" in many.inner_text() and "gates" in many.inner_text()
        assert many.locator("svg").get_attribute("aria-label") == "from 231 to 200 in 2 versions"
        many.get_by_role("link").click()
        page.get_by_role("heading", name="Variety").wait_for(timeout=60_000)
        facts = page.locator(".facts:not(.inside)").first.inner_text().replace("\n", " ")
        for text in ("rows 200", "labels 77", "made by gates from many@1", "restricted 1", "tags prod", "seeds 4"):
            assert text in facts, text
        assert page.locator("#funnel", has_text="too_short").count() == 1
        ends = page.locator("#table-ends tr", has_text="rejected.low_mean")
        assert ends.locator("td.n").first.inner_text() == "4"
        assert ends.get_by_role("link").get_attribute("href") == "/rows?ref=many%402&rejected=1&code=rejected.low_mean"
        page.get_by_role("link", name="many@1").first.click()
        learned = page.locator("#students").inner_text()
        assert "71.2%" in learned and "60.0%–80.0%" in learned
        listed = page.request.get(f"{pages}/datasets?csv=datasets").text()
        assert listed.startswith("ref,rows,history,") and "many@2,200," in listed
        assert wrong == []


def test_a_version_shows_its_rows_and_verdict_first_and_filters_in_place(browser: Browser, pages: str) -> None:
    with visiting(browser) as (page, wrong):
        settled(page, f"{pages}/datasets/many@1")
        rows = page.get_by_role("region", name="first rows").locator("tbody tr")
        assert rows.count() == 12 and "the first 12 of 231 rows" in page.content()
        assert rows.first.locator("td").last.inner_text() == CALLED.reason
        assert page.get_by_role("heading", name="Figures").bounding_box()["y"] > rows.last.bounding_box()["y"]  # type: ignore[index]
        verdict = page.get_by_role("list", name="verdict").inner_text()
        report = page.request.get(f"{pages}/datasets/many@1/quality?format=json").json()["reviews"]
        assert f"disagree: alpha {report['alpha']:.2f}" in verdict and "+6.2 points over seeds only" in verdict
        page.locator("select[name=label]").select_option(NAMES[3])
        page.wait_for_url("**/datasets/many@1?*label=*")
        assert rows.count() == 3 and {NAMES[3]} == {one.locator("td").nth(1).inner_text() for one in rows.all()}
        assert "label=" in (page.get_by_role("link", name="these rows, more filters").get_attribute("href") or "")
        page.locator("input[name=words]").fill("nothing like this")
        page.keyboard.press("Enter")
        page.get_by_text("No row matches.").wait_for()
        assert wrong == []


def test_reviews_show_severity_adjudications_and_what_labels_became(browser: Browser, pages: str) -> None:
    with visiting(browser) as (page, wrong):
        settled(page, f"{pages}/datasets/many@2/reviews")
        report = page.request.get(f"{pages}/datasets/many@2/quality?format=json").json()["reviews"]
        gemma = page.locator("#table-reviewers tr", has_text="gemma").inner_text()
        assert f"{report['reviewers'][0]['severity']:+.2f}" in gemma and "240" in gemma
        assert page.locator(".facts", has_text=f"{report['alpha']:.2f}").count() == 1
        pair = page.locator("#table-relabelled tr", has_text="label 01")
        assert "5 of 200 rows have a label other than" in page.content()
        opens = pair.first.get_by_role("link").get_attribute("href") or ""
        assert opens.startswith("/rows?ref=many%402&label=") and "&intended=" in opens
        listed = page.request.get(pages + opens)
        assert listed.ok and ": where is it?" in listed.text()
        settled(page, f"{pages}/datasets/mixed/reviews")
        alphas = page.locator("#table-by_alpha0 tr")
        low, high = (alphas.filter(has_text=alpha).inner_text().split() for alpha in ("0.60", "0.90"))
        assert low[1:3] == ["20", "50.0%"] and high[1:3] == ["20", "100.0%"]
        assert page.locator("svg[aria-label='figures that the method reports']").count() == 1
        settled(page, f"{pages}/datasets/guard/reviews")
        harmful = page.locator("#table-scored0 tbody tr", has_text="harmful").inner_text().split()
        assert harmful[-3:] == ["10", "100.0%", "0.90"]
        assert wrong == []


def test_changes_are_shown_against_any_version(browser: Browser, pages: str) -> None:
    with visiting(browser) as (page, wrong):
        settled(page, f"{pages}/datasets/many@2/changes")
        assert page.get_by_role("combobox").input_value() == "many@1"
        facts = page.locator("#changed-rows .facts").inner_text().split("\n")
        assert facts[facts.index("dropped") + 1] == "31" and facts[facts.index("relabelled") + 1] == "1"
        assert "too_short" in page.locator("#table-dropped").inner_text()
        assert page.locator("section#drift", has_text="against many@1").count() == 1
        with page.expect_navigation():
            page.get_by_role("combobox").select_option("shop@2")
        page.locator("#live [role=status]").first.wait_for(state="detached", timeout=60_000)
        assert "against=shop%402" in page.url and "against shop@2" in page.locator("section#drift").inner_text()
        page.goto(f"{pages}/datasets/many@1/changes")
        assert "is the first version of many" in page.content()
        taken = page.request.get(f"{pages}/datasets/many@2/changes?against=many@1&format=html")
        assert taken.ok and "many@1 → many@2" in taken.text() and "<script" not in taken.text()
        assert page.request.get(f"{pages}/datasets/many@2/changes?against=many@9").status == 404
        assert wrong == []


def test_one_file_holds_all_of_a_version(browser: Browser, pages: str, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "many.html"
    command = [sys.executable, "-m", "graft", "report", "many@2", "--out", str(out)]
    environment = {**os.environ, "GRAFT_HOME": str(home), "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == f"wrote {out}", done.stderr
    assert [one.name for one in out.parent.iterdir()] == ["many.html"]
    output = out.read_text(encoding="utf-8")
    assert HIDDEN_WORDS not in output and "<script" not in output and "<img" not in output and "\u202e" not in output
    assert not re.search(r"""(?:href|src)=["'](?!#|data:)""", output)
    with visiting(browser, 390, "dark") as (page, wrong):
        page.on(
            "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
        )
        taken = page.request.get(f"{pages}/datasets/many@2/report")
        assert taken.body() == out.read_bytes()
        page.goto(out.as_uri())
        found = Axe().run(page, options={"resultTypes": ["violations"]})
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390 and page.title() == "many@2: report"
        for part in (
            "Balance", "Wording", "Agreement and severity", "Intended and final labels", "Candidates by outcome",
            "Changes since many@1", "Students trained on it", "Models and licences", "Card",
        ):  # fmt: skip
            assert page.get_by_role("heading", name=part).count() >= 1, part
        assert "Apache-2.0" in page.locator("#models").inner_text()
        assert [one for one in wrong if not one.startswith("file:")] == []


def test_a_report_of_what_no_model_made_and_of_a_guard(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    files = [graft.report(ref) for ref in ("brought", "guard@1")]
    assert files == [Path("report-brought-1.html"), Path("report-guard-1.html")]
    brought_file, guard_file = (file.read_text(encoding="utf-8") for file in files)
    assert "an import: no model made or judged its rows" in brought_file and "Changes since" not in brought_file
    assert HIDDEN_WORDS not in guard_file and "Generation and labelling of the messages, run guarding" in guard_file


def test_a_report_that_cannot_be_written_is_an_error(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(home))
    (tmp_path / "file").write_text("in the way")
    for where in (tmp_path, tmp_path / "file" / "r.html"):
        with pytest.raises(GraftError) as given:
            graft.report("shop", out=where)
        assert given.value.where == str(where) and "--out" in given.value.fix
    with pytest.raises(NotFound, match="no dataset 'none'"):
        graft.report("none")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
