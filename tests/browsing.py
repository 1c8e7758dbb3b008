"""Shared parts of page tests: a filled lake, `graft dashboard` started as from a terminal, and a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from graft.dashboard.door import Key
from graft.data.lake import Lake
from graft.data.scores.answers import keep
from graft.data.versions import publish
from graft.schemas.calls import Call
from graft.schemas.datasets import Row, Run
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, GateResult, Review, Slot
from graft.schemas.students import Student, StudentSettings
from graft.students.evaluate import evaluate

AT = datetime(2026, 11, 25, tzinfo=UTC)
TRICK = (
    '<img src=x onerror="document.title=1"> [a](http://evil.example) **bold** =1+1 \u202etxt.exe '
    "<script>alert(1)</script>"
)
SECRET = "what a restricted row says"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
LABELS = ("price", "delivery")
RECIPE = {
    "task": {"kind": "classification", "labels": [{"name": name} for name in LABELS]},
    "target": {"rows_per_label": 80},
}


def candidate(number: int, accepted: bool = True) -> Candidate:
    label = LABELS[number % 2]
    text = {0: TRICK, 7: SECRET}.get(number, f"{number}: where is the price of article {number}?")
    slot = Slot(id=f"sl_{number}", run_id="run1", shard=0, round=0, index=number, label=label, seed=number)
    end: dict[str, Any] = (
        {"status": "accepted", "route": "agreed", "code": "accepted.agreed", "reason": "all agreed"}
        if accepted
        else {"status": "rejected", "route": "gate", "code": "gate.near_duplicate", "reason": "too near to another"}
    )
    review = Review(stage="content", role="reviewer", model="minilm", mean=8.5, comment=TRICK, call_key="k")
    gate = GateResult(gate="near_run", rule="passed" if accepted else "near_duplicate", passed=accepted, score=0.9)
    return Candidate(
        id=f"c_row{number:05}", slot=slot, text=text, label=label, intended_label=label, reviews=(review,),
        gates=(gate,), decision=Decision(**end, mean=8.5), models={"generator": "gemma"}, restricted=number == 7,
    )  # fmt: skip


def call(number: int) -> Call:
    return Call(
        key=f"key{number}", run_id="run1", candidate_id=f"c_row{number:05}", role="generator", purpose="text",
        model="gemma", provider="embedded", request="{}", reply=TRICK, prompt_tokens=50, completion_tokens=9,
        served_model=None, revision=None, cached_tokens=None, price_usd=0.001, latency_s=0.2 + number / 100,
        attempts=1, cached=False, at=AT.replace(minute=number % 60),
    )  # fmt: skip


def fill(home: Home) -> None:
    run = Run(
        id="run1", dataset="shop", recipe=RECIPE, status="finished", started_at=AT, code_version="1", calls=120,
        price_usd=0.12, seconds=60, counts={"opened": 160, "accepted": 120}, version=1, stopped_by="target",
    )  # fmt: skip
    rows = [
        Row(id=f"c_row{n:05}", text=candidate(n).text, label=LABELS[n % 2],
            split=("train", "train", "validation", "test")[n % 4], restricted=n == 7)
        for n in range(120)
    ]  # fmt: skip
    with Lake.open(home) as lake:
        lake.save_run(run)
        lake.commit("run1", "b1", [candidate(n, n < 120) for n in range(160)], [call(n) for n in range(120)])
        card = f"# shop\n\n| a | b |\n| --- | --- |\n| {TRICK} | 1 |"
        for some in (rows[:60], rows):
            publish(lake, run=run, rows=some, models={"gemma": "Gemma"}, seeds=2, card=card)  # fmt: skip
    judge(home)


def run_of(dataset: str, run_id: str) -> Run:
    """A finished run of a dataset."""
    return Run(id=run_id, dataset=dataset, recipe=RECIPE, status="finished", started_at=AT, code_version="1", version=1)


def judge(home: Home) -> None:
    """Two students of `shop`, on the seeds alone and on its second version, judged on the same 40 rows."""
    held_out = [(f"held-out text {n}", LABELS[n % 2]) for n in range(40)]
    with Lake.open(home) as lake:
        for name, version, wrong in (("st_seeds", None, 3), ("st_shop2", 2, 8)):
            student = Student(
                id=name, dataset="shop", version=version, trained_on="version" if version else "seeds",
                settings=StudentSettings(), encoder_revision="1", train_rows=60, device="cpu", seconds=9.0,
                path=f"students/{name}", created_at=AT,
            )  # fmt: skip
            answers = [LABELS[(n + (n % wrong == 0)) % 2] for n in range(40)]
            shares = [[0.8, 0.2] if one == "price" else [0.3, 0.7] for one in answers]
            judged = evaluate(answers, held_out, LABELS, student_id=name, test_file="test.csv", probabilities=shares)
            lake.save_student(student)
            lake.save_evaluation(judged)
            folder = home.root / student.path
            folder.mkdir(parents=True)
            keep(folder, judged, held_out, answers, shares)


COOKIES: dict[str, str] = {}
"""Of the servers that `serving` started: what their keys let a browser in with. `visiting` has them all."""


@contextmanager
def serving(home: Path, **environment: str) -> Iterator[str]:
    """`graft dashboard` as a person starts it; the address that it printed. `visiting` is let in."""
    command = [sys.executable, "-m", "graft", "dashboard", "--port", "0", "--no-open"]
    variables = {**os.environ, "GRAFT_HOME": str(home), **environment}
    with subprocess.Popen(
        command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found, line
            if not environment.keys() & {"GRAFT_DASHBOARD_PASSWORD", "GRAFT_DASHBOARD_USER_HEADER"}:
                COOKIES.update([Key(home).cookie])
            yield found[0]
        finally:
            server.terminate()
            server.wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "Chromium is missing: make browser"
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("full")
    fill(Home(folder))
    with serving(folder) as address:
        yield address


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("empty")) as address:
        yield address


BROKEN = """() => {
  const found = [], range = document.createRange();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    if (text.parentElement.closest("script, style, svg, option, .unseen")) continue;
    for (const word of text.data.matchAll(/\\S+/g)) {
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      const boxes = [...range.getClientRects()].filter((box) => box.width > 0);
      const lines = new Set(boxes.map((box) => Math.round(box.top))).size;
      if (lines > Math.max(word[0].split(/[^\\p{L}\\p{N}]+/u).length, word[0].length / 8))
        found.push(`${text.parentElement.tagName}: ${word[0]} on ${lines} lines`);
    }
  }
  return found;
}"""


def broken_words(page: Page) -> list[str]:
    """Words of the page that are on more lines than their hyphens allow, or than one for eight of their letters."""
    return list(page.evaluate(BROKEN))


@contextmanager
def visiting(
    browser: Browser, width: int = 1440, scheme: Any = "light", *, let_in: bool = True, **more: Any
) -> Iterator[tuple[Page, list[str]]]:
    """A page of its own, and what went wrong on it. It has the servers' cookies unless `let_in` is false."""
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
    context.add_cookies([
        {"name": name, "value": value, "domain": "127.0.0.1", "path": "/", "httpOnly": True, "sameSite": "Strict"}
        for name, value in (COOKIES.items() if let_in else ())
    ])  # fmt: skip
    page = context.new_page()
    page.on(
        "console", lambda one_value: wrong.append(one_value.text) if one_value.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda request: (
            None if "127.0.0.1" in request.url or request.url.startswith("data:") else wrong.append(request.url)
        ),
    )
    page.on("dialog", lambda shown: (wrong.append(shown.message), shown.dismiss()))
    yield page, wrong
    context.close()
