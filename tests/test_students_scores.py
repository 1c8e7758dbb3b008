"""Students after they were judged: answers kept, reliability, slices, paired tests, leaderboard, curves, teachers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.lake import Lake
from graft.data.scores import (
    Answers,
    RowFacts,
    Speed,
    against_teacher,
    answers,
    compare,
    find_student,
    leaderboard,
    learning_curve,
    paired,
    reliability,
    row_facts,
    speed,
    worst_slices,
)
from graft.data.scores.answers import keep
from graft.data.versions import publish
from graft.schemas.base import utc_now
from graft.schemas.datasets import Row, Run
from graft.schemas.errors import GraftError, NotFound
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, Decision, Seed, Slot, Steer
from graft.schemas.steering import Improvement, ImproveSettings, RoundResult
from graft.schemas.students import Evaluation, Student, StudentSettings, TeacherScore
from graft.students.evaluate import evaluate
from graft.students.heads.multi_label import MultiLabel

LABELS = ("x", "y")
NOW = utc_now()


def a_student(name: str, **more: Any) -> Student:
    facts = {
        "dataset": "shop", "version": 1, "trained_on": "version", "settings": StudentSettings(),
        "encoder_revision": "r", "train_rows": 9, "device": "cpu", "seconds": 1.0, "path": f"students/{name}",
        "created_at": NOW,
    }  # fmt: skip
    return Student.model_validate({"id": name, **facts, **more})


def kept(
    home: Home, name: str, rows: Sequence[tuple[str, str]], text: Sequence[str],
    shares: Sequence[Sequence[float]] | None = None, ids: Sequence[str] = (), quick: Speed | None = None,
) -> tuple[Evaluation, Answers]:  # fmt: skip
    """An evaluation of a student's predictions of labels x and y, and its answers as read back."""
    shares = shares or [[0.75, 0.25] if guess == "x" else [0.25, 0.75] for guess in text]
    judged = evaluate(text, rows, LABELS, student_id=name, test_file="held.jsonl", probabilities=shares)
    folder = home.students / name
    folder.mkdir(parents=True, exist_ok=True)
    keep(folder, judged, rows, text, shares, ids=ids, speed=quick)
    found = answers(home, a_student(name), judged.test_hash)
    assert found is not None
    return judged, found


# ---- through the flow


