"""Objectives, policies and kinds of student are found by name, a plugin's like Graft's own; and what makes an id."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
import tiny_encoder
from plugged import plug
from test_students_scores import publish_shop
from tiny_encoder import LABELS, ROWS

from graft.data.lake import Lake
from graft.schemas.errors import GraftError, InputInvalid
from graft.schemas.home import Home
from graft.schemas.kinds import OBJECTIVES, POLICIES, STAGES, STUDENTS
from graft.schemas.load import load_recipe, recipe_json_schema
from graft.schemas.recipe import Recipe
from graft.schemas.steering import ImproveSettings
from graft.schemas.students import InstructSettings, Role, Selection, Student, StudentSettings
from graft.schemas.tasks.classification import ClassificationTask
from graft.students.heads import head_of
from graft.students.heads.single import Single
from graft.students.rows import TrainRow
from graft.students.steer import Evidence, SteeringRow, decide

SMOOTHED = {"kind": "smoothed", "share": 0.2}


pytestmark = pytest.mark.usefixtures("one_thread")


# ---- an objective in one file


def test_a_plugins_objective_trains_through_recipe_flow_lake_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: Path
) -> None:
    from graft.data.scores import leaderboard
    from graft.flows.train_student import train_version
    from graft.students.card import Judgements, Origin, render_model_card
    from graft.students.heads import Rule

    home = publish_shop(tmp_path, monkeypatch)
    plain, smoothed = train_version("shop"), train_version("shop", overrides={"objective": SMOOTHED})
    ours = smoothed.students[-1]
    assert plain.students[-1].id != ours.id and ours.settings.model_dump()["objective"] == SMOOTHED
    with Lake.open(home, read_only=True) as lake:
        stored = next(one for one in lake.students("shop") if one.id == ours.id)
        assert stored.settings == ours.settings and ours.id in {one.student_id for one in leaderboard(lake, "shop")}
    origin = Origin(task="classification", language="en", seeds=8, labels=LABELS, max_length=16)
    assert "objective smoothed" in render_model_card(ours, origin, Judgements(smoothed.evaluations), Rule(), 0.0)


def test_its_loss_is_minimised_and_its_settings_count(tmp_path: Path, plugin: Path) -> None:
    import torch

    from graft.students.fit import fit

    encoder = str(tiny_encoder.write(tmp_path / "tiny", [text for text, _ in ROWS]))
    given = {"encoder": encoder, "epochs": 2, "max_length": 16, "learning_rate": 5e-3}

    def weights(**more: Any) -> torch.Tensor:
        return fit(ROWS, LABELS, StudentSettings.model_validate({**given, **more})).model.head.weight

    plain = weights()
    assert not torch.equal(weights(objective=SMOOTHED), plain)
    assert torch.allclose(weights(objective={"kind": "smoothed", "share": 0}), plain, atol=1e-4)  # then it is the same
    settings = StudentSettings.model_validate({"objective": SMOOTHED})
    rows = [TrainRow("a text", "a"), TrainRow("another", "b")]
    model: Any = lambda texts: torch.tensor([[2.0, 0.0]] * len(texts))  # noqa: E731
    logs = [2 - math.log(math.exp(2) + 1), -math.log(math.exp(2) + 1)]
    wanted = -sum(0.9 * logs[place] + 0.1 * logs[1 - place] for place in (0, 1)) / 2
    loss = OBJECTIVES.get("smoothed")(Single(["a", "b"]), settings, rows).loss(model, rows, 0)
    assert float(loss) == pytest.approx(wanted)


def test_an_objective_is_checked_before_anything_is_trained(plugin: Path) -> None:
    from graft.students.objectives.base import objective_of

    several = StudentSettings.model_validate({"objective": SMOOTHED, "multi_label": 0.5})
    with pytest.raises(GraftError, match="smoothed cannot train a student of several labels a text"):
        objective_of(head_of(several, LABELS), several)
    soft = StudentSettings.model_validate({"objective": SMOOTHED, "soft_weight": 0.5})
    with pytest.raises(GraftError, match="smoothed learns no soft labels"):
        objective_of(head_of(soft, LABELS), soft)
    bare = StudentSettings.model_validate({"objective": {"kind": "distillation"}})
    with pytest.raises(GraftError, match="no weight"):
        objective_of(head_of(bare, LABELS), bare)
    for settings, kind in (({}, "cross_entropy"), ({"soft_weight": 0.5}, "distillation"),
                           ({"multi_label": 0.5}, "binary_cross_entropy")):  # fmt: skip
        usual = StudentSettings.model_validate(settings)
        assert objective_of(head_of(usual, LABELS), usual) is OBJECTIVES.get(kind)


def test_a_recipe_names_what_is_wrong_with_an_objective_or_a_policy(tmp_path: Path, plugin: Path) -> None:
    with pytest.raises(InputInvalid) as caught:
        load_recipe("recipes/topics.yaml", {"student.objective": {"kind": "smothed"}, "improve.policies": ["erors"]})
    told = {problem.field: (problem.what, problem.fix) for problem in caught.value.problems}
    assert "smothed" in told["student.objective"][0] and "did you mean 'smoothed'?" in told["student.objective"][1]
    assert "erors" in told["improve.policies.0"][0] and "did you mean 'errors'?" in told["improve.policies.0"][1]
    with pytest.raises(InputInvalid) as caught:
        load_recipe("recipes/topics.yaml", {"student.objective": {"kind": "smoothed", "share": -1}})
    assert caught.value.problems[0].field == "student.objective.share"


def test_students_and_loops_of_a_removed_plugin_stay_readable() -> None:
    kept = {
        "id": "st_1", "dataset": "shop", "version": 1, "trained_on": "version", "encoder_revision": "r",
        "train_rows": 8, "device": "cpu", "seconds": 1.0, "path": "students/st_1",
        "created_at": "2026-11-25T00:00:00Z", "settings": {
            **StudentSettings().model_dump(), "objective": SMOOTHED,
            "instruct": {**InstructSettings().model_dump(), "stages": [{"kind": "sft"}, {"kind": "kto", "beta": 1}]},
        },
    }  # fmt: skip
    settings = Student.model_validate(kept).settings
    assert settings.objective is not None and settings.objective.kind == "smoothed"
    assert [stage.kind for stage in settings.instruct.stages] == ["sft", "kto"]
    assert ImproveSettings.model_validate({"policies": ["errors"]}).policies == ("errors",)


# ---- a policy in one file


def test_a_plugins_policy_steers_beside_the_others(plugin: Path) -> None:
    async def name(label: str, texts: Any) -> tuple[str, ...]:
        return ()

    pool = [SteeringRow(text, "delivery", {"delivery": 0.1, "billing": 0.9}) for text in ("a long text", "short")]
    evidence = Evidence(round=1, rounds=2, labels=("delivery", "billing"), rows=pool, pool=pool, name=name)
    settings = ImproveSettings(policies=("domain_gap", "errors"))
    decided = asyncio.run(decide(evidence, settings, rows=10, after=1))
    assert decided.summaries[1] == "errors: 2 errors" and sum(decided.wanted.values()) == 10
    assert decided.wanted["delivery"] > decided.wanted["billing"]


# ---- kinds and stages


def test_own_kinds_are_the_modules_of_their_folders() -> None:
    assert set(STUDENTS.own) == {"classifier", "instruct"}
    assert all(kind.name == name for name, kind in STUDENTS.all().items())
    assert set(STAGES.own) == {"dpo", "sft"}
    assert set(OBJECTIVES.own) == {"binary_cross_entropy", "cross_entropy", "distillation", "llkd"}
    assert set(POLICIES.own) == {"domain_gap", "easy_to_hard", "hard_negatives", "tapir", "weakness"}


def test_a_kind_of_student_owns_its_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plugin's, from the recipe to the stored student, which stays readable without the plugin."""
    from graft.flows.train_student import train_version

    home, demo = publish_shop(tmp_path, monkeypatch), load_recipe("recipes/topics.yaml")
    with pytest.raises(InputInvalid, match=r"student\.words: unknown field"):
        load_recipe("recipes/topics.yaml", {"student.words.words": 3})
    with monkeypatch.context() as patch:
        plug(patch, tmp_path / "site", students="words = dummy_student")
        patch.setattr(ClassificationTask, "student", "words")
        recipe = load_recipe("recipes/topics.yaml", {"student.words.words": 3})
        assert recipe.fingerprint() == demo.fingerprint() and Recipe.stored(recipe.model_dump(mode="json")) == recipe
        assert "words" not in demo.student.model_dump() and recipe.student.model_dump()["words"] == {"words": 3}
        for kind in ("classifier", "instruct"):
            assert recipe.student.learned_with(kind) == demo.student.learned_with(kind)
        assert demo.student.learned_with("words")["words"] == {
            "words": 2
        } and "epochs" not in demo.student.learned_with("words")
        assert "words" in recipe_json_schema()["properties"]["student"]["properties"]
        with pytest.raises(InputInvalid) as caught:
            load_recipe("recipes/topics.yaml", {"student.words.word": 3, "student.epochs": 0})
        assert {one.field for one in caught.value.problems} == {"student.words.word", "student.epochs"}
        usual = train_version("shop").students[0]
        more = train_version("shop", overrides={"words": {"words": 3}})
        assert more.students[0].id != usual.id and more.text == "3 words a label"
        with Lake.open(home, read_only=True) as lake:
            assert next(one for one in lake.students() if one.id == usual.id).settings == usual.settings
            assert more.students[0] in lake.students()
    with Lake.open(home, read_only=True) as lake:
        assert {one.id for one in lake.students()} == {usual.id, more.students[0].id}


