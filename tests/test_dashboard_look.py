"""How pages look: colours that can be told apart, charts that are read at a glance, words that stay whole."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from browsing import AT, LABELS, broken_words, call, candidate, fill, run_of, serving, visiting
from playwright.sync_api import Browser, expect

import graft.dashboard as static
from graft.dashboard.charts import OTHERS, PALETTE, REST, shades, svg
from graft.dashboard.charts.shapes import intervals, line, scatter, stacked_days
from graft.data.card import table_markdown
from graft.data.lake import Lake
from graft.data.scores import compare, find_student, gain_of
from graft.data.scores.answers import keep
from graft.data.sections_html import render
from graft.data.versions import publish, version
from graft.schemas.datasets import Row
from graft.schemas.home import Home
from graft.schemas.sections import Column, Fact, Section, Table, share
from graft.schemas.students import Student, StudentSettings
from graft.students.evaluate import evaluate

EYES = {
    "normal": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}  # fmt: skip
"""On linear RGB, severity 1.0: Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color
Vision Deficiency", IEEE TVCG 15(6), 2009, table 1."""
GROUNDS = re.findall(r"--(?:ground|card): (#\w{6})", (Path(static.__file__).parent / "static/graft.css").read_text())
"""Backgrounds of page and panel, light and dark."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The common lake, and `few`: seven rows of nine candidates, with students judged on ten rows."""
    made = Home(tmp_path_factory.mktemp("look"))
    fill(made)
    run = run_of("few", "run2").model_copy(update={"counts": {"opened": 9, "accepted": 7}})
    ended = [candidate(n, n < 7).model_copy(update={"id": f"c_few{n}", "text": f"few {n}", "restricted": False})
             for n in range(9)]  # fmt: skip
    rows = [Row(id=one.id, text=one.text, label=one.label, split="train") for one in ended[:7]]
    with Lake.open(made) as lake:
        lake.save_run(run)
        moved = [one.model_copy(update={"slot": one.slot.model_copy(update={"run_id": "run2"})}) for one in ended]
        lake.commit("run2", "b1", moved, [call(n).model_copy(update={"run_id": "run2"}) for n in range(9)])
        publish(lake, run=run, rows=rows, models={}, seeds=2, card="# few")
        judge_few(made, lake)
    return made


def judge_few(home: Home, lake: Lake) -> None:
    """Two students of `few`, right on 6 and on 8 of ten rows."""
    held_out = [(f"held-out {n}", LABELS[n % 2]) for n in range(10)]
    for name, number, wrong in (("st_few_seeds", None, 4), ("st_few_1", 1, 2)):
        student = Student(
            id=name, dataset="few", version=number, trained_on="version" if number else "seeds",
            settings=StudentSettings(), encoder_revision="1", train_rows=7, device="cpu", seconds=1.0,
            path=f"students/{name}", created_at=AT,
        )  # fmt: skip
        given = [LABELS[(n + (n < wrong)) % 2] for n in range(10)]
        odds = [[0.8, 0.2] if one == "price" else [0.3, 0.7] for one in given]
        judged = evaluate(given, held_out, LABELS, student_id=name, test_file="few.csv", probabilities=odds)
        lake.save_student(student)
        lake.save_evaluation(judged)
        (home.root / student.path).mkdir(parents=True)
        keep(home.root / student.path, judged, held_out, given, odds)


@pytest.fixture(scope="module")
def address(home: Home) -> Iterator[str]:
    with serving(home.root) as served:
        yield served


