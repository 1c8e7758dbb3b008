"""A figure has one value wherever it appears: terminal, Python, card and pages over one lake."""

from __future__ import annotations

import html
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_llm import Serving
from starlette.testclient import TestClient
from test_flows_make_dataset import here, write_recipe

import graft
from graft.dashboard.app import create_app
from graft.dashboard.door import Door
from graft.data.lake import Lake
from graft.data.spending import spent
from graft.data.versions import version
from graft.schemas.base import utc_now
from graft.schemas.home import Home
from graft.schemas.money import money
from graft.schemas.students import ClassScore, Evaluation, Student, StudentSettings

PRICE = ", price: {input: 1, output: 2}, licence: MIT"
TILE = r'<div class="tile"><dt>{}</dt><dd>(?:<a [^>]*>)?([^<]*)(?:</a>)?(?:<small>([^<]*)</small>)?'
SURE = 24
"""Rows on which a student is always right: a bootstrap of them has no width."""


@dataclass(frozen=True)
class Made:
    """A home with one run, one version and two students."""

    home: Path
    run: Any
    row: str
    pages: TestClient
    seen: dict[Any, str] = field(default_factory=dict)

    def terminal(self, *words: str) -> str:
        """The output of a command, each run once."""
        if words not in self.seen:
            done = here(self.home, *words)
            assert done.returncode == 0, done.stderr
            self.seen[words] = re.sub(r"[│┃]", " ", done.stdout)
        return self.seen[words]

    def page(self, path: str) -> str:
        """A page, once its background figures are there."""
        deadline = time.monotonic() + 60
        while path not in self.seen:
            answer = self.pages.get(path)
            assert answer.status_code == 200 and time.monotonic() < deadline, path
            if not re.search("being (computed|counted)", answer.text):
                self.seen[path] = answer.text
            time.sleep(0.1)
        return self.seen[path]

    def tile(self, path: str, name: str) -> str:
        """The value and the line below a page's tile."""
        found = re.search(TILE.format(re.escape(name)), self.page(path))
        assert found, f"{path} has no tile {name}"
        return " ".join(html.unescape(part) for part in found.groups("")).strip()

    def table(self, path: str, name: str) -> list[dict[str, str]]:
        """The rows of a page's table, by the titles of its columns."""
        drawn = re.search(rf'(?s)<table[^>]*id="table-{name}">(.*?)</table>', self.page(path))
        assert drawn, f"{path} has no table {name}"
        heads = [words(one) for one in re.findall(r"(?s)<th[^>]*>(.*?)</th>", drawn[1])]
        rows = re.findall(r"(?s)<tr>(.*?)</tr>", drawn[1].partition("</thead>")[2])
        cells = [[words(one) for one in re.findall(r"(?s)<td[^>]*>(.*?)</td>", row)] for row in rows]
        return [dict(zip(heads, row, strict=True)) for row in cells]

    def listed(self, path: str) -> dict[str, str]:
        """The run's line in a page's list of runs."""
        lists = re.findall(r"(?s)<table.*?</table>", self.page(path))
        drawn = next(one for one in lists if f"/runs/{self.run.id}" in one and "<th>status</th>" in one)
        heads = [words(one) for one in re.findall(r"(?s)<th[^>]*>(.*?)</th>", drawn)]
        cells = [words(one) for one in re.findall(r"(?s)<td[^>]*>(.*?)</td>", drawn.partition("</thead>")[2])]
        return dict(zip(heads, cells, strict=True))


