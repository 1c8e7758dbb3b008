"""Runs, students, models and schedules in a real browser: what a person reads there, and does."""

from __future__ import annotations

import csv
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from browsing import AT, RECIPE, candidate, serving, visiting
from playwright.sync_api import Browser
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists

from graft.data.lake import Lake
from graft.flows import schedules
from graft.flows.deploy import POOL, DeploymentSpec, deploy
from graft.flows.prefect_api import client_at
from graft.schemas.base import utc_now
from graft.schemas.datasets import Run
from graft.schemas.home import Home
from graft.schemas.live import Live, LiveEndpoint, live_file

FLOW = """
from prefect import flow

@flow(name="{name}")
def told(recipe_word: str, count: int = 3) -> None:
    pass
"""


def test_a_live_run_shows_its_speed_its_limits_and_silence(browser: Browser, tmp_path: Path) -> None:
    home = Home(tmp_path)
    run = Run(id="run1", dataset="shop", recipe=RECIPE, status="running", started_at=AT, code_version="1")
    now = Live(
        run_id="run1", dataset="shop", at=utc_now(), seconds=9, pid=os.getpid(), stage="round 1: writing",
        wanted={"price": 80}, accepted={"price": 20}, per_minute=12.5, eta_s=288, waiting="the model's max_concurrency",
        endpoints=(
            LiveEndpoint(
                model="gemma", limit=8, inside=7, queued=3, calls=40, refused=2, pause_s=0, p50_s=0.4, p95_s=1.1
            ),
        ),
        api_url="http://127.0.0.1:4200/api", flow_run_id="abc",
    )  # fmt: skip
    with Lake.open(home) as lake:
        lake.save_run(run)
        lake.commit("run1", "b1", [candidate(n, n % 3 > 0) for n in range(30)], [])
    live_file(home, "run1").parent.mkdir(parents=True)
    live_file(home, "run1").write_text(now.model_dump_json())
    with serving(tmp_path) as address, visiting(browser) as (page, wrong):
        page.goto(f"{address}/runs/run1")
        output = page.locator("#live").inner_text()
        assert "12.5" in output and "4 min 48 s" in output and "limited by the model's max_concurrency" in output
        assert page.locator("#table-endpoints td.n").all_inner_texts()[:3] == ["7", "8", "3"]
        link = page.get_by_role("link", name="the flow run in Prefect").get_attribute("href")
        assert link is not None and link.endswith("/runs/flow-run/abc")
        page.get_by_role("link", name="gate.near_duplicate").click()
        page.wait_for_url("**rejected=1**")
        assert page.locator("table tbody tr").count() == 10, "the reason opens its rows"
        page.goto(address)
        assert "20 of 80 accepted" in page.locator("#live").inner_text()
        old = now.model_copy(update={"at": AT})
        live_file(home, "run1").write_text(old.model_dump_json())
        page.goto(f"{address}/runs/run1")
        page.get_by_text("No sign of life from this run").wait_for()
        assert wrong == []


def test_runs_are_set_side_by_side(browser: Browser, full: str, tmp_path: Path) -> None:
    home = Home(tmp_path)
    with Lake.open(home) as lake:
        for name, some in (("one", 30), ("two", 60)):
            lake.save_run(
                Run(id=name, dataset="shop", recipe=RECIPE, status="finished", started_at=AT, ended_at=AT,
                    code_version="1", seconds=60)
            )  # fmt: skip
            lake.commit(name, "b1", [candidate(n, n % 2 > 0) for n in range(some)], [])
    with serving(tmp_path) as address, visiting(browser) as (page, wrong):
        page.goto(f"{address}/runs")
        page.get_by_label("compare one").check()
        page.get_by_label("compare two").check()
        page.get_by_role("button", name="compare ticked runs").click()
        page.wait_for_url("**/compare**")
        cells = page.locator("tr", has_text="accepted rows a minute").locator("td").all_inner_texts()
        assert [cell.strip() for cell in cells][1:] == ["15.0", "30.0"] and wrong == []
        answer = page.goto(f"{address}/runs/compare?run=one")
        assert answer is not None and answer.status == 400 and "tick runs" in page.content()