def publish_shop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A version whose rows lie in all three splits, of a recipe with a tiny encoder."""
    for name in ("train.confusion_png", "heads.single.write_reliability"):
        monkeypatch.setattr(f"graft.students.{name}", lambda *args: None)
    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 3)
    monkeypatch.setenv("GRAFT_HOME", str(folder / "home"))
    encoder = tiny_encoder.write(folder / "encoder", [text for text, _ in tiny_encoder.ROWS])
    recipe = Recipe.model_validate({
        "name": "shop", "task": {"kind": "classification", "labels": [{"name": name} for name in tiny_encoder.LABELS]},
        "seeds": {"rows": [{"text": text, "label": label} for text, label in tiny_encoder.ROWS]},
        "student": {"encoder": str(encoder), "epochs": 1, "max_length": 16},
    })  # fmt: skip
    run = Run(
        id="r", dataset="shop", recipe=recipe.model_dump(mode="json"), status="finished", started_at=utc_now(),
        code_version="1",
    )  # fmt: skip
    rows = [
        Row.model_validate({"id": f"c_{split}_{n}", "text": f"{text} {split}", "label": label, "split": split})
        for split in ("train", "validation", "test")
        for n, (text, label) in enumerate(tiny_encoder.ROWS)
    ]
    with Lake.open(Home.find()) as lake:
        lake.save_run(run)
        lake.add_seeds("r", [Seed.of(text, label) for text, label in tiny_encoder.ROWS])
        publish(lake, run=run, rows=rows, models={}, seeds=8, card="card")
    return Home.find()


def test_predictions_of_students_are_kept_without_texts_and_can_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from graft.flows.train_student import train_version

    home, threads = publish_shop(tmp_path, monkeypatch), torch.get_num_threads()
    torch.set_num_threads(1)
    first = train_version("shop")
    held = tmp_path / "held.csv"
    held.write_text("text,label\n" + "".join(f"{text} please,{label}\n" for text, label in tiny_encoder.ROWS))
    second = train_version("shop", test=str(held))
    torch.set_num_threads(threads)
    base, ours = second.students
    assert [one.id for one in first.students] == [base.id, ours.id]
    on_split, on_file = first.evaluations[1], second.evaluations[1]
    of_split = answers(home, ours, on_split.test_hash)
    of_file = answers(home, ours, on_file.test_hash)
    assert first.validation is not None
    of_validation = answers(home, ours, first.validation.test_hash)
    assert of_split and of_file and of_validation, "a second training keeps the answers to the first one's test"
    assert sorted(of_split.column("row_id")) == [f"c_test_{n}" for n in range(8)]
    assert sorted(of_validation.column("row_id")) == [f"c_validation_{n}" for n in range(8)]
    assert of_file.column("row_id") == [""] * 8 and of_file.column("row") == list(range(1, 9))
    assert of_file.column("chars") == [len(text) + 7 for text, _ in tiny_encoder.ROWS]
    assert sum(of_file.right) / 8 == on_file.accuracy and reliability(of_file).ece == on_file.ece
    with Lake.open(home) as lake:
        hashes = [one.text_hash for one in lake.test_texts("shop")]
        assert of_file.column("text_hash") == hashes, "the same hash as the contamination gate's"
        assert find_student(lake, ours.id[:8]).id == ours.id
    written = b"".join(file.read_bytes() for file in (home.root / ours.path).glob("*-*"))
    assert not any(text.encode() in written for text, _ in tiny_encoder.ROWS)
    quick = speed(home, ours, on_file.test_hash)
    assert quick and (quick.rows, quick.singles, quick.device) == (8, 8, "cpu") and quick.p95_s >= quick.p50_s > 0
    through_the_command_line(home, base, ours, monkeypatch, capsys)


def through_the_command_line(
    home: Home, base: Student, ours: Student, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def graft(*words: str) -> tuple[int, str, str]:
        from graft.cli.app import main

        monkeypatch.setattr("sys.argv", ["graft", *words])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return int(ended.value.code or 0), output.out, output.err

    board = json.loads(graft("students", "shop", "--json")[1])
    assert [(one["test_file"].rpartition("/")[2], one["rank"]) for one in board] == [
        ("held.csv", 1), ("held.csv", board[1]["rank"]),
        ("shop@1 test split (synthetic)", 1), ("shop@1 test split (synthetic)", board[3]["rank"]),
    ]  # fmt: skip
    assert all(one["gain"] is None or one["student_id"] == ours.id for one in board)
    shown = graft("students")[1]
    assert shown.count(ours.id[:10]) == 2 and "@1" in shown
    found = json.loads(graft("compare", base.id, ours.id, "--json")[1])
    assert found["test_file"].endswith("held.csv") and found["rows"] == 8
    assert found["both"] + found["only_a"] + found["only_b"] + found["neither"] == 8
    assert found["verdict"] in graft("compare", base.id[:9], ours.id[:9], "--test", "held.csv")[1]
    assert graft("compare", "st_", ours.id)[0] == 8
    shutil.rmtree(home.root / base.path)
    code, _, output = graft("compare", base.id, ours.id)
    assert code == 8 and f"the folder of student {base.id} is gone" in output and "graft train shop" in output
    assert base.id[:10] in graft("students")[1], "the lake still holds its evaluation"
    for verb in ("students", "compare"):
        printed = graft(verb, "--help")[1]
        assert "Example" in printed and f"graft {verb} " in printed
    code, _, output = graft("students", "desk")
    assert code == 8 and "there are students of shop" in output


# ---- by hand


def test_reliability_by_hand_and_as_the_evaluation_has_it(tmp_path: Path) -> None:
    rows = [("a", "x"), ("b", "x"), ("c", "y"), ("d", "y")]
    shares = [[0.875, 0.125], [0.375, 0.625], [0.625, 0.375], [0.125, 0.875]]
    judged, found = kept(Home(tmp_path), "st_1", rows, ["x", "y", "x", "y"], shares)
    result = reliability(found)
    assert result.ece == judged.ece == pytest.approx((2 * 0.125 + 2 * 0.625) / 4)  # sure and right, unsure and wrong
    assert [(one.rows, one.confidence, one.accuracy) for one in result.bins if one.rows] == [
        (2, 0.625, 0.0), (2, 0.875, 1.0)
    ]  # fmt: skip
    wide = reliability(found, bins=2)
    assert [one.rows for one in wide.bins] == [0, 4] and wide.ece == pytest.approx(0.75 - 0.5)
    assert found.column("confidence") == [0.875, 0.625, 0.625, 0.875]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("xy"), st.floats(0, 1, width=32)), min_size=1, max_size=20))
def test_what_is_read_back_is_what_was_judged(
    tmp_path_factory: pytest.TempPathFactory, given: list[tuple[str, float]]
) -> None:
    rows = [(f"text {n}", label) for n, (label, _) in enumerate(given)]
    shares = [[share, float(np.float32(1 - share))] for _, share in given]  # as a student gives them
    predicted = ["x" if share >= 0.5 else "y" for _, share in given]
    judged, found = kept(Home(tmp_path_factory.mktemp("home")), "st_1", rows, predicted, shares)
    assert found.column("predicted") == predicted and found.right.sum() == round(judged.accuracy * len(rows))
    assert reliability(found).ece == judged.ece


def test_answers_with_several_labels_are_judged_as_whole_sets(tmp_path: Path) -> None:
    rows, predicted = [("a", "x|y"), ("b", ""), ("c", "y")] * 2, ["x|y", "x", "y"] * 2
    shares = [[0.75, 0.5], [0.75, 0.25], [0.25, 0.75]] * 2
    judged = MultiLabel(LABELS).evaluate((predicted, shares), rows, student_id="st_1", test_file="t")
    (tmp_path / "students/st_1").mkdir(parents=True)
    keep(tmp_path / "students/st_1", judged, rows, predicted, shares)
    found = answers(Home(tmp_path), a_student("st_1"), judged.test_hash)
    assert found and found.several and reliability(found).ece == judged.ece
    assert found.column("confidence")[:3] == [0.375, 0.5625, 0.5625]  # of exactly this set
    assert {(one.name, one.rows, one.right) for one in worst_slices(found, least=2) if one.kind == "label"} == {
        ("x", 2, 2), ("y", 4, 4), ("(no label)", 2, 0)
    }  # fmt: skip


def test_slices_name_their_wrong_rows_and_the_surely_worst_comes_first(tmp_path: Path) -> None:
    rows = [("s" * (n + 1), "x") for n in range(5)] + [("l" * (n + 50), "y") for n in range(5)] + [("zz", "x")] * 4
    predicted = ["y"] * 5 + ["y"] * 4 + ["x"] + ["x"] * 4
    shares = [[0.4 - n / 20, 0.6 + n / 20] for n in range(5)] + [[0.25, 0.75]] * 4 + [[0.75, 0.25]] * 5
    ids = [f"c_{n}" for n in range(14)]
    found = kept(Home(tmp_path), "st_1", rows, predicted, shares, ids)[1]
    facts = {f"c_{n}": RowFacts(source="synthetic", concept="parcels" if n < 5 else "") for n in range(10)}
    result = worst_slices(found, facts)
    assert all(one.rows >= 5 for one in result)
    assert [one.interval[1] for one in result] == sorted(one.interval[1] for one in result)
    by = {(one.kind, one.name): one for one in result}
    worst = by["concept", "parcels"]
    assert (worst.rows, worst.right, worst.accuracy) == (5, 0, 0.0)
    assert worst.interval == pytest.approx((0.0, 3.8415 / 8.8415), abs=1e-4)  # z² / (n + z²)
    assert worst.wrong == (5, 4, 3, 2, 1) and worst.wrong_ids == ("c_4", "c_3", "c_2", "c_1", "c_0")  # surest first
    assert by["label", "y"].wrong == (10,) and by["label", "x"].rows == 9
    assert by["source", "synthetic"].right == 4
    assert {kind for kind, _ in by} == {"label", "length", "label and length", "source", "concept"}
    assert not any(one.kind in ("source", "concept") for one in worst_slices(found))


def test_the_lake_gives_source_and_concept_of_rows_but_no_concept_of_restricted_ones(tmp_path: Path) -> None:
    run = Run(id="r", dataset="shop", recipe={}, status="finished", started_at=NOW, code_version="1")
    done = Decision(status="accepted", route="agreed", code="accepted", reason="agreed")
    candidates = [
        Candidate(
            id=f"c{n}", label="x", intended_label="x", text=f"t{n}", decision=done, restricted=n == 1,
            slot=Slot(id=f"s{n}", run_id="r", shard=0, round=0, index=n, label="x", seed=1, steer=Steer(concept="fee")),
        )
        for n in range(2)
    ]  # fmt: skip
    rows = [
        Row(id="c0", text="t0", label="x", split="test"),
        Row(id="c1", text="t1", label="x", split="test", restricted=True),
        Row(id="s1", text="t2", label="y", split="test", source="seed"),
    ]
    home = Home(tmp_path)
    pairs = [(row.text, row.label) for row in rows]
    found = kept(home, "st_1", pairs, ["x", "y", "y"], ids=[row.id for row in rows])[1]
    with Lake.open(home) as lake:
        lake.commit("r", "b", candidates, [])
        publish(lake, run=run, rows=rows, models={}, seeds=1, card="card")
        lake.save_student(a_student("st_1"))
        known = row_facts(lake, found)
        assert {name: (one.source, one.concept) for name, one in known.items()} == {
            "c0": ("synthetic", "fee"), "c1": ("synthetic", ""), "s1": ("seed", "")
        }  # fmt: skip
        assert row_facts(lake, found, restricted=True)["c1"].concept == "fee"
        assert row_facts(lake, kept(home, "st_2", pairs, ["x"] * 3)[1]) == {}


def truths(right: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Rows of label x, and the predictions of a student that gets those marked + right."""
    return [(f"text {n}", "x") for n in range(len(right))], ["x" if mark == "+" else "y" for mark in right]