def test_stages_are_a_list_and_the_old_block_is_short_for_two() -> None:
    from graft.students.instruct.train import stages_of

    def kinds(**instruct: Any) -> list[tuple[str, Any]]:
        settings = StudentSettings(instruct=InstructSettings.model_validate(instruct))
        return [(stage.own.kind, getattr(stage.own, "beta", None)) for stage in stages_of(settings)]

    assert kinds() == [("sft", None)] and kinds(dpo={"beta": 0.2}) == [("sft", None), ("dpo", 0.2)]
    assert kinds(stages=[{"kind": "sft"}, {"kind": "dpo", "beta": 0.3}]) == [("sft", None), ("dpo", 0.3)]
    with pytest.raises(GraftError, match="dpo starts from a trained student"):
        kinds(stages=[{"kind": "dpo"}])


# ---- which settings make a student


OTHER: dict[str, Any] = {
    "encoder": "another", "objective": {"kind": "cross_entropy"}, "class_weights": "balanced", "patience": 3,
    "multi_label": 0.5, "select": Selection(student_quantile=0.3), "test": "held.csv", "text_field": "t",
    "label_field": "l", "instruct": InstructSettings(epochs=9),
}  # fmt: skip
"""Another value for each field of StudentSettings that is no number or flag."""


@pytest.mark.parametrize("name", StudentSettings.model_fields)
def test_a_field_decides_the_id_of_a_student_as_it_is_marked(name: str) -> None:
    """A classifier's: all but what is marked. An instruction student's: its own block and what is shared."""
    before = StudentSettings()
    value = OTHER.get(name, not getattr(before, name) if isinstance(getattr(before, name), bool) else 9)
    if isinstance(getattr(before, name), float):
        value = 0.5
    after = StudentSettings.model_validate({**before.model_dump(), name: value})
    role = next((one for one in StudentSettings.model_fields[name].metadata if isinstance(one, Role)), None)
    assert (before.learned_with("classifier") != after.learned_with("classifier")) is (role in (None, Role.SHARED))
    assert (before.learned_with("instruct") != after.learned_with("instruct")) is (role in (Role.BLOCK, Role.SHARED))


def test_a_loops_student_is_not_trained_again_for_settings_that_change_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graft.students.train import Lesson, learn

    monkeypatch.setattr("graft.students.fit.MIN_STEPS", 2)
    encoder = str(tiny_encoder.write(tmp_path / "tiny", [text for text, _ in ROWS]))
    home, known, messages = Home(tmp_path), dict[str, Student](), list[str]()

    def student(validation: list[TrainRow], **more: Any) -> Student:
        settings = StudentSettings.model_validate({"encoder": encoder, "epochs": 1, "max_length": 16, **more})
        head = head_of(settings, LABELS)
        lesson = Lesson("shop", 1, head.training_rows(ROWS), validation, head, settings, "version")
        found = learn(lesson, home, known.get, messages.append).student
        known[found.id] = found
        return found

    first = student([])
    for more in ({"teacher_rows": 5}, {"instruct": {"epochs": 9}}, {"test": "held.csv"}, {"runs": 3}):
        assert student([], **more).id == first.id
    assert student([TrainRow("x", LABELS[0])]).id == first.id, "without patience validation rows decide nothing"
    assert sum(text.endswith("has been trained before") for text in messages) == 5
    assert student([], seed=7).id != first.id