def linear(colour: str) -> np.ndarray:
    """Linear RGB of a hex colour (IEC 61966-2-1)."""
    held = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(held <= 0.04045, held / 12.92, ((held + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    """Oklab of linear RGB: Ottosson, "A perceptual color space for image processing", 2020."""
    cones = np.cbrt(np.clip(rgb, 0, 1) @ np.array([
        [0.4122214708, 0.2119034982, 0.0883024619], [0.5363325363, 0.6806995451, 0.2817188376],
        [0.0514459929, 0.1073969566, 0.6299787005]]))  # fmt: skip
    made: np.ndarray = cones @ np.array([
        [0.2104542553, 1.9779984951, 0.0259040371], [0.7936177850, -2.4285922050, 0.7827717662],
        [-0.0040720468, 0.4505937099, -0.8086757660]])  # fmt: skip
    return made


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio."""
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("eyes", EYES)
def test_any_two_label_colours_differ_to_all_eyes(eyes: str) -> None:
    seen = {colour: oklab(EYES[eyes] @ linear(colour)) for colour in (*PALETTE[:8], OTHERS)}
    near = min((float(np.linalg.norm(seen[a] - seen[b])), a, b) for a, b in combinations(seen, 2))
    assert near[0] >= (0.12 if eyes == "normal" else 0.07), near


def test_label_colours_stand_out_on_light_and_dark_pages() -> None:
    assert len(GROUNDS) == 4
    for colour in (*PALETTE, OTHERS):
        for ground in GROUNDS:
            assert contrast(colour, ground) >= 3, (colour, ground)


def test_no_two_labels_share_a_colour_of_the_palette() -> None:
    made = shades({f"label {n}": n for n in range(12)})
    assert made["label 11"] == PALETTE[0]
    own = [colour for colour in made.values() if colour != OTHERS]
    assert len(own) == len(set(own)) == 8
    assert [name for name, colour in made.items() if colour == OTHERS] == [f"label {n}" for n in (3, 2, 1, 0)]
    rows = [{"day": "2026-11-25", "part": f"model {n}", "value": n + 1} for n in range(12)]
    drawn = stacked_days(rows, day="day", value="value", part="part", title="tokens")["encoding"]["color"]["scale"]
    assert len(drawn["domain"]) == len(set(drawn["range"])) == 8
    assert dict(zip(drawn["domain"], drawn["range"], strict=True))[REST] == OTHERS


def test_a_share_of_fewer_than_twenty_is_a_count_wherever_it_is_shown() -> None:
    assert (share(3 / 7, of=7), share(0.36, of=20), share(None, of=7)) == ("3 of 7", "36.0%", "–")
    columns = (Column("share", "share", "share", bar=True, of="rows"), Column("low", "from", "share", measured="rows"))
    table = Table("t", "Shares", columns, [{"share": 3 / 7, "low": 0.1, "rows": 7}, {"share": 0.4, "low": 0.2,
                                                                                    "rows": 50}])  # fmt: skip
    assert "| 3 of 7 | – |" in (card := table_markdown(table)) and "| 40.0% | 20.0% |" in card
    page = render("t", "", [Section("s", "S", tables=(table,), facts=(Fact("yield", 3 / 7, "share", of=7),))])
    assert page.count("3 of 7") == 2 and page.count("<rect") == 1 and "42.9%" not in page


def test_a_verdict_on_few_rows_has_counts_alone(home: Home) -> None:
    with Lake.open(home) as lake:
        assert (told := gain_of(home, lake, version(lake, "few@1"))) is not None
        assert told == ("student: 8 of 10 test rows right; seeds only: 6", False)
        pair = compare(home, lake, *(find_student(lake, name) for name in ("st_few_seeds", "st_few_1")))
    assert pair.verdict == "st_few_1 is right on 8 of 10 rows, st_few_seeds on 6"


def test_no_page_of_few_decisions_has_a_percentage_or_a_chart(browser: Browser, address: str) -> None:
    with visiting(browser) as (page, _):
        for path in ("/datasets/few@1", "/datasets/few@1/quality", "/runs/run2", "/students?dataset=few"):
            page.goto(address + path)
            expect(page.get_by_text("being computed")).to_have_count(0, timeout=20_000)
            cells = page.locator("main td, main dd, main li, main p").all_inner_texts()
            few = [text for text in cells if re.search(r"\d%", text)]
            assert not few and page.locator("main figure").count() == 0, (path, few)
        page.goto(f"{address}/students/st_few_1?with=st_few_seeds")
        told = page.locator("main").inner_text()
        assert "8 of 10" in told and "is right on 8 of 10 rows" in told and "McNemar" not in told


def test_a_word_that_is_broken_into_letters_is_found(browser: Browser) -> None:
    with visiting(browser, 390) as (page, _):
        page.set_content(
            "<p>a whole cross-border word</p><div style='width: 1em; overflow-wrap: anywhere'>delivery</div>"
        )
        assert broken_words(page) and all("delivery" in one for one in broken_words(page))


def test_no_chart_repeats_a_tick_or_names_what_it_does_not_have() -> None:
    one_day = [{"day": "2026-11-25", "part": "gemma", "value": 0.004}]
    drawn = svg(stacked_days(one_day, day="day", value="value", part="part", title="US dollars", y_format="~f"), "")
    assert drawn.count(">25 Nov<") == 1 and "0.004" in drawn and "4m" not in drawn
    month = [{"day": f"2026-11-{day:02}", "part": "gemma", "value": day} for day in range(1, 31)]
    ticks = re.findall(
        r">(\d\d (?:Nov|Dec))<", svg(stacked_days(month, day="day", value="value", part="part", title=""), "")
    )
    assert 4 <= len(ticks) == len(set(ticks))
    near = [
        {"name": name, "at": at, "low": at - 0.004, "high": at + 0.004} for name, at in (("a", 0.842), ("b", 0.846))
    ]
    drawn = svg(intervals(near, category="name", value="at", low="low", high="high", title="accuracy"), "")
    shares = re.findall(r">([\d.]+%)<", drawn)
    assert shares and len(shares) == len(set(shares))
    rows = [{"x": 0, "y": 0, "value": "price", "kind": "row"}, {"x": 1, "y": 1, "value": "price", "kind": "row"}]
    drawn = svg(
        scatter(rows, x="x", y="y", value="value", part="kind", colours={"price": PALETTE[0]}, title="label"), ""
    )
    assert ">row<" in drawn and "seed" not in drawn
    over = [{"seconds": at, "share": 0.36 + at / 1000} for at in range(3)]
    drawn = svg(line(over, x="seconds", y="share", x_title="s", y_title="yield", y_format="%"), "")
    assert "0.36" not in drawn and "%<" in drawn


def test_an_empty_page_has_the_next_step_as_a_button(browser: Browser, empty: str) -> None:
    with visiting(browser, 390) as (page, _):
        for path in ("/", "/runs", "/datasets", "/rows", "/review", "/students", "/models"):
            page.goto(empty + path)
            button = page.locator("main a.button", has_text="New dataset")
            assert button.first.get_attribute("href") == "/new", path


def test_a_cut_table_names_the_number_of_its_rows(browser: Browser, address: str) -> None:
    with visiting(browser) as (page, _):
        page.goto(f"{address}/runs/run1")
        assert "12 of 160 candidates" in page.locator("main").inner_text()
        page.goto(f"{address}/datasets/shop@2")
        assert "the first 12 of 120 rows" in page.locator("main").inner_text()