def test_the_paired_test_by_hand_whatever_order_the_rows_came_in(tmp_path: Path) -> None:
    home = Home(tmp_path)
    rows, predicted = truths("+" * 13 + "+" + "------")
    a = kept(home, "st_a", rows, predicted)[1]
    b = kept(home, "st_b", rows[::-1], truths("+" * 13 + "-" + "++++++")[1][::-1])[1]
    result = paired(a, b)
    assert (result.both, result.only_a, result.only_b, result.neither) == (13, 1, 6, 0)
    assert result.p_value == 2 * (1 + 7) / 2**7 and result.difference == 0.25 and result.accuracies == (0.7, 0.95)
    assert result.verdict == "st_b is ahead of st_a by 25.0 points, which may be chance (p = 0.1250)"
    assert paired(a, b) == result, "the same resamples each time"
    c = kept(home, "st_c", rows, truths("+" * 20)[1])[1]
    surely = paired(c, a)
    assert surely.p_value == 2 / 2**6 and surely.verdict.startswith("st_c is better than st_a by 30.0 points (")
    assert paired(a, a.__class__(**{**a.__dict__, "student_id": "st_z"})).verdict.endswith(
        "have the same prediction for every row"
    )
    other = kept(home, "st_d", rows[:5], ["x"] * 5)[1]
    with pytest.raises(GraftError, match="not about the same rows"):
        paired(a, other)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_the_paired_test_swaps_with_its_students(
    tmp_path_factory: pytest.TempPathFactory, marks: list[tuple[bool, bool]]
) -> None:
    home = Home(tmp_path_factory.mktemp("home"))
    pair = [
        kept(home, f"st_{n}", *truths("".join("+" if one[n] else "-" for one in marks)))[1] for n in (0, 1)
    ]  # fmt: skip
    there, back = paired(*pair), paired(*reversed(pair))
    assert (there.only_a, there.only_b, there.both) == (back.only_b, back.only_a, back.both)
    assert there.p_value == back.p_value and there.difference == -back.difference
    assert there.rows == there.both + there.only_a + there.only_b + there.neither


