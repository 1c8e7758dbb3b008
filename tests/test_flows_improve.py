"""Rows in rounds: versions that grow, students that judge, a comparison that is fair, and the report of a loop."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
from test_flows_make_dataset import graft, write_recipe

from graft.data.card import section_markdown
from graft.data.lake import Lake
from graft.data.scores.answers import VALIDATION, answers
from graft.data.versions import rows as version_rows
from graft.data.versions import versions
from graft.flows.improve_report import best_round, summary
from graft.flows.improve_round import nothing_to_steer_by
from graft.schemas.base import utc_now
from graft.schemas.errors import InputInvalid
from graft.schemas.home import Home
from graft.schemas.load import load_recipe
from graft.schemas.steering import Improvement, ImproveSettings, RoundResult
from graft.students.steer import SteeringRow

TEST = [("zebra crossings are painted at night", "alpha"), ("walnut shelves hold seven jars", "beta")] * 4
LABELS = ("alpha", "beta")
IMPROVE = ["--rounds", "2", "--rows-per-round", "12", "--json"]


@pytest.fixture
def recipe(tmp_path: Path, fake_llm: Any) -> Path:
    file = write_recipe(tmp_path, fake_llm.url)
    encoder = tiny_encoder.write(tmp_path / "encoder", [text for text, _ in TEST])
    held = tmp_path / "held.jsonl"
    held.write_text(
        "".join(json.dumps({"text": f"{text} {n}", "label": label}) + "\n" for n, (text, label) in enumerate(TEST))
    )
    text = file.read_text(encoding="utf-8")
    text = text.replace("roles:", "  - {name: near, provider: encoder, model: all-MiniLM-L6-v2}\nroles:", 1)
    text = text.replace("[m2, m3, m4]", "[m2, near]").replace(
        "reviewers: 3", "reviewers: 2, tau: 3, delta: 10, min_probability: 0, min_margin: 0"
    )
    text += f"student: {{encoder: {encoder}, epochs: 1, max_length: 16, test: held.jsonl}}\n"
    text += "splits: {train: 0.5, validation: 0.5, test: 0}\n"
    text += "improve: {patience: 3, enough: 1, policies: [hard_negatives, weakness, domain_gap, easy_to_hard]}\n"
    file.write_text(text, encoding="utf-8")
    return file


def test_rounds_grow_a_dataset_and_the_last_student_judges_the_next(
    tmp_path: Path, fake_llm: Any, recipe: Path, plugin: Path
) -> None:
    """Steered by Graft's own policies, and by one of another distribution."""
    home = tmp_path / "home"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("easy_to_hard]", "easy_to_hard, errors]"))
    done = graft(home, "improve", str(recipe), *IMPROVE)
    assert done.returncode == 0, done.stderr
    first = json.loads(done.stdout)
    steered = [one for one in first["rounds"] if one["arm"] == "steered"]
    unsteered = [one for one in first["rounds"] if one["arm"] == "unsteered"]
    assert [(one["round"], one["rows"]) for one in steered] == [(0, 0), (1, 12), (2, 24)]
    assert sum(steered[2]["wanted"].values()) == 12 and len(steered[2]["said"]) == 5
    assert re.fullmatch(r"errors: \d+ errors", steered[2]["said"][-1])
    assert len({one["student_id"] for one in first["rounds"]}) == 4
    assert steered[-1]["candidates"] == unsteered[0]["candidates"]
    assert unsteered[0]["dataset"] == "shop-unsteered"
    assert all(Path(file).is_file() for file in first["files"])
    kept = [one for one in first["rounds"] if one["kept"]]
    assert len(kept) == 1 and f" and {kept[0]['student_id']}: best on the rows that steer" in first["text"]
    assert all(one["loss"] > 0 for one in steered[1:])
    assert "keep " in first["text"] and "unsteered" in first["text"]
    with Lake.open(Home(home), read_only=True) as lake:
        held = [{row["text"] for row in version_rows(lake, one).to_pylist()} for one in versions(lake, "shop-improved")]
        assert held[0] < held[1]
        judges = lake.query("SELECT DISTINCT run_id, model FROM lake.reviews WHERE model IN ('near', 'student')")
        by_run = {
            one["run_id"]: {row["model"] for row in judges if row["run_id"] == one["run_id"]} for one in first["rounds"]
        }
        assert [by_run[one["run_id"]] for one in steered[1:]] == [{"near"}, {"student"}]
        assert by_run[unsteered[0]["run_id"]] == {"near"}
        prompts = [
            [row["request"] for row in lake.query(
                "SELECT request FROM lake.calls WHERE purpose = 'generate.text' AND run_id = ?", [one["run_id"]]
            )]
            for one in (steered[1], steered[2], unsteered[0])
        ]  # fmt: skip
        screened = lake.query("SELECT gates FROM lake.candidates WHERE run_id = ?", [steered[2]["run_id"]])
        assert any(one["gate"] == "difficulty" for row in screened for one in row["gates"])
        shown = [sum("Its results on texts that it did not learn from" in one for one in asked) for asked in prompts]
        assert shown == [0, len(prompts[1]), 0], "every prompt of a steered round holds the report"
        assert lake.improvements("shop")[0].stopped_by == "seed 42: rounds"
        last = next(one for one in lake.students("shop-improved") if one.id == steered[2]["student_id"])
        own = next(one for one in lake.evaluations(last.id) if one.test_file == VALIDATION)
        said_of = answers(lake.home, last, own.test_hash)
        assert said_of is not None and said_of.column("row_id") == [
            row["id"]
            for row in version_rows(lake, versions(lake, "shop-improved")[1]).to_pylist()
            if row["split"] == "validation"
        ]
    journal = b"".join(file.read_bytes() for file in home.glob("journal.sqlite*"))
    assert not any(text.encode() in journal for text, _ in TEST), "a held-out text was sent to a model"
    calls = fake_llm.stats()["calls"]
    again = json.loads(graft(home, "improve", str(recipe), *IMPROVE).stdout)
    assert fake_llm.stats()["calls"] == calls
    assert [one["test"] for one in again["rounds"]] == [one["test"] for one in first["rounds"]]
    assert [one["version"] for one in again["rounds"]] == [one["version"] for one in first["rounds"]]
    recipe.write_text(
        recipe.read_text().replace("[hard_negatives, weakness, domain_gap, easy_to_hard, errors]", "[domain_gap]")
    )
    steer = tmp_path / "steer.jsonl"
    steer.write_text(
        "".join(f'{{"text": "spare row {n}", "label": "{"beta" if n % 2 else "alpha"}"}}\n' for n in range(12))
    )
    words = (*IMPROVE, "--no-compare", "--steer-on", str(steer))
    other = json.loads(graft(home, "improve", str(recipe), *words).stdout)
    with Lake.open(Home(home), read_only=True) as lake:
        asked = lake.query("SELECT request, model FROM lake.calls WHERE purpose LIKE 'labeler%'")
    assert {row["model"] for row in asked} == {"m2", "m5"}, "the judges are this loop's teachers"
    assert all(any(f"spare row {n}" in row["request"] for row in asked) for n in range(12))
    assert [one["rows"] for one in other["rounds"]] == [0, 12, 24], (
        "what another loop published binds this one in nothing"
    )
    assert other["rounds"][1]["candidates"] == steered[1]["candidates"]
    recipe.write_text(recipe.read_text().replace("enough: 1,", "enough: 0.01,"))
    calls = fake_llm.stats()["calls"]
    ended = graft(home, "improve", str(recipe), *IMPROVE)
    done = json.loads(ended.stdout)
    assert ended.returncode == 0 and fake_llm.stats()["calls"] == calls, "neither a round nor a comparison is paid for"
    assert [(one["arm"], one["round"]) for one in done["rounds"]] == [("steered", 0), ("steered", 1)]
    assert "seed 42: nothing to steer by: the student has" in done["stopped_by"]
    assert "nothing to steer by, so nothing more was spent" in done["text"]


