"""The difficulty gate: a majority of judges, and a student that finds a row neither easy nor too hard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from graft.data.gates import Admission, Needs, rules
from graft.schemas.errors import NotFound
from graft.schemas.recipe import Recipe
from graft.schemas.rows import LabelScore, Proposal, Review

LEARNER = "st_0123456789abcdef"


def recipe_of(**steering: Any) -> Recipe:
    return Recipe.model_validate({
        "name": "desk", "task": {"kind": "classification", "labels": [{"name": "refund"}, {"name": "delivery"}]},
        "seeds": {"rows": [{"text": "pay me", "label": "refund"}, {"text": "where", "label": "delivery"}]},
        "models": [
            {"name": "m", "provider": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1"},
            {"name": "student", "provider": "encoder", "model": LEARNER},
        ],
        "steering": {"round": 2, "after": 1, **steering},
    })  # fmt: skip


def votes(*labels: str, model: str = "m") -> tuple[Review, ...]:
    return tuple(
        Review(
            stage="label", role="reviewer", model=model,
            distribution=tuple(
                LabelScore(label=name, raw=0.0, calibrated=-0.1 if name == label else -2.4)
                for name in ("refund", "delivery")
            ),
        )
        for label in labels
    )  # fmt: skip


def judged(proposal: Proposal, share: float = 0.5, recipe: Recipe | None = None) -> str:
    """The rule of the gate's result; empty if no gate reads reviews."""

    def student(name: str, texts: Sequence[str]) -> tuple[list[str], list[list[float]]]:
        assert name == LEARNER
        return ["delivery", "refund"], [[1 - share, share] for _ in texts]

    admission = Admission(recipe or recipe_of(learner=LEARNER), Needs(student=student))
    return "".join(result.rule for result in admission.judge(proposal))


ROW = Proposal("vouchers and vans", label="refund", concept="vouchers", reviews=votes("refund", "refund", "delivery"))


@pytest.mark.parametrize(
    ("share", "rule"),
    [
        (0.05, "too_hard"),
        (0.1, "too_hard"),
        (0.11, "passed"),
        (0.89, "passed"),
        (0.9, "too_easy"),
        (float("nan"), "too_hard"),
    ],
)
def test_a_row_about_a_concept_is_of_medium_difficulty(share: float, rule: str) -> None:
    assert judged(ROW, share) == rule
    assert judged(replace(ROW, concept=""), share) == "passed", "rows of other slots are not looked at"


@pytest.mark.parametrize(
    ("reviews", "rule"),
    [
        (votes("refund", "delivery"), "voted_down"),
        (votes("delivery"), "voted_down"),
        (votes("refund"), "passed"),
        ((), "passed"),
        ((*votes("refund"), *votes("delivery", "delivery", model="student")), "passed"),
    ],
    ids=["half", "none", "all", "no vote", "the student has none"],
)
def test_more_than_half_of_the_judges_agree(reviews: tuple[Review, ...], rule: str) -> None:
    assert judged(replace(ROW, reviews=reviews)) == rule


def test_without_the_student_the_vote_alone_counts() -> None:
    def gone(name: str, texts: Sequence[str]) -> tuple[list[str], list[list[float]]]:
        raise NotFound(f"no student {name}", where="st")

    for needs in (Needs(), Needs(student=gone)):
        admission = Admission(recipe_of(learner=LEARNER), needs)
        assert [one.rule for one in admission.judge(ROW)] == ["passed"]
        assert [one.rule for one in admission.judge(replace(ROW, reviews=votes("delivery")))] == ["voted_down"]


def test_it_is_off_and_in_no_run_id_without_concepts() -> None:
    plain = recipe_of(partners={"refund": ["delivery"]})
    assert judged(ROW, 0.99, plain) == "" and "difficulty" not in rules(plain)
    assert "difficulty" in rules(recipe_of(learner=LEARNER))