def test_missing_predictions_are_reported_with_the_fix(tmp_path: Path) -> None:
    home, (rows, text) = Home(tmp_path), truths("++-")
    a, b, c = (a_student(name) for name in ("st_a1", "st_a2", "st_c"))
    judged = kept(home, "st_a1", rows, text)[0]
    with Lake.open(home) as lake:
        with pytest.raises(NotFound, match="no student has been trained yet"):
            find_student(lake, "st_")
        for student in (a, b, c):
            lake.save_student(student)
        for name in ("st_a1", "st_a2"):
            lake.save_evaluation(judged.model_copy(update={"student_id": name}))
        with pytest.raises(NotFound, match="2 students begin with 'st_a'"):
            find_student(lake, "st_a")
        (home.root / b.path).mkdir()
        with pytest.raises(NotFound, match=r"the answers of student st_a2 on held\.jsonl were not kept") as caught:
            compare(home, lake, a, b)
        assert caught.value.fix == "train it again: graft train shop@1"
        with pytest.raises(NotFound, match="were not evaluated on the same rows"):
            compare(home, lake, a, c)
        with pytest.raises(NotFound, match="not both evaluated"):
            compare(home, lake, a, b, "0" * 64)
    assert answers(home, a, "../../lake/catalogue") is None and answers(home, b, judged.test_hash) is None
    (home.root / a.path / f"answers-{judged.test_hash}.parquet").write_bytes(b"no parquet")
    with pytest.raises(GraftError, match="cannot be read"):
        answers(home, a, judged.test_hash)
    with pytest.raises(ValueError, match="3 rows, but 3 predictions and 1 ids"):
        keep(home.root / a.path, judged, rows, text, [[0.5, 0.5]] * 3, ids=["c_1"])