def test_nothing_is_spent_if_the_seeds_alone_leave_nothing_to_steer_by(
    tmp_path: Path, fake_llm: Any, recipe: Path
) -> None:
    steer = tmp_path / "steer.jsonl"
    steer.write_text(
        "".join(json.dumps({"text": f"spare {n} {one}", "label": one}) + "\n" for n in range(3) for one in LABELS)
    )
    recipe.write_text(recipe.read_text().replace("enough: 1,", "enough: 0.5,"))
    done = graft(tmp_path / "home", "improve", str(recipe), "--steer-on", str(steer))
    assert done.returncode == 0, done.stderr
    assert "nothing to steer by, so nothing more was spent" in done.stdout
    assert "keep the seeds alone and st_" in done.stdout and "round 1" not in done.stdout
    assert fake_llm.stats()["calls"] == 0


@pytest.mark.parametrize(
    ("changed", "by", "expected"),
    [
        ("test: held.jsonl", "seed: 1", "student.test"),
        ("improve: {", "improve: {steer_on: held.jsonl, ", "in the held-out file too"),
    ],
)
def test_an_impossible_loop_is_refused_before_anything_is_spent(
    tmp_path: Path, fake_llm: Any, recipe: Path, changed: str, by: str, expected: str
) -> None:
    recipe.write_text(recipe.read_text().replace(changed, by))
    done = graft(tmp_path / "home", "improve", str(recipe), "--json")
    assert done.returncode != 0 and expected in done.stderr and "Traceback" not in done.stderr
    assert fake_llm.stats()["calls"] == 0


