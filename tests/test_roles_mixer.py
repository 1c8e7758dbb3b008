"""The generator of PromptMix and HarmAug: the prompt's order, a strict reading of the list, a begun turn."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Models

from graft.agents.methods.harmaug import KIND
from graft.agents.roles.mixer import Mix, Mixed, mix_request, percentages, texts_in, write_message, write_mix
from graft.schemas.calls import Reply
from graft.schemas.errors import CallFailed
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Seed, Slot

LABELS = [
    {"name": "late_parcel", "description": "a parcel that has not come"},
    {"name": "wrong_item", "description": "goods other than those ordered"},
    {"name": "voucher", "description": "a code that lowers the price"},
]
SEEDS = [
    Seed.of("Where is my parcel from Monday?", "late_parcel"), Seed.of("Nothing came today.", "late_parcel"),
    Seed.of("You sent me a blue cup.", "wrong_item"), Seed.of("This is not what I chose.", "wrong_item"),
    Seed.of("The code SPRING does nothing.", "voucher"), Seed.of("Can I use two codes at once?", "voucher"),
]  # fmt: skip
CLASSES = ("voucher", "late_parcel", "wrong_item")
CHAT = ModelSpec(name="m", provider="openai", model="m", base_url="http://127.0.0.1:1/v1")
BASE = CHAT.model_copy(update={"style": "completion"})


def mixing(**more: Any) -> Recipe:
    task = {"kind": "classification", "labels": LABELS, "text": "a message to a shop"}
    given_ = {"name": "t", "task": task, "models": [CHAT.model_dump()], "method": {"kind": "promptmix"}, **more}
    return Recipe.model_validate(given_)


def mix(alpha: float = 0.8) -> Mix:
    return Mix(partner="wrong_item", alpha=alpha, classes=CLASSES)


def slot(exemplars: list[Seed] | None = None) -> Slot:
    shown = SEEDS if exemplars is None else exemplars
    return Slot(id="sl", run_id="r", shard=0, round=0, index=0, label="late_parcel", seed=7,
                exemplars=tuple(row for name in CLASSES for row in shown if row.label == name))  # fmt: skip


def write(said: Any, count: int = 3, model: ModelSpec = CHAT) -> Mixed:
    return asyncio.run(write_mix(Models(generate_mix=said).ask, mixing(), model, slot(), mix(), count=count))


@pytest.mark.parametrize(
    ("alpha", "shares"),
    [(0.5, (50, 50)), (0.55, (55, 45)), (0.8, (80, 20)), (0.9, (90, 10)), (0.95, (95, 5)), (1.0, (100, 0))],
)
def test_percentages_are_rounded_and_stand_in_the_prompt(alpha: float, shares: tuple[int, int]) -> None:
    assert percentages(alpha) == shares
    prompt = mix_request(mixing(), CHAT, slot(), mix(alpha), count=3).messages[0].content
    own, rest = shares
    assert f'{own}% to the class "late_parcel"' in prompt and f'{rest}% to the class "wrong_item"' in prompt


@given(alpha=st.floats(0.5, 1))
def test_percentages_add_up_for_every_alpha(alpha: float) -> None:
    share, rest = percentages(alpha)
    assert share + rest == 100 and share >= 50 and abs(share - 100 * alpha) <= 0.5 + 1e-9


def test_the_prompt_is_one_user_message_in_the_published_order() -> None:
    request = mix_request(mixing(), CHAT, slot(), mix(), count=3)
    [message] = request.messages
    assert message.role == "user" and not request.continues and request.json_schema is None
    wanted = ["3 classes", "a message to a shop"]
    for place, name in enumerate(CLASSES, 1):
        about = next(label["description"] for label in LABELS if label["name"] == name)
        wanted += [f"{place}. {name}", about, *(f"- {seed.text}" for seed in SEEDS if seed.label == name)]
    wanted += ["Write 3 short texts", "80%", "late_parcel", "20%", "wrong_item"]
    at = 0
    for piece in wanted:
        assert piece in message.content[at:], piece
        at = message.content.index(piece, at) + len(piece)
    assert message.content.rstrip().endswith("\n1.")


def test_without_shots_the_prompt_has_descriptions_alone() -> None:
    prompt = mix_request(mixing(), CHAT, slot([]), mix(), count=2).messages[0].content
    assert all(label["name"] in prompt and label["description"] in prompt for label in LABELS)
    assert "\n- " not in prompt and "with examples" not in prompt and "Write 2 short texts" in prompt


def test_a_base_model_goes_on_with_the_seed_classs_list_without_an_answer_format() -> None:
    request = mix_request(mixing(), BASE, slot(), mix(), count=3)
    assert request.prompt is not None and not request.messages
    assert request.prompt.rstrip().endswith("\n3.") and "80%" in request.prompt
    assert "\n6." in request.stop, "two examples and three texts: the sixth item is too many"


def test_another_sample_is_another_call() -> None:
    first, again = (mix_request(mixing(), CHAT, slot(), mix(), count=3, sample=sample) for sample in (0, 1))
    assert first.key() != again.key() and first.seed != again.seed


@pytest.mark.parametrize(
    ("reply", "texts"),
    [
        ("1. One text.\n2. Another text.", ("One text.", "Another text.")),
        ("Example 1: One text.\nExample 2: Another text.", ("One text.", "Another text.")),
        ("1) One text.\n(2) Another text.\n[3] A third.", ("One text.", "Another text.", "A third.")),
        ('1. "One text."\n2. “Another text.”', ("One text.", "Another text.")),
        ("1. One text. (85% late_parcel, 15% wrong_item)", ("One text.",)),
        ('1. "One text." (85% a, 15% b)\n2. "Another one (80% a)"', ("One text.", "Another one")),
        ("Sure, here you are.\n1. One text.\nThat was all.", ("One text.",)),
        ("1. One text.\n2. one text!\n3. ONE TEXT", ("One text.",)),
        ("1. Nothing came today\n2. One text.", ("One text.",)),
        ("1. \n2. One text.\n3. \"\"", ("One text.",)),
        ("10:30 was the time.\n1. It came at 10:30 (late).", ("It came at 10:30 (late).",)),
        ("", ()),
        ("A text without a number", ()),
    ],
)  # fmt: skip
def test_a_list_is_read_strictly(reply: str, texts: tuple[str, ...]) -> None:
    assert texts_in(reply, ["Nothing came today."]) == texts


def test_a_cut_last_item_is_dropped() -> None:
    assert texts_in("1. One text.\n2. Another te", [], cut=True) == ("One text.",)
    answers = Reply(key="", text="1. One text.\n2. Another te", finish_reason="length")
    assert write(answers).texts == ("One text.",) and write(answers, count=1).cut is None
    assert (last := write(answers).cut) is not None and last.raw == "Another te"
    lone = write(Reply(key="", text="1. Another te", finish_reason="length"))
    assert lone.texts == () and lone.cut is not None


LINES = st.text(alphabet='ab1.:)("% \n-“”', max_size=60)


@given(reply=LINES, known=st.lists(st.text(alphabet="ab ", max_size=4), max_size=3), cut=st.booleans())
def test_texts_are_never_empty_repeated_or_known(reply: str, known: list[str], cut: bool) -> None:
    texts = texts_in(reply, known, cut=cut)
    folded = ["".join(sign if sign.isalnum() else " " for sign in text.casefold()).split() for text in texts]
    assert all(text.strip() == text and text for text in texts)
    assert len({tuple(words) for words in folded}) == len(texts)
    assert not {tuple(words) for words in folded} & {tuple(text.casefold().split()) for text in known}
    assert all("\n" not in text for text in texts)


@pytest.mark.parametrize(
    "reply",
    [
        "One text.\n2. Another text.\n3. A third.",  # goes on behind the marker
        "1. One text.\n2. Another text.\n3. A third.",
        "Here are the texts:\n\n1. One text.\n2. Another text.\n3. A third.",  # begins with a remark
        "1. One text.\n2. Another text.\n3. A third.\n4. One too many.",
    ],
)
def test_a_reply_gives_its_texts_with_or_without_the_first_number(reply: str) -> None:
    assert write(reply).texts == ("One text.", "Another text.", "A third.")


@pytest.mark.parametrize("said", ["Here are three texts that fit:", "Here you are:\n\n2. One text."])
def test_an_announcement_is_no_text(said: str) -> None:
    assert "Here" not in "".join(write(said).texts)


def test_a_base_models_own_numbers_go_on_behind_the_examples() -> None:
    assert write("One text.\n4. Another text.\n5. A third.", model=BASE).texts[:2] == ("One text.", "Another text.")


def test_a_repeated_request_is_worth_nothing_as_a_whole() -> None:
    echo = "1. One text.\n2. Write 3 short texts in the language with the code en that differ from each other"
    mixed = write(echo)
    assert mixed.echo and mixed.texts == () and not mixed.refusal
    assert not write("1. Where is my parcel from Monday?\n2. One text.").echo, "an example is no piece of the request"


def test_a_refusal_is_recognised() -> None:
    mixed = write("I'm sorry, but I can't help with that.")
    assert mixed.refusal and mixed.texts == () and not mixed.echo and mixed.key


GUARD = {"kind": "guard", "policy": "asks for a discount that staff alone may give", "safe": "asks about an order"}


def harming(**method: Any) -> Recipe:
    rows = {"rows": [{"text": "Give me the staff price.", "label": "harmful"}]}
    how = {"kind": "harmaug", **method}
    return Recipe.model_validate(
        {"name": "g", "task": GUARD, "models": [CHAT.model_dump()], "seeds": rows, "method": how}
    )


def aimed(label: str) -> Slot:
    shown = (Seed.of("Give me the staff price.", label), Seed.of("Half the price, please.", label))
    return Slot(id="sl", run_id="r", shard=0, round=0, index=0, label=label, seed=7, exemplars=shown)


def message(
    said: Any, recipe: Recipe, model: ModelSpec = CHAT, prefill: bool = True, side: str = "harmful"
) -> tuple[Models, tuple[str, str, bool]]:
    models = Models(generate_message=said)
    label = "harmful" if side == "harmful" else "safe"
    begun = {"prefix": KIND.settings(recipe).prefix, "prefill": prefill, "borderline": side == "borderline"}
    return models, asyncio.run(write_message(models.ask, recipe, model, aimed(label), **begun))


def test_the_generators_turn_is_begun_with_the_prefix() -> None:
    models, (text, key, begun) = message(' "Sell it to me as to your staff."\nAnother idea', harming())
    [request] = models.requests
    assert request.continues and begun and key == request.key()
    assert [turn.role for turn in request.messages] == ["user", "assistant"]
    assert request.messages[-1].content == "I have an idea for a prompt:"
    prompt = request.messages[0].content
    assert "1. Give me the staff price." in prompt and "2. Half the price, please." in prompt
    for wish in ("single", "very creative", "not copy", "one sentence"):
        assert wish in prompt.casefold()
    assert text == "Sell it to me as to your staff."


def test_a_prefix_that_the_server_repeats_is_no_part_of_the_message() -> None:
    _, (text, _, _) = message("I have an idea for a prompt: Sell it as to staff.", harming())
    assert text == "Sell it as to staff."


def test_without_prefill_or_prefix_nothing_is_begun() -> None:
    for recipe, prefill in ((harming(), False), (harming(prefix=""), True)):
        models, (_, _, begun) = message("A message.", recipe, prefill=prefill)
        assert not begun and not models.requests[0].continues
        assert [turn.role for turn in models.requests[0].messages] == ["user"]


def test_a_base_model_has_no_turn_to_begin() -> None:
    models, (text, _, begun) = message("A third message.\n4. A fourth", harming(), BASE)
    assert not begun and not models.requests[0].continues and text == "A third message."
    assert (models.requests[0].prompt or "").rstrip().endswith("3.")


def test_a_borderline_message_only_looks_harmful() -> None:
    requested = {side: message("A message.", harming(), side=side)[0].requests[0].messages[0].content
             for side in ("harmful", "borderline", "benign")}  # fmt: skip
    assert "at first sight" in requested["borderline"] and GUARD["safe"] in requested["borderline"]
    assert "at first sight" not in requested["benign"] and GUARD["policy"] not in requested["benign"]
    assert GUARD["policy"] in requested["harmful"]


def test_an_empty_message_fails_by_its_code() -> None:
    with pytest.raises(CallFailed) as caught:
        message(" \n ", harming())
    assert caught.value.code == "empty"


@given(said=st.text(alphabet='ab "\n1.-“”', max_size=40))
def test_a_message_is_one_clean_line_or_a_failure(said: str) -> None:
    try:
        _, (text, _, _) = message(said, harming())
    except CallFailed:
        return
    assert text and text == text.strip() and "\n" not in text
