"""The responder: refusals and compliant responses, begun turns, and what is taken off their texts."""

from __future__ import annotations

from typing import Any

import pytest

from graft.agents.methods.harmaug import KIND
from graft.agents.roles.responder import respond
from graft.schemas.calls import CallRequest, Reply
from graft.schemas.errors import CallFailed, NoPrefill
from graft.schemas.models import ModelSpec
from graft.schemas.recipe import Recipe
from graft.schemas.refusals import refusal_of
from graft.schemas.rows import Slot

CHAT = ModelSpec(name="chat", provider="openai", model="c", base_url="http://127.0.0.1:1/v1")
CLOSED = CHAT.model_copy(update={"name": "closed", "prefill": "none"})
BASE = ModelSpec(name="base", provider="embedded", model="b", style="completion")
SLOT = Slot(id="s", run_id="r", shard=0, round=0, index=0, label="harmful", seed=5)
ASKED = "Please {{ 7 * 7 }} give me a discount"


def recipe_of(**method: Any) -> Recipe:
    return Recipe.model_validate({
        "name": "t", "task": {"kind": "guard", "policy": "asks for a discount", "restricted": False},
        "seeds": {"rows": [{"text": "x"}]}, "method": {"kind": "harmaug", **method},
        "models": [CHAT.model_dump(), BASE.model_dump()], "roles": {"responder": {"max_tokens": 64}},
    })  # fmt: skip


class FixedModel:
    def __init__(self, *replies: str | Exception, finish: str = "stop") -> None:
        self.replies, self.finish, self.requests = list(replies), finish, list[CallRequest]()

    async def __call__(self, request: CallRequest) -> Reply:
        given = self.replies[min(len(self.requests), len(self.replies) - 1)]
        self.requests.append(request)
        if isinstance(given, Exception):
            raise given
        return Reply(key=request.key(), text=given, finish_reason=self.finish)


async def answer(ask: FixedModel, variant: Any, model: ModelSpec = CHAT, **method: Any) -> tuple[str, str, bool]:
    recipe = recipe_of(**method)
    prefix = KIND.settings(recipe).compliance_prefix
    return await respond(ask, recipe=recipe, model=model, slot=SLOT, instruction=ASKED, variant=variant, prefix=prefix)


async def test_a_refusal_names_the_policy_and_begins_no_turn() -> None:
    ask = FixedModel("Assistant: I'm sorry, but I can't help with that.")
    text, key, begun = await answer(ask, "refusal")
    assert (text, key, begun) == ("I'm sorry, but I can't help with that.", ask.requests[0].key(), False)
    system, user = ask.requests[0].messages
    assert "asks for a discount" in system.content and user.content == ASKED and not ask.requests[0].continues
    assert (ask.requests[0].role, ask.requests[0].purpose, ask.requests[0].max_tokens) == (
        "responder",
        "respond.refusal",
        64,
    )


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (" here is 10% off.", "Sure, here is 10% off."),
        ("here is 10% off.", "Sure, here is 10% off."),
        ("Sure, here is 10% off.", "Sure, here is 10% off."),
        ("\n1. Ten\n2. Five", "Sure, 1. Ten\n2. Five"),
        ("! Ten.", "Sure,! Ten."),
    ],
)
async def test_a_compliant_response_begins_with_the_prefix_once(reply: str, text: str) -> None:
    ask = FixedModel(reply)
    assert await answer(ask, "compliance") == (text, ask.requests[0].key(), True)
    last = ask.requests[0].messages[-1]
    assert (last.role, last.content, ask.requests[0].continues) == ("assistant", "Sure,", True)
    assert "discount" not in ask.requests[0].messages[0].content, "a complying responder does not see the policy"


async def test_without_a_prefill_the_request_is_sent_without_it() -> None:
    ask = FixedModel("Here you go.")
    assert (await answer(ask, "compliance", CLOSED))[::2] == ("Here you go.", False)
    assert (await answer(ask, "compliance", compliance_prefix=""))[::2] == ("Here you go.", False)
    assert not any(request.continues for request in ask.requests)
    ask = FixedModel(NoPrefill("cannot"), "Here you go.")
    assert (await answer(ask, "compliance"))[::2] == ("Here you go.", False)
    assert [request.continues for request in ask.requests] == [True, False]


async def test_a_base_model_goes_on_with_a_dialogue() -> None:
    ask = FixedModel(" ten percent off.\nUser: and then?")
    assert (await answer(ask, "compliance", BASE))[::2] == ("Sure, ten percent off.", True)
    prompt = ask.requests[0].prompt or ""
    assert prompt.endswith(f"User: {ASKED}\nAssistant: Sure,") and prompt.count("\nAssistant:") == 3
    assert "\nUser:" in ask.requests[0].stop
    ask = FixedModel(" I can't.\n")
    assert (await answer(ask, "refusal", BASE))[::2] == ("I can't.", False)
    assert (ask.requests[0].prompt or "").endswith("\nAssistant:")
    assert "asks for a discount" in (ask.requests[0].prompt or "")


async def test_the_variants_are_drawn_apart() -> None:
    ask = FixedModel("Yes.")
    await answer(ask, "refusal")
    await answer(ask, "compliance")
    assert ask.requests[0].seed != ask.requests[1].seed


async def test_a_text_cut_by_its_limit_ends_with_its_last_sentence_and_quotes_come_off() -> None:
    assert (await answer(FixedModel("I can't. Please un", finish="length"), "refusal"))[0] == "I can't."
    assert (await answer(FixedModel('"I can\'t do that."'), "refusal"))[0] == "I can't do that."
    assert (await answer(FixedModel("- one\n- two"), "refusal"))[0] == "- one\n- two", "a list is the answer's own"


@pytest.mark.parametrize("reply", ["", "  \n", "Sure,", "Assistant:"])
async def test_an_empty_response_is_a_failure(reply: str) -> None:
    with pytest.raises(CallFailed, match="empty response") as caught:
        await answer(FixedModel(reply), "compliance")
    assert caught.value.code == "empty"


async def test_other_failures_are_raised() -> None:
    with pytest.raises(CallFailed, match="slow"):
        await answer(FixedModel(CallFailed("timeout", "slow")), "compliance")


async def test_the_worked_refusals_are_refusals() -> None:
    ask = FixedModel("No.")
    await answer(ask, "refusal", BASE)
    shown = (ask.requests[0].prompt or "").split("Assistant: ")[1:]
    assert len(shown) == 2 and refusal_of(shown[0])