@pytest.mark.parametrize(
    ("changed", "by", "expected"),
    [
        ("improve: {", "improve: {steer_on: none.jsonl, ", "improve.steer_on"),
        ("policies: [hard_negatives,", "policies: [hard_negatives, hard_negatives,", "named twice"),
        ("policies: [hard_negatives,", "policies: [hard_negativ,", "hard_negatives"),
    ],
)
def test_a_recipe_with_a_broken_loop_is_refused(recipe: Path, changed: str, by: str, expected: str) -> None:
    recipe.write_text(recipe.read_text().replace(changed, by))
    with pytest.raises(InputInvalid) as caught:
        load_recipe(recipe)
    assert expected in str(caught.value)


def loop(*rounds: RoundResult) -> Improvement:
    return Improvement(
        id="im_1", dataset="desk", recipe_file="desk.yaml", settings=ImproveSettings(), test_file="held.jsonl",
        rounds=rounds, stopped_by="seed 1: rounds", created_at=utc_now(),
    )  # fmt: skip


def told(improvement: Improvement) -> str:
    return "\n".join(summary(improvement).notes)


def made(number: int, test: float, steering: float | None = None, seed: int = 1, arm: str = "steered") -> RoundResult:
    return RoundResult.model_validate(
        {"arm": arm, "seed": seed, "round": number, "dataset": f"desk-{arm}", "version": number or None,
         "student_id": f"st_{number}", "rows": 10 * number, "test": test, "steering": steering, "price_usd": None}
    )  # fmt: skip


def test_the_round_to_keep_is_chosen_by_what_steers_and_never_by_the_test() -> None:
    rounds = (made(0, 0.5), made(1, 0.9, 0.6), made(2, 0.7, 0.8), made(3, 0.6, 0.8))
    kept = best_round(rounds)
    assert kept is not None and kept.round == 3
    text = told(loop(*rounds))
    assert "keep desk-steered@3 and st_3" in text and "over the seeds alone: +10.0 points" in text
    assert "overfits what steers it" in text, "steering rose by 20 points while the test fell by 30"
    table = section_markdown(summary(loop(*rounds))).splitlines()
    assert next(line for line in table if "| round 2 |" in line).startswith("| round 2 | 20 | 0 | 0 | 0 | unknown |")


def test_the_round_with_the_lowest_loss_is_kept_even_if_it_is_that_of_the_seeds() -> None:
    rounds = [made(0, 0.8), made(1, 0.7, 0.9), made(2, 0.6, 0.95)]
    rounds[0] = rounds[0].model_copy(update={"kept": True})
    assert best_round(rounds) == rounds[0]
    assert "keep the seeds alone and st_0" in told(loop(*rounds))
    assert "nothing to steer by" not in told(loop(*rounds))


def judged(label: str, predicted: str, text: str = "") -> SteeringRow:
    return SteeringRow(text or f"{label} {predicted}", label, {name: float(name == predicted) for name in LABELS})


def test_a_loop_stops_if_its_student_makes_too_few_mistakes() -> None:
    right, wrong = judged("alpha", "alpha"), [judged("beta", "alpha", f"b{n}") for n in range(4)]
    assert "no row steers" in nothing_to_steer_by([], wrong, 0.95)
    assert "95.0% of 20 steering rows right" in nothing_to_steer_by([right] * 19 + wrong[:1], wrong, 0.95)
    assert "too few mistakes (2, and 3 are the least)" in nothing_to_steer_by([right, wrong[0]], wrong[:2], 0.95)
    assert nothing_to_steer_by([right, wrong[0]], wrong[1:3], 0.95) == "", "those of the training rows count too"


def test_rows_that_do_not_help_are_called_so() -> None:
    assert "these rows do not help" in told(loop(made(0, 0.8), made(1, 0.7, 0.9)))
    assert "these rows do not help" not in told(loop(made(0, 0.7), made(1, 0.8, 0.9)))


def test_several_seeds_are_reported_with_their_spread() -> None:
    rounds = [
        one
        for seed, gain in ((1, 0.1), (2, 0.2), (3, 0.3))
        for one in (
            made(0, 0.5, seed=seed), made(1, 0.5 + gain, 0.9, seed=seed), made(1, 0.55, seed=seed, arm="unsteered")
        )
    ]  # fmt: skip
    text = told(loop(*rounds))
    assert "over the seeds alone: +20.0 points (+10.0 to +30.0 over 3 seeds)" in text
    assert "at once, unsteered: +15.0 points (+5.0 to +25.0 over 3 seeds)" in text
    assert "may be chance" not in text
