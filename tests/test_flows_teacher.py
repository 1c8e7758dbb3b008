"""Teachers answer a sample of the test rows beside the student, through the gateway and within its limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_llm import Serving

from graft.flows.engine import finished
from graft.flows.teacher import sample, table, teacher_scores, teachers
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed
from graft.schemas.students import TeacherScore

LABELS = ("delivery", "billing")
SEEDS = [
    Seed.of("the courier never came", "delivery"), Seed.of("I was charged twice", "billing"),
    Seed.of("what about this one"),
]  # fmt: skip
TEST = [(f"where is parcel number {n}", "delivery") for n in range(8)] + [
    (f"the invoice {n} is wrong", "billing") for n in range(4)
]


def recipe_of(url: str, labeler: dict[str, Any] | None = None, **more: Any) -> Recipe:
    model = {
        "name": "chat", "provider": "openai", "model": "m", "base_url": url, "price": {"input": 1, "output": 2},
    }  # fmt: skip
    labels = [{"name": name, "description": f"a clause on {name}"} for name in LABELS]
    return Recipe.model_validate({
        "name": "shop", "task": {"kind": "classification", "labels": labels, "text": "a message to a shop"},
        "seeds": {"rows": [{"text": seed.text, "label": seed.label} for seed in SEEDS]},
        "models": [model, {"name": "near", "provider": "encoder", "model": "all-MiniLM-L6-v2"}],
        "roles": {"labeler": labeler or {}}, **more,
    })  # fmt: skip


def asked_of(fake: Serving) -> list[str]:
    """The whole text of each request."""
    return [
        "\n".join(str(turn["content"]) for turn in body.get("messages", ())) + str(body.get("prompt") or "")
        for _, body in fake.fake.seen
    ]  # fmt: skip


def ask(recipe: Recipe, home: Path, seeds: Sequence[Seed] = SEEDS, **more: Any) -> tuple[TeacherScore, ...]:
    given: dict[str, Any] = {
        "rows": 6,
        "home": Home(home),
        "seed": 1,
        "predict": lambda texts: ["billing"] * len(texts),
    }
    return finished(teacher_scores(recipe, seeds, TEST, **{**given, **more}))


def test_zero_and_few_shot_by_name(fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(reply_text="Delivery.", median_ms=20, latency="constant")
    scores = ask(recipe_of(fake_llm.url, {"answer": "name"}), tmp_path)
    drawn = sample(TEST, 6, 1)
    right = [label for _, label in drawn].count("delivery")
    assert [(one.model, one.shots, one.rows, one.answered) for one in scores] == [("chat", 0, 6, 6), ("chat", 1, 6, 6)]
    for one in scores:
        assert one.accuracy == pytest.approx(right / 6) and one.student_accuracy == pytest.approx(1 - right / 6)
        assert len(one.interval) == 2 and one.interval[0] <= one.accuracy <= one.interval[1]
        assert one.prompt_tokens > 100 and one.completion_tokens >= 6
        cost = (one.prompt_tokens + 2 * one.completion_tokens) / 1e6
        assert one.price_usd == pytest.approx(cost) and 0.02 <= one.p50_s <= one.p95_s < 5
    given = asked_of(fake_llm)
    assert len(given) == 12 and all(any(text in one for one in given) for text, _ in drawn)
    assert sum("courier" in one for one in given) == 6, "examples are shown in half of the calls"
    assert not any("courier" in one for one in given[:6])
    again = ask(recipe_of(fake_llm.url, {"answer": "name"}), tmp_path)
    assert len(asked_of(fake_llm)) == 12, "a second time they come from the journal"
    assert [one.price_usd for one in again] == [one.price_usd for one in scores] and again[0].p50_s == 0.0
    assert "zero-shot" in table(scores) and "1 examples a label" in table(scores) and "journaled" in table(again)
    assert table(()) == ""


def test_no_answer_is_a_wrong_answer(fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(reply_text="neither of them")
    recipe = recipe_of(fake_llm.url, {"answer": "name"})
    zero, _ = ask(recipe, tmp_path, predict=lambda texts: [dict(TEST)[text] for text in texts])
    assert (zero.answered, zero.accuracy, zero.macro_f1, zero.student_accuracy) == (0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("calibration", ["none", "batch", "content_free"])
def test_by_probabilities(fake_llm: Serving, tmp_path: Path, calibration: str) -> None:
    (zero,) = ask(recipe_of(fake_llm.url, {"calibration": calibration}), tmp_path, seeds=())
    assert (zero.shots, zero.answered) == (0, 6)
    calls = {"none": 6, "batch": 6, "content_free": 9}[calibration]
    assert len(asked_of(fake_llm)) == calls


def test_a_server_without_probabilities_returns_names(fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(logprobs=False, reply_text="billing")
    (zero,) = ask(recipe_of(fake_llm.url), tmp_path, seeds=())
    assert zero.answered == 6 and zero.accuracy == zero.student_accuracy


def test_a_seed_that_is_a_test_text_is_no_example(fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(reply_text="billing")
    leak = Seed.of("The invoice 2 is wrong!", "billing")
    recipe = recipe_of(fake_llm.url, {"answer": "name"})
    assert [one.shots for one in ask(recipe, tmp_path, seeds=[leak])] == [0]
    ask(recipe, tmp_path, seeds=[*SEEDS, leak])
    assert not any("is wrong!" in one for one in asked_of(fake_llm))


def test_a_limit_leaves_a_teacher_out(fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(reply_text="billing")
    messages: list[str] = []
    recipe = recipe_of(fake_llm.url, {"answer": "name"}, limits={"money_usd": 0.0})
    assert ask(recipe, tmp_path, say=messages.append) == ()
    assert sum("left out" in line for line in messages) == 2 and not asked_of(fake_llm)


def test_an_unreachable_teacher_is_reported(tmp_path: Path) -> None:
    with pytest.raises(GraftError, match=r"127\.0\.0\.1:9"):
        ask(recipe_of("http://127.0.0.1:9/v1"), tmp_path)


def test_who_is_a_teacher() -> None:
    recipe = recipe_of("http://127.0.0.1:9/v1")
    assert [model.name for model in teachers(recipe)] == ["chat"]
    only_near = recipe_of("http://127.0.0.1:9/v1", {"models": ["near"]})
    assert [model.name for model in teachers(only_near)] == ["chat"]


def test_samples_are_seeded_and_capped() -> None:
    assert sample(TEST, 99, 3) == TEST and sample(TEST, 5, 3) == sample(TEST, 5, 3)
    assert sample(TEST, 5, 3) != sample(TEST, 5, 4) and set(sample(TEST, 5, 4)) <= set(TEST)
    assert [row for row in TEST if row in sample(TEST, 5, 4)] == sample(TEST, 5, 4)


def test_a_running_loop_is_no_hindrance() -> None:
    async def work() -> float:
        await asyncio.sleep(0)
        return time.monotonic()

    async def notebook() -> float:
        return finished(work())

    assert finished(work()) <= asyncio.run(notebook())
