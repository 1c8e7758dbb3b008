"""GRA from slot to decided candidate, with scripted models: every route, and the calls that are skipped."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import make_slot

from graft.agents.methods import method_of
from graft.agents.methods.base import Context, Screen
from graft.data.gates import Admission
from graft.schemas.calls import CallRequest, Reply, TokenLogprob
from graft.schemas.errors import BudgetExhausted, CallFailed
from graft.schemas.gates import GateSettings
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate, GateResult, Proposal, Seed

LABELS = [{"name": "billing", "description": "invoices"}, {"name": "outage", "description": "the service is down"}]
TASKS: dict[str, dict[str, Any]] = {
    "text": {"kind": "classification", "labels": LABELS, "text": "a message to support"},
    "instruction": {"kind": "instruction"},
    "guard": {"kind": "guard", "policy": "asks for a lock to be picked"},
}
RESPONSE = ("correctness", "clarity", "completeness", "relevance", "coherence", "ethicality")
TEXT = ("fit", "usability", "clarity", "naturalness", "completeness", "harmlessness")
CASE_1 = [[9, 10, 10, 10, 10, 10], [9, 9, 10, 10, 10, 10], [6, 4, 5, 4, 5, 3]]

Script = dict[str, Any]
"""Purpose to reply: a value, or a list by turn; an exception is raised."""


class Models:
    """Plays every model: answers by purpose, and records requests."""

    def __init__(self, **script: Any) -> None:
        self.script: Script = {
            "generate.text": {"text": "Why was I charged twice this month?"},
            "generate.keywords": {"keywords": ["primes", "sieve"]},
            "generate.instruction": {"instruction": "Explain the sieve of Eratosthenes."},
            "generate.response": "It strikes out multiples.",
            "review.instruction": {"reasonableness": 1, "completeness": 1, "clarity": 1},
            "review.response": [9] * 6, "review.text": [9] * 6,
            **{name.replace("_", "."): value for name, value in script.items()},
        }  # fmt: skip
        self.requests: list[CallRequest] = []
        self.count: Counter[str] = Counter()

    async def ask(self, request: CallRequest) -> Reply:
        self.requests.append(request)
        answers = self.script[request.purpose]
        if isinstance(answers, list) and not isinstance(answers[0], int):
            answers = answers[self.count[request.purpose]]
        self.count[request.purpose] += 1
        await asyncio.sleep(0)
        if isinstance(answers, Exception):
            raise answers
        if isinstance(answers, list):
            names = RESPONSE if "response" in request.purpose else TEXT
            answers = dict(zip(names, answers, strict=True), comment="fine")
        if isinstance(answers, dict) and all(isinstance(value, float) for value in answers.values()):
            top = tuple(answers.items())
            return Reply(key=request.key(), text="", logprobs=(TokenLogprob(token="", logprob=0.0, top=top),))
        text = answers if isinstance(answers, str) else orjson.dumps(answers).decode()
        return Reply(key=request.key(), text=text, parsed=None if isinstance(answers, str) else answers)


def recipe_for(task: str = "text", models: int = 5, **more: Any) -> Recipe:
    pool = [
        {"name": f"m{n}", "provider": "openai", "model": f"m{n}", "base_url": "http://127.0.0.1:1/v1"}
        for n in range(models)
    ]
    label = {"text": "billing", "instruction": "math", "guard": "harmful"}[task]
    seeds = {"rows": [{"text": "a seed that stands alone", "label": label}]}
    return Recipe.model_validate({"name": "t", "task": TASKS[task], "models": pool, "seeds": seeds, **more})


def run(
    models: Models, recipe: Recipe, screen: Screen = lambda proposal: (), index: int = 0, label: str = ""
) -> Candidate:
    label = label or recipe.seeds.rows[0].label
    seeds = [Seed.of(f"full seed {n}", label).model_copy(update={"keywords": ("integrals",), "summary": f"sum {n}"})
             for n in range(4)]  # fmt: skip
    slot = make_slot(run_id="r", shard=0, round=0, index=index, label=label, pool={label: seeds}, recipe=recipe)
    context = Context(recipe=recipe, seeds=seeds, ask=models.ask, screen=screen)
    return asyncio.run(method_of(recipe).run_slot(slot, context))


def test_agreement_is_accepted_and_explains_itself() -> None:
    models = Models()
    candidate = run(models, recipe_for())
    decision = candidate.decision
    assert (decision.status, decision.route, decision.code) == ("accepted", "agreed", "accepted.agreed")
    assert "mean 9.00" in decision.reason and "spread 0.00" in decision.reason and "8" in decision.reason
    assert (decision.mean, decision.spread, decision.asked, decision.saved) == (9.0, 0.0, 3, 0)
    assert candidate.text == "Why was I charged twice this month?"
    assert candidate.id.startswith("c_") and candidate.label == candidate.intended_label == "billing"
    played = [candidate.models["generator"], *candidate.models["reviewer"].split(","), candidate.models["adjudicator"]]
    assert sorted(played) == ["m0", "m1", "m2", "m3", "m4"]
    assert [review.model for review in candidate.reviews] == candidate.models["reviewer"].split(",")
    assert models.count == {"generate.text": 1, "review.text": 3}
    assert [review.call_key for review in candidate.reviews] == [request.key() for request in models.requests[1:]]


@pytest.mark.parametrize(
    ("verdict", "code"), [([8] * 6, "accepted.adjudicated"), ([8, 8, 8, 8, 8, 7], "rejected.adjudicated")]
)
def test_the_papers_case_1_goes_to_the_adjudicator_who_reads_all_reviews(verdict: list[int], code: str) -> None:
    models = Models(review_text=CASE_1, adjudicate_text=verdict)
    candidate = run(models, recipe_for())
    assert candidate.decision.code == code and candidate.decision.route == "adjudicated"
    assert candidate.decision.spread == pytest.approx(2.4758, abs=1e-4)
    requested = models.requests[-1]
    assert requested.role == "adjudicator" and requested.model.name == candidate.models["adjudicator"]
    shown = requested.messages[1].content
    assert "mean 9.83" in shown and "mean 9.67" in shown and "mean 4.50" in shown
    assert candidate.reviews[-1].stage == "adjudication"


def test_a_hopeless_mean_stops_the_committee_and_wakes_no_adjudicator() -> None:
    models = Models(review_text=[[3] * 6, [10] * 6, [10] * 6])
    decision = run(models, recipe_for(), index=100).decision
    assert decision.code == "rejected.low_mean"
    assert (decision.asked, decision.saved) == (1, 2)
    assert "2 skipped" in decision.reason
    assert models.count["review.text"] == 1 and models.count["adjudicate.text"] == 0


def test_the_first_candidates_are_judged_by_all_to_measure_agreement() -> None:
    script = {"review_text": [[3] * 6, [10] * 6, [10] * 6]}
    rule = {"kind": "gra", "agreement_after": 30}
    assert run(Models(**script), recipe_for(method=rule), index=22).decision.saved == 0
    assert run(Models(**script), recipe_for(method=rule), index=23).decision.saved == 2, "half of 45, over two labels"
    assert run(Models(**script), recipe_for(method={**rule, "agreement_after": 0})).decision.saved == 2
    alone = run(Models(**script), recipe_for(models=1, method=rule)).decision
    assert alone.saved == 2, "one model's own agreement says nothing"


def test_early_exit_can_be_turned_off() -> None:
    models = Models(review_text=[[3] * 6, [10] * 6, [10] * 6])
    decision = run(models, recipe_for(method={"kind": "gra", "early_exit": False})).decision
    assert decision.code == "rejected.low_mean"
    assert (decision.asked, decision.saved) == (3, 0)


def test_a_zero_flag_rejects_before_anything_else_is_paid() -> None:
    flags = {"reasonableness": 1, "completeness": 1, "clarity": 1}
    models = Models(review_instruction=[flags, {**flags, "clarity": 0}, flags])
    candidate = run(models, recipe_for("instruction"))
    assert candidate.decision.code == "rejected.flag" and candidate.decision.route == "flag"
    assert "clarity" in candidate.decision.reason
    assert candidate.response is None and candidate.text
    assert models.count == {"generate.keywords": 1, "generate.instruction": 1, "review.instruction": 2}


def test_a_zero_flag_rejects_without_early_exit_too() -> None:
    flags = {"reasonableness": 1, "completeness": 1, "clarity": 1}
    models = Models(review_instruction=[{**flags, "clarity": 0}, flags, flags])
    candidate = run(models, recipe_for("instruction", method={"kind": "gra", "early_exit": False}))
    assert candidate.decision.code == "rejected.flag"
    assert models.count["review.instruction"] == 3 and models.count["generate.response"] == 0


def test_an_instruction_goes_through_all_steps_in_the_papers_order() -> None:
    models = Models()
    candidate = run(models, recipe_for("instruction"))
    assert candidate.decision.code == "accepted.agreed"
    assert candidate.keywords == ("primes", "sieve") and candidate.response == "It strikes out multiples."
    steps = [request.purpose for request in models.requests]
    assert steps == [
        "generate.keywords", "generate.instruction", *["review.instruction"] * 3, "generate.response",
        *["review.response"] * 3,
    ]  # fmt: skip
    by_step = {request.purpose: request for request in models.requests}
    written = "".join(message.content for message in by_step["generate.instruction"].messages)
    assert "sum " in written and "full seed" not in written, "summaries are shown, never the seeds' texts"
    answered = "".join(message.content for message in by_step["generate.response"].messages)
    assert "Explain the sieve" in answered and "primes" not in answered, "the response sees the instruction alone"
    assert {request.model.name for request in models.requests if request.role == "generator"} == {
        candidate.models["generator"]
    }


def failing(rule: str, when: Callable[[str | None], bool]) -> Screen:
    def screen(proposal: Proposal) -> tuple[GateResult, ...]:
        passed = GateResult(gate="schema", rule="schema", passed=True)
        hit = GateResult(gate="length", rule=rule, passed=False, score=3.0, neighbour="s_1", detail="3 characters")
        return (passed, hit) if when(proposal.response) else (passed,)

    return screen


def test_a_gate_ends_the_row_before_a_review_is_paid() -> None:
    models = Models()
    candidate = run(models, recipe_for(), failing("min_chars", lambda response: True))
    decision = candidate.decision
    assert (decision.status, decision.route, decision.code) == ("rejected", "gate", "gate.min_chars")
    assert "length" in decision.reason and "s_1" in decision.reason and "3 characters" in decision.reason
    assert [result.passed for result in candidate.gates] == [True, False]
    assert models.count == {"generate.text": 1}


def test_what_is_redacted_is_gone_before_gates_and_judges_see_it() -> None:
    models, seen = Models(), list[str]()

    def clean(text: str, response: str | None) -> tuple[str, str | None, tuple[GateResult, ...]]:
        result = GateResult(gate="personal", rule="redacted", passed=True, detail="1 name")
        return text.replace("charged", "<NAME>"), response, (result,)

    def screen(proposal: Proposal) -> tuple[GateResult, ...]:
        seen.append(proposal.text)
        return (GateResult(gate="length", rule="passed", passed=True),)

    recipe, slot_seed = recipe_for(), Seed.of("a seed", "billing")
    slot = make_slot(
        run_id="r", shard=0, round=0, index=0, label="billing", pool={"billing": [slot_seed]}, recipe=recipe
    )
    context = Context(recipe=recipe, seeds=[slot_seed], ask=models.ask, screen=screen, clean=clean)
    candidate = asyncio.run(method_of(recipe).run_slot(slot, context))
    assert candidate.text == "Why was I <NAME> twice this month?" and seen == [candidate.text]
    assert [(gate.gate, gate.rule) for gate in candidate.gates] == [("personal", "redacted"), ("length", "passed")]
    prompts = [str(request.messages) + str(request.prompt) for request in models.requests if request.role == "reviewer"]
    assert prompts and all("<NAME> twice" in message and "I charged twice" not in message for message in prompts)


def test_what_cleaning_refuses_as_too_long_meets_no_gate_and_is_kept_cut() -> None:
    recipe, slot_seed, models = recipe_for(), Seed.of("a seed", "billing"), Models()
    recipe = recipe.model_copy(
        update={"gates": GateSettings.model_validate({"max_chars": 20, "personal": {"action": "redact"}})}
    )
    admission = Admission(recipe)
    slot = make_slot(
        run_id="r", shard=0, round=0, index=0, label="billing", pool={"billing": [slot_seed]}, recipe=recipe
    )
    context = Context(recipe=recipe, seeds=[slot_seed], ask=models.ask, screen=admission.screen, clean=admission.clean)
    candidate = asyncio.run(method_of(recipe).run_slot(slot, context))
    assert candidate.decision.code == "gate.too_long" and candidate.text == "Why was I charged tw"
    assert [gate.rule for gate in candidate.gates] == ["too_long"]
    assert models.count == {"generate.text": 1}


def test_an_instruction_meets_the_gates_before_the_flags_and_after_the_response() -> None:
    early, late = Models(), Models()
    recipe = recipe_for("instruction")
    assert run(early, recipe, failing("leak", lambda response: response is None)).decision.code == "gate.leak"
    assert early.count["review.instruction"] == 0
    candidate = run(late, recipe, failing("leak", lambda response: response is not None))
    assert candidate.decision.code == "gate.leak" and [gate.passed for gate in candidate.gates][-1] is False
    assert late.count["generate.response"] == 1 and late.count["review.response"] == 0


def test_failed_reviewers_are_left_out_and_reported() -> None:
    models = Models(review_text=[CallFailed("timeout", "no answer"), [9] * 6, [8] * 6])
    candidate = run(models, recipe_for())
    assert candidate.decision.code == "accepted.agreed" and candidate.decision.mean == 8.5
    assert "1 failed" in candidate.decision.reason
    assert candidate.reviews[0].failure == "timeout: no answer" and candidate.reviews[0].mean is None


def test_a_committee_that_fails_as_a_whole_fails_the_row_by_its_code() -> None:
    decision = run(Models(review_text=CallFailed("timeout", "no answer")), recipe_for()).decision
    assert (decision.status, decision.route, decision.code) == ("failed", "failed", "failed.timeout")
    assert decision.asked == 3 and "no answer" in decision.reason
    flags = Models(review_instruction="not JSON")
    decision = run(flags, recipe_for("instruction")).decision
    assert decision.code == "failed.malformed" and flags.count["generate.response"] == 0


def test_a_failed_adjudicator_fails_the_row() -> None:
    models = Models(review_text=CASE_1, adjudicate_text=CallFailed("server_error", "500"))
    decision = run(models, recipe_for()).decision
    assert (decision.status, decision.code) == ("failed", "failed.server_error")
    assert decision.mean == pytest.approx(8.0) and "adjudicator" in decision.reason


@pytest.mark.parametrize("step", ["generate_text", "review_text"])
def test_an_exhausted_budget_ends_the_row_as_such(step: str) -> None:
    answers = BudgetExhausted("money_usd 1.00 is spent")
    decision = run(Models(**{step: answers}), recipe_for()).decision
    assert decision.code == "failed.budget" and "money_usd" in decision.reason
    parallel = recipe_for(method={"kind": "gra", "early_exit": False})
    assert run(Models(**{step: answers}), parallel).decision.code == "failed.budget"


def test_an_exhausted_budget_at_the_adjudicator_keeps_the_reviews() -> None:
    candidate = run(Models(review_text=CASE_1, adjudicate_text=BudgetExhausted("no money")), recipe_for())
    assert candidate.decision.code == "failed.budget" and len(candidate.reviews) == 3


def test_a_generator_that_gives_nothing_fails_the_row() -> None:
    assert run(Models(generate_text={"text": " "}), recipe_for()).decision.code == "failed.empty"
    stale = Models(generate_keywords={"keywords": ["Integrals"]})
    decision = run(stale, recipe_for("instruction")).decision
    assert decision.code == "failed.schema_unmet" and "keyword" in decision.reason


def test_harmful_guard_rows_are_restricted_unless_the_recipe_turns_it_off() -> None:
    scores = dict.fromkeys((*TEXT[:5], "certainty"), 9) | {"comment": "sure"}
    recipe = recipe_for("guard")
    assert run(Models(review_text=scores), recipe).restricted
    assert not run(Models(review_text=scores), recipe, label="safe").restricted
    open_task = {**TASKS["guard"], "restricted": False}
    benign = Recipe.model_validate({**recipe.model_dump(), "task": open_task})
    candidate = run(Models(review_text=scores), benign)
    assert candidate.accepted and not candidate.restricted


def test_judgements_by_probabilities_give_a_soft_label() -> None:
    models = Models(
        reviewer_label=[{" billing": -0.1, " outage": -3.0}, {" billing": -3.0, " outage": -0.1}],
        adjudicator_label={" billing": -0.2, " outage": -2.0},
    )
    judges = {"reviewer": {"answer": "logprobs"}, "adjudicator": {"answer": "logprobs"}}
    candidate = run(models, recipe_for(roles=judges, method={"kind": "gra", "reviewers": 2, "tau": 5}))
    assert candidate.decision.code == "accepted.adjudicated"
    assert [review.scores["fit"] for review in candidate.reviews] == pytest.approx([10.0, 0.5502, 10.0], abs=1e-3)
    assert sum(candidate.soft_label.values()) == pytest.approx(1.0)
    assert set(candidate.soft_label) == {"billing", "outage"} and candidate.soft_label["billing"] > 0.5
    assert candidate.reviews[0].distribution[0].raw == -0.1


def test_one_model_alone_plays_all_roles() -> None:
    candidate = run(Models(), recipe_for(models=1))
    assert candidate.decision.code == "accepted.agreed"
    assert candidate.models == {"generator": "m0", "reviewer": "m0,m0,m0", "adjudicator": "m0"}
    assert len({review.call_key for review in candidate.reviews}) == 3, "each sample is a call of its own"


any_scores, high_scores = (st.lists(st.integers(low, 10), min_size=6, max_size=6) for low in (0, 7))
judgements = st.lists(
    st.one_of(any_scores, high_scores, st.just(CallFailed("timeout", "late"))), min_size=3, max_size=3
)


@settings(max_examples=120, deadline=None)
@given(judgements=judgements, verdict=st.integers(7, 9), index=st.integers(0, 50))
def test_a_whole_slot_is_decided_alike_with_and_without_early_exit(
    judgements: list[Any], verdict: int, index: int
) -> None:
    frugal, thorough = ({"kind": "gra", "early_exit": early} for early in (True, False))
    script = {"review_text": judgements, "adjudicate_text": [verdict] * 6}
    few, all_of_them = Models(**script), Models(**script)
    one = run(few, recipe_for(method=frugal), index=index)
    other = run(all_of_them, recipe_for(method=thorough), index=index)
    assert (one.decision.status, one.decision.code) == (other.decision.status, other.decision.code)
    assert len(few.requests) <= len(all_of_them.requests)
    assert one.decision.asked + one.decision.saved == 3


likely = st.floats(-6, 0).map(lambda logprob: {" billing": logprob, " outage": -2.0})


@settings(max_examples=150, deadline=None)
@given(
    judgements=st.lists(st.one_of(likely, st.just(CallFailed("timeout", "late"))), min_size=4, max_size=4),
    verdict=likely, tau=st.sampled_from([0, 2, 5, 8]), least=st.floats(0, 0.95), margin=st.floats(0, 0.95),
)  # fmt: skip
def test_a_slot_judged_by_probabilities_is_decided_alike_with_and_without_early_exit(
    judgements: list[Any], verdict: dict[str, float], tau: float, least: float, margin: float
) -> None:
    judges = {"reviewer": {"answer": "logprobs"}, "adjudicator": {"answer": "logprobs"}}
    rule = {"kind": "gra", "reviewers": 4, "tau": tau, "min_probability": least, "min_margin": margin}
    script = {"reviewer_label": judgements, "adjudicator_label": verdict}
    ends = []
    for early in (True, False):
        models = Models(**script)
        ends.append(run(models, recipe_for(roles=judges, models=6, method={**rule, "early_exit": early})).decision)
    assert (ends[0].status, ends[0].code) == (ends[1].status, ends[1].code)
    assert ends[0].asked <= ends[1].asked


@pytest.mark.parametrize(
    ("logprob", "rule", "code", "words"),
    [
        (-1.0, {}, "accepted.agreed", "billing has a mean probability of 73%"),
        (
            -1.0,
            {"min_probability": 0.8},
            "rejected.unsure",
            "mean probability of 73%, below the least probability of 80%",
        ),
        (-1.0, {"min_margin": 0.6}, "rejected.unsure", "73%, less than 60 points above outage at 27%"),
        (-1.95, {}, "rejected.unsure", "51%, less than 10 points above outage at 49%"),
        (-1.95, {"min_margin": 0}, "accepted.agreed", "51%"),
    ],
)
def test_a_label_needs_its_own_probability_and_a_lead(logprob: float, rule: Any, code: str, words: str) -> None:
    models = Models(reviewer_label={" billing": logprob, " outage": -2.0})
    judges = {"reviewer": {"answer": "logprobs"}, "adjudicator": {"answer": "logprobs"}}
    candidate = run(models, recipe_for(roles=judges, method={"kind": "gra", "reviewers": 2, **rule}))
    decision = candidate.decision
    assert decision.code == code and words in decision.reason
    assert decision.mean == pytest.approx(10.0), "each judge finds the label likeliest, and that says little"
