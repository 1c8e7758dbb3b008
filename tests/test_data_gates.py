"""Gates through their public face: what each rejects, what it lets pass, and what holds for every text."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graft.data.gates import Admission, Needs
from graft.data.gates.shared.folding import normalise
from graft.data.gates.shared.near import NearIndex, jaccard
from graft.data.gates.shared.semantic import clusters, drop_semantic_duplicates
from graft.schemas.recipe import Recipe
from graft.schemas.rows import GateResult, Proposal, Seed
from graft.schemas.steering import Steering

FRAGMENT = "Write one new message that a customer could send to the help desk of the shop."


def recipe_of(kind: str = "classification", language: str = "en", **gates: Any) -> Recipe:
    names = ("refund", "card_arrival", "product question", "cardFee", "check-in")
    tasks: dict[str, dict[str, Any]] = {
        "classification": {"labels": [{"name": name} for name in names]},
        "instruction": {"domains": [{"name": "coding"}, {"name": "role play"}]},
        "guard": {"policy": "asks for a recipe", "with_response": True},
    }
    task = {"kind": kind, "language": language, **tasks[kind]}
    return Recipe.model_validate({"name": "t", "task": task, "seeds": {"rows": [{"text": "x"}]}, "gates": gates})


def last(results: tuple[GateResult, ...]) -> GateResult:
    assert all(result.passed for result in results[:-1]) and results
    return results[-1]


SCREENED = [
    # text, label, rule or None where the text passes
    ("When will I see my refund on the card?", "refund", None),
    ("Refund my order please, I have waited long enough.", "refund", None),
    ("", "refund", "empty"),
    (" \n\t ", "refund", "empty"),
    ("A text under some other label", "banana", "unknown_label"),
    ("A NUL \0 in the middle of it", "refund", "control_characters"),
    ("A broken \ufffd encoding in it", "refund", "control_characters"),
    ("A lone \ud800 surrogate in it", "refund", "control_characters"),
    ("Hi", "refund", "too_short"),
    ("x " * 150, "refund", "too_long"),
    ("?!... --- 1234 5678", "refund", "no_letters"),
    ("Text: where is the money that I paid", "refund", "field_name"),
    ("1. **Label:** where is the money", "refund", "field_name"),
    ("Example 3: where is the money", "refund", "field_name"),
    ("Where is the money\nCategory: refund", "refund", "field_name"),
    ("Where is the money? Label: refund", "refund", "field_name"),
    ("I got this message: error 17, what now?", "refund", None),
    ("Where is the money<|im_end|>", "refund", "model_token"),
    ("Where is the money</s>", "refund", "model_token"),
    ('{"text": "where is the money"}', "refund", "json"),
    ('["where is the money"', "refund", "json"),
    ("Где мои деньги, я жду уже неделю", "refund", "script"),
    ("I bought crème brûlée and it cost 5 € :-)", "refund", None),
    ("Refund: I want my money back now", "refund", "label_name"),
    ("refund - give me back what I paid", "refund", "label_name"),
    ("**REFUND** -> give me what I paid", "refund", "label_name"),
    ("«Refund.»", "refund", "label_name"),
    ("My card_arrival is late again", "card_arrival", "label_name"),
    ("My card-arrival is late again", "card_arrival", "label_name"),
    ("About the Card arrival, it is late", "card_arrival", "label_name"),
    ("My card has not arrived, is it late?", "card_arrival", None),
    ("A credit card arrivals hall joke", "card_arrival", None),
    ("I have a product question for you", "product question", "label_name"),
    ("A question about a product of yours", "product question", None),
    ("Why did I pay a cardFee on this?", "cardFee", "label_name"),
    ("When does the check-in open there?", "check-in", "label_name"),
    ("My card_arrival is late again", "refund", None),
    ("Write one new message that a customer could send, right?", "refund", "prompt_fragment"),
    ("I write one new message to a customer you could help", "refund", None),
]


@pytest.mark.parametrize(("text", "label", "rule"), SCREENED)
def test_screen(text: str, label: str, rule: str | None) -> None:
    admission = Admission(recipe_of(min_chars=8, max_chars=200), Needs(fragments=[FRAGMENT]))
    result = last(admission.screen(Proposal(text, None, label)))
    assert (None if result.passed else result.rule) == rule, result
    assert result.passed or result.detail


@pytest.mark.parametrize("filler", ["\n", " ", "-", "_", "<", "[", "{", '"', "a", "a ", "\n-", "refund ", "card_"])
def test_no_text_takes_long(filler: str) -> None:
    admission = Admission(recipe_of(max_chars=200_000), Needs(seeds=[SEED], fragments=[FRAGMENT]))
    begin = time.process_time()
    for label in ("refund", "card_arrival", "cardFee"):
        for text in (filler * 50_000, label + filler * 50_000, "x " + filler * 50_000 + label):
            admission.screen(Proposal(text, filler * 50_000, label))
    assert time.process_time() - begin < 9, "a pattern backtracks"


def test_leak_gates_can_be_turned_off() -> None:
    admission = Admission(recipe_of(label_leak=False, prompt_leak=False), Needs(fragments=[FRAGMENT]))
    assert last(admission.screen(Proposal("Refund: " + FRAGMENT, None, "refund"))).passed


def test_prompt_leak_scores_the_longest_run_and_reads_the_response() -> None:
    admission = Admission(recipe_of("instruction"), Needs(fragments=[FRAGMENT]))
    result = last(admission.screen(Proposal("Say something nice to me.", "Sure! " + FRAGMENT.upper(), "coding")))
    assert (result.rule, result.score) == ("prompt_fragment", 16.0)


@pytest.mark.parametrize("tail", ["| right: refund | taken for: check-in", "| right: refund", "| Taken for: cardFee"])
def test_a_steered_rounds_notation_of_a_mistake_is_a_piece_of_the_prompt(tail: str) -> None:
    plain = recipe_of(label_leak=False)
    steered = plain.model_copy(update={"steering": Steering(round=2, after=1)})
    text = "You replaced the cracked mug without asking."
    assert last(Admission(steered).screen(Proposal(text, None, "refund"))).passed
    assert last(Admission(plain).screen(Proposal(f"{text} {tail}", None, "refund"))).passed
    assert last(Admission(steered).screen(Proposal(f"{text} {tail}", None, "refund"))).rule == "prompt_fragment"


@pytest.mark.parametrize(
    ("text", "response", "label", "rule"),
    [
        ("Write a JSON object such as\nLabel: {}", "{}", "coding", None),
        ("Write a role play about a doctor.", "Hello!", "role play", None),
        ("Role play: be a doctor.", "Hello!", "role play", "label_name"),
        ("What is two plus two?", "4", "coding", None),
        ("What is two plus two?", "", "coding", "missing_response"),
        ("What is two plus two?", "  ", "coding", "missing_response"),
        ("What is two plus two?", "4<|im_end|>", "coding", "model_token"),
        ("What is two plus two?", "4\0", "coding", "control_characters"),
        ("What is two plus two?", "4" * 5000, "coding", "response_too_long"),
        ("Instruction: what is two plus two?", "4", "coding", "field_name"),
    ],
)
def test_screen_of_instructions(text: str, response: str | None, label: str, rule: str | None) -> None:
    result = last(Admission(recipe_of("instruction")).screen(Proposal(text, response, label)))
    assert (None if result.passed else result.rule) == rule, result


@pytest.mark.parametrize(
    ("language", "text", "fits"),
    [
        ("ru", "Где мои деньги, я жду", True),
        ("ru", "Where is my money then", False),
        ("zh", "我的包裹在哪里，已经等了很久", True),
        ("de", "Où est mon argent, s'il vous plaît", True),
        ("el", "我的包裹在哪里，已经等了很久", False),
        ("xx", "我的包裹在哪里，已经等了很久", True),
    ],
)
def test_script(language: str, text: str, fits: bool) -> None:
    assert last(Admission(recipe_of(language=language)).screen(Proposal(text, None, "refund"))).passed is fits


SEED = Seed.of("I sent the jacket back ten days ago, when do I get my money?", "refund")
PUBLISHED = ("c_old", "The tracking page has not moved since Friday morning, please check it", "refund")


@pytest.mark.parametrize(
    ("text", "gate", "rule", "neighbour"),
    [
        ("i SENT the jacket back - ten days ago! When do I get my money", "exact_seed", "exact_duplicate", SEED.id),
        ("I sent the jacket back ten days ago, when do I get my money back?", "near_seed", "near_duplicate", SEED.id),
        (PUBLISHED[1].upper(), "exact_published", "exact_duplicate", "c_old"),
        (PUBLISHED[1] + " now", "near_published", "near_duplicate", "c_old"),
    ],
)
def test_screen_against_seeds_and_published(text: str, gate: str, rule: str, neighbour: str) -> None:
    result = last(
        Admission(recipe_of(), Needs(seeds=[SEED], published=[PUBLISHED])).screen(Proposal(text, None, "refund"))
    )
    assert (result.gate, result.rule, result.neighbour) == (gate, rule, neighbour)
    assert result.score is not None and 0.8 <= result.score <= 1.0 and neighbour in result.detail
    off = Admission(recipe_of(against_seeds=False, against_published=False), Needs(seeds=[SEED], published=[PUBLISHED]))
    assert last(off.screen(Proposal(text, None, "refund"))).passed
    strict = Admission(recipe_of(near_duplicate=1.0), Needs(seeds=[SEED], published=[PUBLISHED]))
    assert last(strict.screen(Proposal(text, None, "refund"))).passed is (rule == "near_duplicate")


def test_admit_decides_in_the_order_of_calls() -> None:
    admission = Admission(recipe_of(), Needs(seeds=[SEED]))
    text = "The amount that I was promised has not been credited to my card yet"
    assert last(admission.admit(Proposal(text, None, "refund", "a"))).passed
    exact = last(admission.admit(Proposal(text.lower() + "!!", None, "card_arrival", "b")))
    assert (exact.gate, exact.rule, exact.score, exact.neighbour) == ("exact_run", "exact_duplicate", 1.0, "a")
    near = last(admission.admit(Proposal(text + " today", None, "refund", "c")))
    assert (near.gate, near.rule, near.neighbour) == ("near_run", "near_duplicate", "a")
    assert near.score == pytest.approx(jaccard(text, text + " today"), abs=1e-4)
    assert last(admission.admit(Proposal(text, None, "refund", "a"))).passed
    assert last(admission.screen(Proposal(text, None, "refund"))).passed, "screen looks at no candidate of the run"
    assert last(admission.admit(Proposal("Something else entirely, thank you", None, "refund", "d"))).passed


def test_remembered_rows_count() -> None:
    admission = Admission(recipe_of())
    admission.remember(Proposal("Where does the money for my kettle stay?", None, "refund", "old"))
    admission.remember(Proposal("Where does the money for my kettle stay?", None, "refund", "old"))
    assert (
        last(admission.admit(Proposal("where does the money for my kettle stay", None, "refund", "new"))).neighbour
        == "old"
    )


WORDS = ["Where", "is", "MY", "parcel", "naïve", "straße", "包裹", "don't", "12.5", "€5", "ﬁne", "İstanbul", "où"]
texts = st.lists(st.sampled_from(WORDS), min_size=3)


@given(said=texts, data=st.data())
@settings(max_examples=150, deadline=None)
def test_an_exact_duplicate_is_never_missed_under_case_punctuation_and_spacing(
    said: list[str], data: st.DataObject
) -> None:
    text = " ".join(said)
    marks = st.sampled_from([" ", ", ", "! ", "  ", "\n", " - ", "\u00a0", '" '])
    turns = st.sampled_from([str, str.upper, str.lower, str.title])
    turn = data.draw(turns)
    other = "".join(turn(word) + data.draw(marks) for word in said)
    assume(normalise(turn("a")) == "a")
    admission = Admission(recipe_of())
    assert last(admission.admit(Proposal(text, None, "refund", "a"))).passed
    result = last(admission.admit(Proposal(other, None, "refund", "b")))
    assert not result.passed and result.neighbour == "a", (text, other)


@given(said=st.lists(st.integers(0, 30), min_size=4, max_size=300), changes=st.integers(0, 3), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_near_reports_only_what_is_at_or_above_the_threshold(said: list[int], changes: int, seed: int) -> None:
    draw = random.Random(seed)
    other = list(said)
    for _ in range(changes):
        other[draw.randrange(len(other))] = draw.randint(100, 200)
    one, two = (" ".join(f"w{number}" for number in numbers) for numbers in (said, other))
    index = NearIndex(0.6)
    index.add("one", one)
    row, score = index.find(two)
    true = jaccard(one, two)
    assert (row == "one") == (score >= 0.6)
    if len(set(said)) < 40 and len(said) < 60:
        assert row == "" or score == pytest.approx(true)
        assert row == "one" or true < 0.75, "a clear neighbour was overlooked"
    else:
        assert row == "" or abs(score - true) < 0.2


def test_near_finds_the_nearest_and_is_deterministic() -> None:
    draw = random.Random(3)
    rows = [" ".join(draw.choices([f"w{number}" for number in range(300)], k=14)) for _ in range(400)]
    answers = []
    for _ in range(2):
        index = NearIndex(0.5)
        for place, row in enumerate(rows):
            index.add(f"r{place}", row)
        answers.append([index.find(row + " more") for row in rows])
    assert answers[0] == answers[1]
    assert [found for found, _ in answers[0]] == [f"r{place}" for place in range(400)]


def test_a_candidate_costs_little_cpu() -> None:
    draw = random.Random(5)
    vocabulary = [f"word{number}" for number in range(900)]
    admission = Admission(recipe_of(), Needs(seeds=[SEED], published=[PUBLISHED], fragments=[FRAGMENT] * 20))
    rows = [" ".join(draw.choices(vocabulary, k=draw.randint(5, 20))) for _ in range(1500)]
    begin = time.process_time()
    for place, row in enumerate(rows):
        admission.screen(Proposal(row, None, "refund"))
        admission.admit(Proposal(row, None, "refund", str(place)))
    assert (time.process_time() - begin) / len(rows) < 1e-3, "about 0.15 ms on a quiet machine"


def vectors_of(draw: np.random.Generator, rows: int, size: int) -> np.ndarray:
    centres = draw.normal(size=(max(1, rows // 3), size))
    return (centres[draw.integers(0, len(centres), rows)] + 0.25 * draw.normal(size=(rows, size))).astype(np.float32)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 60), limit=st.sampled_from([0.5, 0.8, 0.9, 0.95, 1.0]))
@settings(max_examples=60, deadline=None)
def test_semantic_keeps_no_pair_at_or_above_the_threshold_whatever_the_order(
    seed: int, rows: int, limit: float
) -> None:
    draw = np.random.default_rng(seed)
    vectors = vectors_of(draw, rows, 8)
    scores = draw.integers(5, 9, rows).astype(float).tolist()
    ids = [f"c{place:03d}" for place in range(rows)]
    dropped = drop_semantic_duplicates(ids, vectors, scores, limit)
    kept = [place for place in range(rows) if ids[place] not in dropped]
    unit = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    assert all(cosines[a, b] < limit + 1e-6 for a in kept for b in kept if a < b)
    rank = {ids[place]: (-scores[place], ids[place]) for place in range(rows)}
    for name, (neighbour, cosine) in dropped.items():
        assert neighbour not in dropped and rank[neighbour] < rank[name]
        assert cosine == pytest.approx(cosines[ids.index(name), ids.index(neighbour)], abs=1e-5)
        assert cosine >= limit - 1e-5
    order = draw.permutation(rows)
    again = drop_semantic_duplicates([ids[p] for p in order], vectors[order], [scores[p] for p in order], limit)
    assert again == dropped


def test_semantic_over_several_blocks_equals_the_plain_loop() -> None:
    draw = np.random.default_rng(1)
    vectors = vectors_of(draw, 1300, 16)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores, ids = draw.random(1300).tolist(), [f"c{place:05d}" for place in range(1300)]
    kept: list[int] = []
    for place in sorted(range(1300), key=lambda p: -scores[p]):
        if not kept or float((unit[kept] @ unit[place]).max()) < 0.9:
            kept.append(place)
    dropped = drop_semantic_duplicates(ids, vectors, scores, 0.9)
    assert {ids[place] for place in kept} == set(ids) - set(dropped) and 100 < len(kept) < 1300


def test_semantic_edges() -> None:
    same = np.ones((3, 4), dtype=np.float32) * 7
    assert drop_semantic_duplicates(["b", "a", "c"], same, [1, 1, 2], 1.0) == {"a": ("c", 1.0), "b": ("c", 1.0)}
    assert drop_semantic_duplicates(["a", "b"], np.zeros((2, 4)), [1, 1], 0.9) == {}
    assert drop_semantic_duplicates([], np.zeros((0, 4)), [], 0.9) == {}
    for ids, matrix in ((["a", "a"], np.ones((2, 2))), (["a"], np.ones((2, 2))), (["a"], np.full((1, 2), np.nan))):
        with pytest.raises(ValueError):
            drop_semantic_duplicates(ids, matrix, [1.0] * len(ids), 0.9)


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 40))
@settings(max_examples=40, deadline=None)
def test_clusters_are_the_connected_components(seed: int, rows: int) -> None:
    draw = np.random.default_rng(seed)
    vectors = vectors_of(draw, rows, 6)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    near = unit @ unit.T >= 0.85
    names = [f"c{place:03d}" for place in draw.permutation(rows)]
    expected: dict[str, str] = {}
    for place in range(rows):
        reached = {place}
        while more := {other for one in reached for other in np.flatnonzero(near[one]).tolist()} - reached:
            reached |= more
        expected[names[place]] = min(names[other] for other in reached)
    found = clusters(names, vectors, 0.85)
    assert found == expected
    order = draw.permutation(rows)
    assert clusters([names[p] for p in order], vectors[order], 0.85) == found


def test_clusters_of_many_equal_rows_are_found_quickly() -> None:
    begin = time.process_time()
    found = clusters([f"c{place:04d}" for place in range(1500)], np.ones((1500, 8), dtype=np.float32), 0.85)
    assert set(found.values()) == {"c0000"} and time.process_time() - begin < 5


def test_an_instruction_is_screened_before_its_response_is_there() -> None:
    recipe = Recipe.model_validate(
        {"name": "ask", "task": {"kind": "instruction"}, "seeds": {"rows": [{"text": "Name three rivers in France."}]}}
    )
    results = Admission(recipe).screen(Proposal("Explain why leaves turn red in autumn.", None, "qa"))
    assert all(result.passed for result in results)
