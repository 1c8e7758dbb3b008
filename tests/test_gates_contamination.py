"""Rows that repeat a held-out text are refused, and of the texts themselves the lake keeps nothing but hashes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.gates import Admission, Needs, TestText
from graft.data.gates.contamination import ContaminationGate
from graft.data.gates.shared.folding import normalise
from graft.data.gates.shared.held_out import GRAM_WORDS
from graft.data.gates.shared.near import jaccard
from graft.data.lake import Lake
from graft.data.seeds import register_evaluation_files
from graft.schemas.errors import InputInvalid
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal, Seed

BANKING = Path("/work/shared/data/banking77")
HELD = (
    "Where is the parcel that I ordered last week?",
    "The tracking page has not moved since Friday morning, please check it",
    "My invoice shows the wrong street, can you send me another one?",
)
WORDS = [f"word{number}" for number in range(400)]
LONG = " ".join(WORDS[:120])


def gate_of(*texts: str, threshold: float = 0.8) -> ContaminationGate:
    known = [TestText.of("held.jsonl", n, text) for n, text in enumerate(texts, start=1)]
    return ContaminationGate(recipe_of(gates={"near_duplicate": threshold}), Needs(evaluation=known))


def of(gate: ContaminationGate, text: str, response: str | None = None) -> tuple[str, str]:
    """Rule and neighbour."""
    result = gate.check(Proposal(text, response, "any"))
    return result.rule, result.neighbour


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HELD[0], ("contamination_exact", "held.jsonl:1")),
        ("  WHERE is the “parcel” that I ordered — last week", ("contamination_exact", "held.jsonl:1")),
        (HELD[1] + " now", ("contamination_near", "held.jsonl:2")),
        ("Where is the parcel that my sister sent me?", ("passed", "")),
        ("Something else altogether", ("passed", "")),
        ("", ("passed", "")),
        ("?!", ("passed", "")),
    ],
)
def test_short_texts(text: str, expected: tuple[str, str]) -> None:
    assert of(gate_of(*HELD, "…"), text) == expected


def test_a_response_is_looked_at_too_and_of_equals_the_first_row_is_named() -> None:
    gate = gate_of(HELD[0], HELD[2], HELD[2])
    assert of(gate, "What does the customer say?", HELD[2].upper()) == ("contamination_exact", "held.jsonl:2")
    assert of(gate, HELD[2] + " thanks") == ("contamination_near", "held.jsonl:2")


def test_a_result_quotes_no_held_out_text() -> None:
    for text in (HELD[1], HELD[1] + " now"):
        result = gate_of(*HELD).check(Proposal(text, None, "any"))
        assert not result.passed and "tracking" not in result.model_dump_json()
        assert result.score == pytest.approx(jaccard(HELD[1], text), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("He wrote to us as follows. " + LONG + " And so on, " + " ".join(WORDS[200:260]), True),
        (" ".join(WORDS[20:90]), True),  # a part of the held-out text is all that there is
        (" ".join(WORDS[:80] + WORDS[200:240]), True),
        (" ".join(WORDS[:20] + WORDS[200:300]), False),  # a shared beginning
        (" ".join(WORDS[: GRAM_WORDS - 1] + WORDS[300:390]), False),
    ],
)
def test_long_texts_are_known_by_their_runs_of_words(text: str, hit: bool) -> None:
    assert (of(gate_of(*HELD, LONG), text) == ("contamination_near", "held.jsonl:4")) is hit


@settings(max_examples=80, deadline=None)
@given(
    texts=st.lists(st.lists(st.sampled_from("abcdef"), max_size=8).map(" ".join), max_size=8),
    text=st.lists(st.sampled_from("abcdef"), max_size=8).map(" ".join),
    threshold=st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_no_short_neighbour_is_overlooked(texts: list[str], text: str, threshold: float) -> None:
    result = gate_of(*texts, threshold=threshold).check(Proposal(text, None, "a"))
    answers = [one for one in texts if normalise(one)]
    near = normalise(text) and any(jaccard(text, one) >= threshold - 1e-9 for one in answers)
    assert result.passed is not bool(near)
    if near:
        assert result.score == pytest.approx(max(jaccard(text, one) for one in answers), abs=1e-4)


def recipe_of(**more: object) -> Recipe:
    task = {"kind": "classification", "labels": [{"name": "delivery"}, {"name": "billing"}]}
    return Recipe.model_validate({"name": "shop", "task": task, "seeds": {"rows": [{"text": "x"}]}, **more})


def test_admission_refuses_by_it_only_where_files_are_registered() -> None:
    known = [TestText.of("/somewhere/held.jsonl", 7, HELD[0])]
    results: tuple[GateResult, ...] = Admission(recipe_of(), Needs(evaluation=known)).screen(
        Proposal(HELD[0], label="delivery")
    )
    assert (results[-1].gate, results[-1].rule, results[-1].neighbour) == (
        "contamination", "contamination_exact", "held.jsonl:7",
    )  # fmt: skip
    passed = Admission(recipe_of(), Needs(evaluation=known)).screen(
        Proposal("I want to change my address", label="delivery")
    )
    assert passed[-1].passed and "contamination" in [result.gate for result in passed]
    without = Admission(recipe_of(), Needs(seeds=[Seed.of("x")])).screen(Proposal(HELD[0], label="delivery"))
    assert without[-1].passed and "contamination" not in [result.gate for result in without]


def test_files_are_registered_once_a_dataset_and_hold_no_words(lake: Lake, tmp_path: Path) -> None:
    assert lake.register_test_file("shop", "some/where/held.jsonl", HELD) is True
    assert lake.register_test_file("shop", "held.jsonl", HELD) is False
    assert lake.register_test_file("other", "copy.jsonl", HELD) is True
    assert lake.register_test_file("shop", "more.csv", [LONG]) is True
    known = lake.test_texts("shop")
    assert [one.place for one in known] == ["held.jsonl:1", "held.jsonl:2", "held.jsonl:3", "more.csv:1"]
    assert known[:3] == [TestText.of("held.jsonl", n, text) for n, text in enumerate(HELD, start=1)]
    assert known[3] == TestText.of("more.csv", 1, LONG)
    assert [one.place for one in lake.test_texts("other")][:1] == ["copy.jsonl:1"] and lake.test_texts("x") == []
    assert lake.sql("SELECT count(*) AS n FROM lake.test_texts").to_pydict() == {"n": [4]}
    tables = ("test_files", "test_texts")
    held = str([lake.query(f"FROM lake.{name}") for name in tables])
    assert "held.jsonl" in held and not any(word in held for word in ("parcel", "tracking", "word17"))


def test_a_recipes_own_files_are_registered_before_it_runs(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "held.jsonl").write_text("".join(json.dumps({"said": text, "label": "x"}) + "\n" for text in HELD))
    (tmp_path / "steer.csv").write_text("said,label\nCan I pay by card?,billing\n")
    student = {"test": "held.jsonl", "text_field": "said"}
    recipe = recipe_of(student=student, improve={"steer_on": "steer.csv"})
    assert register_evaluation_files(lake, recipe, tmp_path / "r.yaml") == ["held.jsonl", "steer.csv"]
    assert [one.place for one in lake.test_texts("shop")] == [*(f"held.jsonl:{n}" for n in (1, 2, 3)), "steer.csv:1"]
    assert register_evaluation_files(lake, recipe, str(tmp_path / "r.yaml")) == ["held.jsonl", "steer.csv"]
    assert len(lake.test_texts("shop")) == 4
    assert register_evaluation_files(lake, recipe_of(), tmp_path / "r.yaml") == []
    (tmp_path / "held.jsonl").unlink()
    with pytest.raises(InputInvalid, match="no such file"):
        register_evaluation_files(lake, recipe, tmp_path / "r.yaml")


def test_many_held_out_texts_are_looked_through_quickly() -> None:
    rng = random.Random(3)
    texts = [" ".join(rng.choices(WORDS, k=12)) for _ in range(3_000)]
    gate = gate_of(*texts)
    assert of(gate, texts[2_100] + " again") == ("contamination_near", "held.jsonl:2101")


@pytest.mark.skipif(not BANKING.is_dir(), reason="Banking77 is not on this machine")
def test_texts_of_banking77s_test_file_that_its_train_file_repeats_are_found(lake: Lake) -> None:
    test, train = (
        [json.loads(line)["text"] for line in (BANKING / name).read_text().splitlines()]
        for name in ("test.jsonl", "train.jsonl")
    )
    lake.register_test_file("banking", "test.jsonl", test)
    known = lake.test_texts("banking")
    assert len(known) == len(test)
    gate = ContaminationGate(recipe_of(), Needs(evaluation=known))
    folded = {normalise(text) for text in test}
    found = [(text, gate.check(Proposal(text))) for text in train]
    exact = {normalise(text) for text, result in found if result.rule == "contamination_exact"}
    assert exact == folded & {normalise(text) for text in train}
    assert len(exact) >= 25
    near = [result for _, result in found if result.rule == "contamination_near"]
    assert near and all(result.neighbour.startswith("test.jsonl:") for result in near)