def a_judgement(name: str, accuracy: float, **more: Any) -> Evaluation:
    judged = evaluate(["x"], [("a", "x")], LABELS, student_id=name, test_file="held.jsonl")
    return judged.model_copy(update={"accuracy": accuracy, "rows": 100, **more})


def a_teacher(model: str, accuracy: float, **more: Any) -> TeacherScore:
    facts = {
        "model": model, "shots": 0, "rows": 50, "answered": 50, "accuracy": accuracy, "macro_f1": accuracy,
        "student_accuracy": 0.8, "prompt_tokens": 5, "completion_tokens": 5, "price_usd": 0.02, "p50_s": 0.5,
        "p95_s": 0.9,
    }  # fmt: skip
    return TeacherScore.model_validate({**facts, **more})


def test_the_leaderboard_ranks_and_compares_with_baseline_and_teacher(tmp_path: Path) -> None:
    longer = StudentSettings(epochs=40)
    seeds: dict[str, Any] = {"version": None, "trained_on": "seeds"}
    teachers = (a_teacher("small", 0.7), a_teacher("large", 0.9))
    with Lake.open(Home(tmp_path)) as lake:
        for student, accuracy, given in (
            (a_student("st_base", **seeds), 0.5, ()),
            (a_student("st_other", **seeds, settings=longer, created_at=NOW + timedelta(days=1)), 0.6, ()),
            (a_student("st_one"), 0.75, teachers),
            (a_student("st_long", version=2, settings=longer), 0.85, ()),
            (a_student("st_wide", settings=StudentSettings(epochs=3)), 0.75, ()),
            (a_student("st_desk", dataset="desk"), 0.9, ()),
        ):
            lake.save_student(student)
            lake.save_evaluation(a_judgement(student.id, accuracy, teachers=given))
        own = a_judgement("st_one", 0.99, test_file="validation split (synthetic)", test_hash="v")
        lake.save_evaluation(own)
        board = leaderboard(lake, "shop")
        assert [(one.student_id, one.rank) for one in board] == [
            ("st_long", 1), ("st_one", 2), ("st_wide", 2), ("st_other", 4), ("st_base", 5)
        ]  # fmt: skip
        gains = {one.student_id: one.gain for one in board}
        assert gains["st_one"] == pytest.approx(0.25)  # the baseline of equal settings, not the newest
        assert gains["st_long"] == pytest.approx(0.25) and gains["st_wide"] == pytest.approx(0.15)
        assert gains["st_base"] is None
        one = board[1]
        assert (one.teacher, one.learned_from) == ("large", "version 1") and one.teacher_gap == pytest.approx(-0.1)
        assert board[0].teacher is None and board[0].teacher_gap is None and board[3].learned_from == "seeds"
        assert [one.dataset for one in leaderboard(lake)] == ["desk"] + ["shop"] * 5
        assert [one.test_hash for one in leaderboard(lake, validation=True)][-1] == "v"
        assert leaderboard(lake, "none' OR 1=1 --") == []


