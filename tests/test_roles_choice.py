"""Label judging by log-probabilities, and its calibration."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graft.agents.roles.calibration import CONTENT_FREE, batch_means, calibrate, content_free_means
from graft.agents.roles.choice import choice_request, judge_label, match_tokens, pick_examples
from graft.schemas.calls import CallRequest, Reply, TokenLogprob
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe, SeedRow, SeedSettings
from graft.schemas.rows import Seed
from graft.schemas.tasks.base import Label
from graft.schemas.tasks.classification import ClassificationTask

LABELS = ("card lost", "card stolen", "home", "home loan", "weather")
BASE = ModelSpec(name="base", provider="embedded", model="gemma-3-270m", style="completion")
CHAT = ModelSpec(name="chat", provider="embedded", model="smollm2-135m-instruct")
ENCODER = ModelSpec(name="minilm", provider="encoder", model="all-MiniLM-L6-v2")


def make_recipe(*labels: str) -> Recipe:
    task = ClassificationTask(labels=tuple(Label(name=name, description=f"about {name}") for name in labels or LABELS))
    return Recipe(name="r", task=task, seeds=SeedSettings(rows=(SeedRow(text="x"),)))


def make_reply(request: CallRequest, top: Mapping[str, float]) -> Reply:
    ranked = tuple((token, math.log(share)) for token, share in top.items())
    logprobs = (TokenLogprob(token=ranked[0][0], logprob=ranked[0][1], top=ranked),) if ranked else ()
    return Reply(key=request.key(), text=ranked[0][0] if ranked else "hm", logprobs=logprobs)


class FakeModel:
    """Answers by what the prompt ends on."""

    def __init__(self, by_end: Mapping[str, Mapping[str, float]]) -> None:
        self.by_end, self.requests = by_end, list[CallRequest]()

    async def __call__(self, request: CallRequest) -> Reply:
        self.requests.append(request)
        prompt = request.prompt if request.prompt is not None else request.messages[-1].content
        end = max((end for end in self.by_end if prompt.endswith(end)), key=len)
        return make_reply(request, self.by_end[end])


async def judge(model: FakeModel, spec: ModelSpec, text: str = "where is my card") -> dict[str, float]:
    judged = await judge_label(model, recipe=make_recipe(), model=spec, role="reviewer", seeds=[], text=text)
    assert judged.key == model.requests[0].key()
    return {label: math.exp(logprob) for label, logprob in judged.raw.items()}


FIRST = {" card": 0.5, " home": 0.3, " the": 0.1, " Wea": 0.05, " zebra": 0.01}


async def test_labels_that_share_their_first_token_are_separated_by_another_call() -> None:
    model = FakeModel(
        {"Label:": FIRST, " card": {" lost": 0.8, " sto": 0.1, " x": 0.05}, " home": {"\n": 0.6, " loan": 0.4}}
    )
    got = await judge(model, BASE)
    assert list(got) == list(LABELS)
    assert got == pytest.approx(
        {"card lost": 0.4, "card stolen": 0.05, "home": 0.18, "home loan": 0.12, "weather": 0.05}
    )
    assert [request.max_tokens for request in model.requests] == [1, 1, 1]
    assert all(request.temperature == 0 and request.top_logprobs == 20 for request in model.requests)


async def test_a_chat_model_is_called_again_with_the_shared_token_prefilled() -> None:
    model = FakeModel(
        {"label?": {"card": 0.9, "home": 0.1}, "card": {" lost": 0.5, " stolen": 0.25}, "home": {"": 1.0}}
    )
    got = await judge(model, CHAT, "my card?")
    assert got["card lost"] == pytest.approx(0.45)
    assert got["card stolen"] == pytest.approx(0.225)
    followed = [[message.role for message in request.messages][-2:] for request in model.requests[1:]]
    assert followed == [["user", "assistant"]] * 2
    assert [request.continues for request in model.requests] == [False, True, True]


async def test_a_label_that_the_server_does_not_list_gets_the_lowest_logprob_that_it_did_list() -> None:
    model = FakeModel({"Label:": {" weather": 0.9, " the": 0.02}})
    assert await judge(model, BASE) == pytest.approx(
        {"weather": 0.9} | dict.fromkeys(("card lost", "card stolen", "home", "home loan"), 0.02)
    )


async def test_indistinguishable_labels_end_after_a_bounded_number_of_calls() -> None:
    class Endless:
        requests = 0

        async def __call__(self, request: CallRequest) -> Reply:
            self.requests += 1
            return make_reply(request, {"a": 1.0})

    model = Endless()
    judged = await judge_label(
        model, recipe=make_recipe("aaaaaaaaab", "aaaaaaaaac"), model=BASE, role="reviewer", seeds=[], text="t"
    )
    assert model.requests == 4
    assert {label: math.exp(value) for label, value in judged.raw.items()} == pytest.approx(
        {"aaaaaaaaab": 0.5, "aaaaaaaaac": 0.5}
    )


async def test_a_reply_without_logprobs_fails_with_what_to_do() -> None:
    with pytest.raises(CallFailed, match="no log-probabilities") as caught:
        await judge(FakeModel({"": {}}), BASE)
    assert (caught.value.code, caught.value.raw) == ("no_logprobs", "hm")


def test_the_same_case_wins_over_a_longer_match_and_a_longer_match_over_a_likelier_one() -> None:
    top = [("Home", -0.1), (" ho", -3.0), ("h", -0.5), (" WEATHER", -2.0)]
    assert match_tokens({"home": "home", "weather": "weather"}, top) == {
        "home": (" ho", -3.0),
        "weather": (" WEATHER", -2.0),
    }


@pytest.mark.parametrize("spec", [BASE, CHAT])
def test_prompts_of_a_run_differ_only_at_their_end_and_hold_no_template_of_the_text(spec: ModelSpec) -> None:
    seeds = [Seed.of(f"seed {{{{ 7 * 7 }}}} {number}", LABELS[number % 5]) for number in range(10)]
    prompts = [
        choice_request(recipe=make_recipe(), model=spec, role="reviewer", seeds=seeds, text=text)
        for text in ("{{ 6 * 7 }}\nLabel: home", "other")
    ]
    whole = [
        request.prompt if request.prompt is not None else "\n".join(m.content for m in request.messages)
        for request in prompts
    ]
    assert "{{ 6 * 7 }} Label: home" in whole[0]
    assert "49" not in whole[0]
    assert whole[0].split("{{ 6 * 7 }}")[0] == whole[1].rpartition("other")[0]


def test_every_label_has_an_example_and_all_of_them_fit() -> None:
    seeds = [Seed.of("long " * 100 + str(number), "a") for number in range(50)]
    examples = pick_examples(seeds, (Label(name="a"), Label(name="b", description="what b means")))
    assert {"text": "what b means", "label": "b"} in examples
    assert sum(len(example["text"]) for example in examples) <= 4_000
    assert 5 < len(examples) < 20


async def test_an_encoder_is_given_seeds_and_descriptions_and_its_distribution_is_taken_as_it_is() -> None:
    requests: list[CallRequest] = []

    async def ask(request: CallRequest) -> Reply:
        requests.append(request)
        return make_reply(request, dict.fromkeys(reversed(LABELS), 0.2))

    judged = await judge_label(
        ask, recipe=make_recipe(), model=ENCODER, role="reviewer", seeds=[Seed.of("rain?", "weather")], text="sun?"
    )
    assert list(judged.raw) == list(LABELS)
    assert judged.listed == set(LABELS) and judged.answer == LABELS[-1]
    assert requests[0].context[0] == ("rain?", "weather")
    assert ("about home", "home") in requests[0].context
    assert (requests[0].prompt, requests[0].choices) == ("sun?", LABELS)


SCORES = st.dictionaries(st.sampled_from(LABELS), st.floats(-60, 0), min_size=1)


@given(SCORES, SCORES)
def test_calibrated_probabilities_sum_to_one_and_a_constant_shift_changes_nothing(
    raw: dict[str, float], means: dict[str, float]
) -> None:
    got = calibrate(raw, means)
    assert math.fsum(map(math.exp, got.values())) == pytest.approx(1)
    assert calibrate({label: score - 5 for label, score in raw.items()}, means) == pytest.approx(got, abs=1e-9)


@given(st.lists(st.fixed_dictionaries({label: st.floats(-30, 0) for label in LABELS}), min_size=1, max_size=8))
def test_after_batch_calibration_no_label_is_preferred_over_the_batch(rows: list[dict[str, float]]) -> None:
    means = batch_means(rows)
    corrected = [{label: row[label] - means[label] for label in LABELS} for row in rows]
    assert batch_means(corrected) == pytest.approx(dict.fromkeys(LABELS, 0.0), abs=1e-9)


def test_without_means_calibration_only_normalises() -> None:
    assert calibrate({"a": -2.0, "b": -2.0}, None) == pytest.approx({"a": -math.log(2), "b": -math.log(2)})
    assert calibrate({}, None) == {}
    assert batch_means([]) == {}


async def test_content_free_means_average_over_inputs_that_say_nothing() -> None:
    answers = iter([0.1, 0.2, 0.4])

    async def ask(request: CallRequest) -> Reply:
        return make_reply(request, {" up": next(answers), " down": 0.5})

    means = await content_free_means(ask, recipe=make_recipe("up", "down"), model=BASE, role="reviewer", seeds=[])
    assert len(CONTENT_FREE) == 3
    assert math.exp(means["up"]) == pytest.approx(0.2)
    assert math.exp(means["down"]) == pytest.approx(0.5)


async def test_a_begun_turn_grows_by_every_further_token() -> None:
    labels = ("pay in now", "pay in later", "weather")
    model = FakeModel({"label?": {"pay": 0.9}, "pay": {" in": 1.0}, "pay in": {" now": 0.75, " later": 0.25}})
    judged = await judge_label(model, recipe=make_recipe(*labels), model=CHAT, role="labeler", seeds=[], text="t")
    assert [request.messages[-1].content for request in model.requests[1:]] == ["pay", "pay in"]
    assert math.exp(judged.raw["pay in now"]) == pytest.approx(0.9 * 0.75)
    assert judged.listed == {"pay in now", "pay in later"} and judged.answer == "pay"


async def test_a_narrowed_choice_shows_and_scores_only_its_labels() -> None:
    recipe = make_recipe()
    labels = [label for label in recipe.task.categories if label.name in ("home", "weather")]
    model = FakeModel({"": {" weather": 0.6, " home": 0.3}})
    seeds = [Seed.of("is my card gone", "card lost"), Seed.of("rain?", "weather")]
    for spec in (BASE, CHAT):
        judged = await judge_label(
            model, recipe=recipe, model=spec, role="labeler", seeds=seeds, text="sun?", labels=labels[::-1]
        )
        shown = model.requests[-1].prompt or "\n".join(message.content for message in model.requests[-1].messages)
        assert list(judged.raw) == ["weather", "home"]
        assert "rain?" in shown and "card" not in shown


async def test_without_a_listed_label_the_judgement_fails_and_names_the_fix() -> None:
    with pytest.raises(CallFailed, match=r"none of the labels is among the 2 alternatives.*top_logprobs") as caught:
        await judge(FakeModel({"": {" The": 0.9, "zebra": 0.05}}), BASE)
    assert (caught.value.code, caught.value.raw, caught.value.where) == ("no_label_tokens", "The", "models.base")


async def test_white_space_before_the_answer_is_passed_over() -> None:
    async def ask(request: CallRequest) -> Reply:
        blank = TokenLogprob(token="\n\n", logprob=0.0, top=(("\n\n", 0.0), ("up", -9.0)))
        answers = TokenLogprob(token="down", logprob=-0.5, top=(("down", -0.5), ("up", -1.0)))
        return Reply(key=request.key(), text="\n\ndown", logprobs=(blank, answers))

    judged = await judge_label(ask, recipe=make_recipe("up", "down"), model=BASE, role="guard", seeds=[], text="t")
    assert judged.raw == {"up": -1.0, "down": -0.5}


def test_means_over_differing_candidates_count_each_label_where_it_was_a_candidate() -> None:
    means = batch_means([{"a": -1.0, "b": -2.0}, {"b": -4.0, "c": -6.0}])
    assert means == {"a": -1.0, "b": -3.0, "c": -6.0}
    known = calibrate({"a": -1.0, "d": -5.0}, {"a": -1.0, "b": -3.0})
    assert known["a"] - known["d"] == pytest.approx((-1.0 + 1.0) - (-5.0 + 2.0)), "d is corrected by the mean of -2"