def test_students_are_ranked_and_tested_against_each_other(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/students")
        rows = page.locator("#table-board0 tbody tr").all_inner_texts()
        assert "st_shop2" in rows[0] and "87.5%" in rows[0] and "65.0%" in rows[1], "best first"
        page.get_by_role("link", name="st_shop2").click()
        page.locator("select[name=with]").select_option("st_seeds")
        page.get_by_text("McNemar's p").wait_for()
        counts = {row.split("\t")[0]: int(row.split("\t")[1]) for row in
                  page.locator("#table-pair tbody tr").all_inner_texts()}  # fmt: skip
        assert sum(counts.values()) == 40 and counts["only st_seeds"] == 3
        assert page.locator("figure svg").count() == 1 and page.locator(".matrix").count() == 1
        sliced = page.request.get(page.url + "&csv=slices").text()
        assert "held-out" not in sliced and {row["kind"] for row in csv.DictReader(io.StringIO(sliced))} >= {"label"}
        answer = page.goto(f"{full}/students/st_none")
        assert answer is not None and answer.status == 404 and wrong[:1] != [] and "no student" in page.content()


def test_models_say_what_they_took_and_whether_it_was_worth_it(browser: Browser, full: str) -> None:
    with visiting(browser) as (page, wrong):
        page.goto(f"{full}/models?days=")
        assert page.locator("#table-writers tbody tr").inner_text().split("\t")[:5] == [
            "gemma", "generator", "160", "120", " 75.0%",
        ]  # fmt: skip
        assert "$0.12" in page.locator("#table-uses").inner_text()
        svg = page.request.get(f"{full}/charts/spending.svg?days=&part=role")
        assert svg.ok and "generator" in svg.text()
        page.get_by_label("over").select_option("7")
        page.wait_for_url("**days=7**")
        assert wrong == []
        answer = page.goto(f"{full}/models?days=x")
        assert answer is not None and answer.status == 400 and "unknown period" in page.content()


@pytest.fixture
def planned(tmp_path: Path, prefect_url: str) -> tuple[Home, str]:
    """A home whose server is the session's, and a deployment of a flow that no other test has."""
    home, flow = Home(tmp_path / "home"), f"told-{tmp_path.name}"
    home.prefect.mkdir(parents=True)
    (home.prefect / "up.json").write_text(json.dumps({"api_url": prefect_url}), encoding="utf-8")
    with client_at(prefect_url) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    (tmp_path / "told_flow.py").write_text(FLOW.format(name=flow), encoding="utf-8")
    spec = DeploymentSpec("told_flow.py:told", "n", {"recipe_word": "hello"}, "0 3 * * *", root=tmp_path)
    with ThreadPoolExecutor(1) as thread:  # the browser's driver has an event loop in this one
        return home, thread.submit(deploy, prefect_url, [spec]).result()[0]


def test_a_schedule_is_paused_and_started_with_other_parameters(browser: Browser, planned: tuple[Home, str]) -> None:
    home, name = planned

    def mine() -> schedules.DeploymentInfo:
        return next(one for one in schedules.deployments(home) if one.name == name)

    with serving(home.root) as address, visiting(browser) as (page, wrong):
        page.goto(f"{address}/schedules")
        card = page.locator("details", has_text=name)
        card.locator("summary").click()
        card.get_by_role("button", name="pause its schedule").click()
        page.locator("section.deployment", has_text=name).get_by_text("paused", exact=True).wait_for()
        assert mine().paused
        card.locator("summary").click()
        card.get_by_role("button", name="resume its schedule").click()
        card.locator("summary").click()
        assert not mine().paused
        card.get_by_label("count").fill("7")
        card.get_by_role("button", name="start now").click()
        page.get_by_text("was requested").wait_for()
        last = mine().last_run or next(run for run in schedules.recent(home, 50) if run.deployment == name)
        page.get_by_role("button", name=f"cancel {last.name}").click()
        page.locator("#table-runs tr", has_text=last.name).get_by_text("Cancelled").wait_for()
        assert wrong == []
        card.locator("summary").click()
        card.get_by_label("count").fill("many")
        card.get_by_role("button", name="start now").click()
        assert "count" in page.locator(".notice").inner_text()
    (home.prefect / "up.json").write_text(json.dumps({"api_url": "http://127.0.0.1:1/api"}), encoding="utf-8")
    with serving(home.root) as address, visiting(browser) as (page, wrong):
        page.goto(f"{address}/schedules")
        assert "Prefect's server is not running" in page.content()
        page.goto(address)
        assert "The lake is empty" in page.content() and wrong == []