def test_a_student_beside_its_teachers(tmp_path: Path) -> None:
    home = Home(tmp_path)
    quick = Speed(
        device="cpu", rows=100, seconds=0.5, texts_per_second=200.0, singles=9, p50_s=0.01, p95_s=0.02
    )  # fmt: skip
    judged = kept(home, "st_a", [("a", "x")], ["x"], quick=quick)[0]
    teachers = (a_teacher("free", 0.6, price_usd=None, p50_s=0.0, p95_s=0.0), a_teacher("large", 0.9))
    student = a_student("st_a")
    with Lake.open(home) as lake:
        lake.save_student(student)
        lake.save_evaluation(judged.model_copy(update={"teachers": teachers}))
        large, free = against_teacher(lake, student)
        assert (large.model, large.teacher_p50_s, large.student_p50_s) == ("large", 0.5, 0.01)
        assert large.teacher_usd_per_1000 == pytest.approx(0.4) and large.student_price == "local"
        assert large.gap == pytest.approx(-0.1) and large.student_texts_per_second == 200.0
        assert (free.teacher_usd_per_1000, free.teacher_p50_s) == (None, None)
        shutil.rmtree(home.root / student.path)
        assert against_teacher(lake, student)[0].student_p50_s is None


def test_curves_of_a_loop_by_arm_and_seed(tmp_path: Path) -> None:
    def result(arm: Any, number: int, test: float, dataset: str = "shop-improved") -> RoundResult:
        return RoundResult(
            arm=arm, seed=42, round=number, dataset=dataset, student_id=f"st_{number}", rows=10 * number, test=test,
            interval=(test - 0.1, test + 0.1),
        )  # fmt: skip

    rounds = (
        result("steered", 0, 0.5), result("steered", 2, 0.7), result("steered", 1, 0.6),
        result("unsteered", 1, 0.65, "shop-unsteered"),
    )  # fmt: skip
    loop = Improvement(
        id="im_1", dataset="shop", recipe_file="shop.yaml", settings=ImproveSettings(policies=("weakness",)),
        test_file="held.jsonl", rounds=rounds, stopped_by="seed 42: rounds", created_at=NOW,
    )  # fmt: skip
    with Lake.open(Home(tmp_path)) as lake:
        lake.save_improvement(loop)
        steered, unsteered = learning_curve(lake, "shop")
        assert [(one.rows, one.accuracy, one.policy) for one in steered.points] == [
            (0, 0.5, "seeds alone"), (10, 0.6, "not steered"), (20, 0.7, "weakness")
        ]  # fmt: skip
        assert steered.points[1].interval == (0.5, 0.7)
        assert (unsteered.arm, unsteered.points[0].policy) == ("unsteered", "not steered")
        assert learning_curve(lake, "shop-improved") == [steered, unsteered] and learning_curve(lake, "desk") == []