def words(markup: str) -> str:
    """The text of a piece of HTML."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("figures")
    home = folder / "home"
    before = {name: os.environ.pop(name, None) for name in ("GRAFT_HOME", "PREFECT_API_URL")}
    os.environ["GRAFT_HOME"] = str(home)
    try:
        with Serving() as server:
            run = graft.run(str(write_recipe(folder, server.url, rows=12, model=PRICE))).run
        with Lake.open(Home(home)) as lake:
            learn(lake)
        row = json.loads(here(home, "show", "shop", "--json").stdout)["rows"][0]["id"]
        with TestClient(create_app(Home(home), door=Door()), "http://127.0.0.1") as pages:
            yield Made(home, run, row, pages)
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        os.environ.pop("GRAFT_HOME", None) if before["GRAFT_HOME"] is None else None


def learn(lake: Lake) -> None:
    """Put two evaluated students into the lake: of the seeds alone, and of the version with every row right."""
    for name, trained_on, right in (("st_seeds", "seeds", 15), ("st_version", "version", SURE)):
        lake.save_student(
            Student(id=name, dataset="shop", version=1, trained_on=trained_on, settings=StudentSettings(),
                    encoder_revision="e", train_rows=24, device="cpu", seconds=1.5, path=f"students/{name}",
                    created_at=utc_now())
        )  # fmt: skip
        share, wrong = right / SURE, SURE - right
        score = ClassScore(label="alpha", precision=1.0, recall=1.0, f1=1.0, support=12)
        lake.save_evaluation(
            Evaluation(
                student_id=name, test_file="test.csv", test_hash="h1", rows=SURE, accuracy=share,
                macro_f1=share - 0.01, classes=(score, score.model_copy(update={"label": "beta"})),
                confusion=((12, 0), (wrong, 12 - wrong)), labels=("alpha", "beta"), ece=0.0421,
                interval=(1.0, 1.0) if not wrong else (0.4, 0.85),
            )
        )  # fmt: skip


def test_a_run_has_the_same_counts_and_price_everywhere(made: Made) -> None:
    run, counts = made.run, made.run.counts
    price, tokens = money(run.price_usd), run.prompt_tokens + run.completion_tokens
    assert run.calls > 100 and price.startswith("$") and counts["rejected"] > 0
    line = re.search(rf"{run.id} .*?([\d,]+) of ([\d,]+) +([\d,]+) +(\S+) ", made.terminal("status"))
    ended = (str(counts["accepted"]), str(counts["opened"]), str(run.calls), price)
    assert line and line.groups() == ended
    for path in ("/", "/runs"):
        shown = made.listed(path)
        assert (shown["accepted"], shown["opened"], shown["calls"], shown["price"]) == ended, path
    page = f"/runs/{run.id}"
    assert made.tile(page, "calls").split()[0] == made.tile("/", "calls this month") == str(run.calls)
    assert made.tile(page, "price") == made.tile("/", "price this month") == price
    assert made.tile("/datasets/shop@1", "price of its run") == f"{price} {run.calls} calls"
    assert made.tile("/", "tokens this month") == made.tile("/models", "tokens") == f"{tokens:,}"
    card = made.terminal("show", "shop")
    for words_ in (f"price: {price}", f"model calls: {run.calls:,} (", f"tokens: {run.prompt_tokens:,} read, "):
        assert words_ in card


def test_the_yield_is_the_accepted_share_of_all_candidates_everywhere(made: Made) -> None:
    counts = made.run.counts
    share = f"{counts['accepted'] / counts['opened']:.1%}"
    quality, models = made.terminal("quality", "shop"), made.terminal("models")
    assert re.search(rf"yield +{re.escape(share)}", quality) and f"{share} of candidates were accepted" in quality
    assert re.search(rf" {counts['opened']} +{counts['accepted']} +{re.escape(share)} ", models)
    assert made.tile("/models", "accepted") == f"{counts['accepted']} {share} of them"
    assert made.tile("/models", "candidates") == str(counts["opened"])
    assert re.search(rf"accepted\.agreed +{counts['accepted']} +{re.escape(share)}", made.terminal("show", "shop"))
    ends = made.table(f"/runs/{made.run.id}", "funnel")
    assert [(one["candidates"], one["share"]) for one in ends if one["end"] == "accepted"] == [
        (str(counts["accepted"]), share)
    ]
    rejected = sum(int(one["candidates"]) for one in ends if one["end"] == "rejected")
    shown = made.terminal("show", "shop", "--rejected")
    assert rejected == counts["rejected"] == sum(int(n) for n in re.findall(r"(?m)^ +rejected\.\w+ +(\d+) ", shown))
    for path in ("/datasets/shop@1/quality", "/datasets/shop@1"):
        assert f"{share} of candidates were accepted" in made.page(path)
    report = re.sub(r"\s+", " ", report_of(made))
    assert f"yield {share} of {counts['opened']} ·" in report and f"{cost_of_a_row(made)} an accepted row" in report


def report_of(made: Made) -> str:
    """The report of a command that ran the recipe; it is written as `graft run` writes it."""
    from graft.cli.report import run_page
    from graft.flows.rounds import funnel

    with Lake.open(Home(made.home), read_only=True) as lake:
        result = {"run": made.run.model_dump(mode="json"), "version": None, "funnel": funnel(lake, made.run.id)}
    return run_page(Home(made.home), result)


def cost_of_a_row(made: Made) -> str:
    with Lake.open(Home(made.home), read_only=True) as lake:
        return money(spent(lake).row_price_usd)


def test_an_accepted_row_has_one_price(made: Made) -> None:
    price = cost_of_a_row(made)
    assert made.tile("/models", "an accepted row") == price and price in made.terminal("models")
    assert re.search(rf"price of an accepted row +{re.escape(price)}", made.terminal("quality", "shop"))
    assert f"price of an accepted row: {price}." in words(made.page("/datasets/shop@1"))
    assert price in words(made.page("/datasets/shop@1/quality"))


def test_each_model_has_the_same_usage_and_licence_on_card_pages_and_terminal(made: Made) -> None:
    with Lake.open(Home(made.home), read_only=True) as lake:
        uses = spent(lake).uses
    of_run = {one["model"]: one for one in made.table(f"/runs/{made.run.id}", "models")}
    of_version = {one["model"]: one for one in made.table("/datasets/shop@1", "models")}
    over_time, card = {one["model"]: one for one in made.table("/models", "uses")}, made.terminal("show", "shop")
    terminal = made.terminal("models")
    assert len(of_version) == 5, "each model once, also the adjudicator that had nothing to do"
    for use in uses:
        calls, price = str(use.calls), money(use.price_usd)
        for found in (of_run, of_version, over_time):
            assert (found[use.model]["calls"], found[use.model]["price"]) == (calls, price), use.model
        for found in (of_run, of_version):
            assert (found[use.model]["licence"], found[use.model]["provider"]) == ("MIT", "openai")
        assert re.search(rf"{use.model} +{use.role} +{calls} .*{re.escape(price)}", terminal)
        assert re.search(rf" {use.model} .*{use.role}.* {calls} ", made.terminal("trace"))
        assert re.search(rf"{use.model} .*openai +{use.role} +MIT .*{calls} .*{re.escape(price)}", card)


def test_agreement_and_vocabulary_are_the_same_in_terminal_and_pages(made: Made) -> None:
    quality, page = made.terminal("quality", "shop"), words(made.page("/datasets/shop@1/quality"))
    for name in ("different words", "self-BLEU", "alpha of scores", "rows that repeat another's text"):
        found = re.search(rf"{name} +(\S+)", quality)
        assert found and f"{name} {found[1]}" in page, name
    alpha = re.search(r"alpha of scores +(\S+)", quality)
    assert alpha and made.page("/datasets/shop@1").count(f"alpha {alpha[1]}") >= 1
    assert f"alpha of scores {alpha[1]}" in words(made.page("/datasets/shop@1/reviews"))


def test_rows_of_a_version_are_the_same_in_terminal_python_card_and_pages(made: Made) -> None:
    with Lake.open(Home(made.home), read_only=True) as lake:
        found = version(lake, "shop")
    assert found.rows == made.run.counts["published"] == sum(found.labels.values()) == 24
    assert made.tile("/datasets/shop@1", "rows") == str(found.rows)
    assert re.search(rf"shop@1 +{found.rows} ", made.terminal("datasets"))
    assert f"{found.rows} rows for classification" in made.terminal("show", "shop")
    assert f"rows by model m1: {found.rows}" in made.terminal("trace", "--model", "m1")
    for name, count in found.splits.items():
        assert made.tile("/datasets/shop@1", name) == f"{count} {count / found.rows:.1%}"


def test_a_row_has_one_price_and_one_decision(made: Made) -> None:
    history = json.loads(here(made.home, "explain", made.row, "--json").stdout)
    price = money(history["price_usd"], history["local"])
    assert re.search(rf"price\W+{re.escape(price)}", made.terminal("explain", made.row))
    page = words(made.page(f"/rows/{made.row}"))
    assert f"price {price}" in page and f"{history['decision']['mean']:.2f}" in page


def test_an_accuracy_has_one_interval_and_shares_are_percentages(made: Made) -> None:
    terminal = made.terminal("students", "shop")
    assert re.search(r"st_version.*100\.0% +86\.2% +100\.0% +\+?37\.5%.* 99\.0% +4\.2%", terminal), terminal
    tile = made.tile("/students/st_version", "accuracy")
    assert tile == "100.0% 86.2% to 100.0%"
    assert made.tile("/students/st_version", "macro-F1") == "99.0%"
    assert made.tile("/students/st_version", "calibration error") == "4.2%"
    row = next(one for one in made.table("/datasets/shop@1", "students") if one["student"] == "st_version")
    assert (row["accuracy"], row["95% interval"], row["over seeds only"]) == ("100.0%", "86.2%–100.0%", "37.5%")
