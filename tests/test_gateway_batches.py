"""Calls through a batch API, against a fake provider over HTTP and the real LiteLLM."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_batches import ServingBatches
from typer.testing import CliRunner

from graft.agents.gateway import Gateway, RoleRules
from graft.agents.gateway.batch.desk import BatchDesk
from graft.agents.gateway.batch.store import Batch, BatchStore, listed_at, path_in
from graft.agents.gateway.limiter import RETRYABLE
from graft.agents.gateway.transport import Damaged, Refused
from graft.schemas.calls import CallRequest, Message, Reply
from graft.schemas.errors import CallFailed, GraftError, KeyMissing, ModelUnreachable
from graft.schemas.models import ModelSpec, Price

KEY = "sk-do-not-tell-7731"
SCORE = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServingBatches]:
    monkeypatch.setenv("GRAFT_TEST_KEY", KEY)
    with ServingBatches(key=KEY) as serving:
        yield serving


@pytest.fixture(autouse=True, scope="module")
def swept() -> Iterator[None]:
    """Collect the objects that LiteLLM leaves behind, so that their warnings appear in this file."""
    yield
    gc.collect()


def ask(url: str, text: str = "how late is it open", **more: Any) -> CallRequest:
    spec: dict[str, Any] = {
        "name": "m", "provider": "litellm", "model": "openai/fake", "base_url": url, "api_key_env": "GRAFT_TEST_KEY",
        "price": Price(input=1, output=2, cached_input=0.5), **more.pop("spec", {}),
    }  # fmt: skip
    given = more.pop("said", {"messages": (Message(role="user", content=text),)})
    return CallRequest(model=ModelSpec(**spec), role="reviewer", purpose="test", max_tokens=32, **given, **more)


def asks(url: str, count: int, **more: Any) -> list[CallRequest]:
    return [ask(url, f"question {place}: is the shop open", **more) for place in range(count)]


@contextlib.asynccontextmanager
async def desk_at(path: Path, **more: Any) -> AsyncIterator[BatchDesk]:
    desk = BatchDesk(path / "batches.sqlite", **{"linger_s": 0.05, "poll_s": 0.05, **more})
    try:
        yield desk
    finally:
        await desk.close()


async def send_all(desk: BatchDesk, requests: list[CallRequest]) -> list[Reply | BaseException]:
    return await asyncio.gather(*(desk.send(one, one.key()) for one in requests), return_exceptions=True)


def codes(outcomes: list[Reply | BaseException]) -> list[str]:
    return ["ok" if isinstance(one, Reply) else getattr(one, "code", repr(one)) for one in outcomes]


async def until(true: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about"
        await asyncio.sleep(0.01)


def awaited(path: Path) -> int:
    return sum(waiting for _, waiting in listed_at(path / "batches.sqlite"))


async def test_calls_gather_into_one_batch_and_each_gets_its_own_reply_at_half_price(
    provider: ServingBatches, tmp_path: Path
) -> None:
    requests = asks(provider.url, 20)
    async with desk_at(tmp_path) as desk:
        replies = await send_all(desk, requests)
        assert codes(replies) == ["ok"] * 20
        for request, reply in zip(requests, replies, strict=True):
            assert isinstance(reply, Reply) and request.messages[0].content
            prompt, completion = reply.usage.prompt_tokens or 0, reply.usage.completion_tokens or 0
            assert prompt and reply.price_usd == pytest.approx((1 * prompt + 2 * completion) / 1e6 / 2)
        assert len({reply.text for reply in replies if isinstance(reply, Reply)}) == 20
        assert awaited(tmp_path) == 20
        await asyncio.gather(*(desk.done(one.key()) for one in requests))
        assert awaited(tmp_path) == 0
    (lines,) = provider.sent()
    assert {line["custom_id"] for line in lines} == {one.key() for one in requests}
    body = lines[0]["body"]
    assert body["model"] == "fake" and body["max_tokens"] == 32 and not {"api_key", "timeout"} & body.keys()
    assert provider.requests["create"] == 1 and provider.requests["content"] == 1
    assert provider.fake.seen[0]["metadata"]["graft"] == listed_at(tmp_path / "batches.sqlite")[0][0].id


async def test_the_reply_is_the_question_s_own(provider: ServingBatches, tmp_path: Path) -> None:
    requests = asks(provider.url, 12)
    async with desk_at(tmp_path) as desk:
        first = await send_all(desk, requests)
    async with desk_at(tmp_path / "other") as desk:
        second = await send_all(desk, requests[::-1])
    assert [r.text for r in first if isinstance(r, Reply)] == [r.text for r in second[::-1] if isinstance(r, Reply)]


async def test_a_batch_goes_out_when_it_is_full_and_models_and_forms_do_not_mix(
    provider: ServingBatches, tmp_path: Path
) -> None:
    many = asks(provider.url, 6)
    other = asks(provider.url, 2, spec={"model": "openai/another"})
    plain = ask(provider.url, spec={"model": "text-completion-openai/fake"}, said={"prompt": "open at"})
    async with desk_at(tmp_path, most=3, linger_s=0.3) as desk:
        assert codes(await send_all(desk, [*many, *other, plain])) == ["ok"] * 9
    sizes = sorted((lines[0]["body"]["model"], len(lines), lines[0]["url"]) for lines in provider.sent())
    chat = "/v1/chat/completions"
    assert sizes == [("another", 2, chat), ("fake", 1, "/v1/completions"), ("fake", 3, chat), ("fake", 3, chat)]


async def test_a_failure_is_its_own_and_may_be_sent_again(provider: ServingBatches, tmp_path: Path) -> None:
    provider.set(failing=0.3, missing=0.2, reply_text='{"score": 7}', broken=0.2)
    requests = asks(provider.url, 40, json_schema=SCORE)
    async with desk_at(tmp_path) as desk:
        outcomes = await send_all(desk, requests)
        found = codes(outcomes)
        assert set(found) == {"ok", "server_error", "malformed"} and set(found) - {"ok"} <= RETRYABLE
        assert all(one.parsed == {"score": 7} for one in outcomes if isinstance(one, Reply))
        damaged = [one for one in outcomes if isinstance(one, Damaged)]
        assert damaged and all(one.usage and one.price_usd for one in damaged)
        assert awaited(tmp_path) == found.count("ok")
        provider.set(failing=0.0, missing=0.0, broken=0.0)
        failed = [one for one, code in zip(requests, found, strict=True) if code != "ok"]
        assert codes(await send_all(desk, failed)) == ["ok"] * len(failed)
    assert [len(lines) for lines in provider.sent()] == [40, len(failed)]


@pytest.mark.parametrize(("status", "kind", "code"), [
    (400, Refused, "refused_by_server"), (429, CallFailed, "rate_limited"), (503, CallFailed, "server_error"),
])  # fmt: skip
async def test_each_status_of_a_line_has_its_code(
    provider: ServingBatches, tmp_path: Path, status: int, kind: type[CallFailed], code: str
) -> None:
    provider.set(failing=1.0, fail_status=status, echo_key=True)
    async with desk_at(tmp_path) as desk:
        with pytest.raises(kind) as caught:
            await desk.send(ask(provider.url), "k")
    assert caught.value.code == code and KEY not in str(caught.value) + caught.value.raw


async def test_an_expired_batch_gives_what_it_has(provider: ServingBatches, tmp_path: Path) -> None:
    provider.set(expire=True)
    async with desk_at(tmp_path) as desk:
        assert set(codes(await send_all(desk, asks(provider.url, 20)))) == {"ok", "timeout"}


async def test_a_refused_batch_gives_the_reason_without_the_key(provider: ServingBatches, tmp_path: Path) -> None:
    provider.set(refuse=f"line 1 of {KEY} names an unknown field")
    async with desk_at(tmp_path) as desk:
        outcomes = await send_all(desk, asks(provider.url, 3))
        provider.set(refuse="", refuse_files="files of this kind are refused for")
        outcomes += await send_all(desk, asks(provider.url, 3))
    assert codes(outcomes) == ["refused_by_server"] * 6 and all(isinstance(one, Refused) for one in outcomes)
    assert "names an unknown field" in str(outcomes[0]) and "files of this kind" in str(outcomes[3])
    assert not any(KEY in str(one) + getattr(one, "raw", "") for one in outcomes)
    assert awaited(tmp_path) == 0


async def test_a_lost_result_file_fails_its_calls_and_they_can_be_sent_again(
    provider: ServingBatches, tmp_path: Path
) -> None:
    provider.set(lose_results=True)
    async with desk_at(tmp_path) as desk:
        assert codes(await send_all(desk, asks(provider.url, 2))) == ["server_error"] * 2
        provider.set(lose_results=False)
        assert codes(await send_all(desk, asks(provider.url, 2))) == ["ok"] * 2


async def test_polls_that_fail_lose_nothing(provider: ServingBatches, tmp_path: Path) -> None:
    provider.set(fail_polls=4, reset_polls=3)
    async with desk_at(tmp_path, poll_s=0.01) as desk:
        assert codes(await send_all(desk, asks(provider.url, 3))) == ["ok"] * 3
    assert provider.requests["create"] == 1 and provider.requests["retrieve"] >= 8


async def test_a_batch_whose_creation_was_not_heard_of_is_found_not_made_again(
    provider: ServingBatches, tmp_path: Path
) -> None:
    provider.set(drop_created=1)
    async with desk_at(tmp_path) as desk:
        assert codes(await send_all(desk, asks(provider.url, 3))) == ["ok"] * 3
    assert provider.requests["create"] == 1 and len(provider.sent()) == 1


async def test_a_batch_that_the_provider_forgot_is_sent_again(provider: ServingBatches, tmp_path: Path) -> None:
    request = ask(provider.url)
    store = BatchStore(tmp_path / "batches.sqlite")
    batch = Batch(
        "b1", "openai/fake", provider.url, "GRAFT_TEST_KEY", True, 1, time.time(), "x", "sent", "f", "batch_0"
    )
    store.add(batch, [request.key()])
    store.close()
    async with desk_at(tmp_path, poll_s=0.01) as desk:
        assert codes(await send_all(desk, [request])) == ["server_error"]
        assert codes(await send_all(desk, [request])) == ["ok"]


async def test_a_provider_out_of_reach_fails_the_calls_and_they_can_be_sent_again(
    provider: ServingBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.agents.gateway.batch.journey.SUBMITS", 2)
    async with desk_at(tmp_path, poll_s=0.01) as desk:
        unheard = ask("http://127.0.0.1:9/v1")
        assert codes(await send_all(desk, [unheard])) == ["connection"]
        assert codes(await send_all(desk, [unheard])) == ["connection"]
        provider.set(drop_created=2)
        heard = ask(provider.url)
        assert codes(await send_all(desk, [heard])) == ["ok"]
    assert [len(lines) for lines in provider.sent()] == [1]


async def test_two_that_ask_the_same_are_one_call_and_one_may_leave(provider: ServingBatches, tmp_path: Path) -> None:
    request = ask(provider.url)
    async with desk_at(tmp_path, linger_s=0.3) as desk:
        first, second = (asyncio.create_task(desk.send(request, "k")) for _ in range(2))
        await until(lambda: bool(desk._gatherings))
        first.cancel()
        assert isinstance(await asyncio.wait_for(second, 10), Reply)
        third, fourth = (asyncio.create_task(desk.send(request, "l")) for _ in range(2))
        await asyncio.sleep(0)
        third.cancel()
        assert isinstance(await asyncio.wait_for(fourth, 10), Reply)
    assert [len(lines) for lines in provider.sent()] == [1, 1]


async def test_a_server_that_refuses_schemas_gets_none(provider: ServingBatches, tmp_path: Path) -> None:
    provider.set(refuse_schema=True, reply_text='{"score": 3}')
    async with desk_at(tmp_path) as desk:
        replies = await send_all(desk, asks(provider.url, 3, json_schema=SCORE))
    assert [one.parsed for one in replies if isinstance(one, Reply)] == [{"score": 3}] * 3


async def test_a_call_given_up_before_its_batch_is_not_sent(provider: ServingBatches, tmp_path: Path) -> None:
    first, second = asks(provider.url, 2)
    async with desk_at(tmp_path, linger_s=0.3) as desk:
        kept, dropped = (asyncio.create_task(desk.send(one, one.key())) for one in (first, second))
        await until(lambda: sum(len(g.lines) for g in desk._gatherings.values()) == 2)
        dropped.cancel()
        assert isinstance(await kept, Reply)
    ((line,),) = provider.sent()
    assert line["custom_id"] == first.key()


async def test_the_next_process_joins_a_batch_that_is_under_way(provider: ServingBatches, tmp_path: Path) -> None:
    provider.set(seconds=3600)
    requests = asks(provider.url, 5)
    async with desk_at(tmp_path) as desk:
        sending = asyncio.create_task(send_all(desk, requests))
        await until(lambda: any(b.state == "sent" for b, _ in listed_at(tmp_path / "batches.sqlite")))
        await desk.close()
        assert codes(await sending) == ["cancelled"] * 5
    assert provider.requests["cancel"] == 0
    provider.set(seconds=0)
    async with desk_at(tmp_path) as desk:
        early = await send_all(desk, requests[:2])
        late = await send_all(desk, requests[2:])  # their batch has ended: read from here
        new = await desk.send(ask(provider.url, "another"), "new")
    assert codes([*early, *late, new]) == ["ok"] * 6
    assert [len(lines) for lines in provider.sent()] == [5, 1] and provider.requests["content"] == 2


@pytest.mark.parametrize("got_in", [True, False])
async def test_between_submit_and_record_a_batch_is_looked_up_at_the_provider(
    provider: ServingBatches, tmp_path: Path, got_in: bool
) -> None:
    requests = asks(provider.url, 3)
    provider.set(page=2)
    async with desk_at(tmp_path) as desk:  # makes the files; other people's batches lie in front
        assert codes(await send_all(desk, requests)) == ["ok"] * 3
    for _ in range(5):
        name = f"batch_{len(provider.fake.batches)}"
        others = {"id": name, "metadata": {}, "input_file_id": "f"}
        provider.fake.batches[name] = {**next(iter(provider.fake.batches.values())), **others}
    if not got_in:
        next(iter(provider.fake.batches.values())).update(metadata={"graft": "somebody else's"}, input_file_id="f")
    store = BatchStore(tmp_path / "batches.sqlite")
    ((batch, _),) = store.listed()
    batch.state, batch.remote = "uploaded", None
    store.update(batch)
    with store._connection:
        store._connection.execute("UPDATE batch_keys SET answer = NULL")
    store.close()
    async with desk_at(tmp_path) as desk:
        assert codes(await send_all(desk, requests)) == ["ok"] * 3
    assert provider.requests["create"] == (1 if got_in else 2) and provider.requests["list"] >= 3


async def test_what_was_never_handed_in_is_sent_again(provider: ServingBatches, tmp_path: Path) -> None:
    request = ask(provider.url)
    store = BatchStore(tmp_path / "batches.sqlite")
    store.add(Batch("b1", "openai/fake", provider.url, "GRAFT_TEST_KEY", True, 1, time.time(), "gone"), [request.key()])
    store.close()
    async with desk_at(tmp_path) as desk:
        assert codes(await send_all(desk, [request])) == ["ok"]
    assert provider.requests["create"] == 1 and provider.requests["list"] == 0


async def test_what_a_living_process_hands_in_is_not_sent_beside_it(provider: ServingBatches, tmp_path: Path) -> None:
    request = ask(provider.url)
    async with desk_at(tmp_path) as mine, desk_at(tmp_path) as other:
        assert codes(await send_all(other, [ask(provider.url, "first")])) == ["ok"]
        batch = Batch("b1", "openai/fake", provider.url, "GRAFT_TEST_KEY", True, 1, time.time(), other._id)
        assert other._store is not None
        other._store.add(batch, [request.key()])
        sending = asyncio.create_task(mine.send(request, request.key()))
        await asyncio.sleep(0.4)
        assert not sending.done() and provider.requests["create"] == 1
        await other.close()
        assert isinstance(await sending, Reply)


async def kill_a_sender(url: str, folder: Path, ready: Callable[[], bool]) -> None:
    """Send four calls from another process, which is killed as soon as `ready`."""
    script = folder / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import asyncio, sys
        from pathlib import Path
        sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parent.parent)!r}]
        from test_gateway_batches import asks, desk_at, send_all

        async def main():
            async with desk_at(Path({str(folder)!r})) as desk:
                await send_all(desk, asks({url!r}, 4))

        asyncio.run(main())
        """)
    )
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), stderr=subprocess.DEVNULL)
    await until(ready, 60)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()


async def test_a_killed_process_s_batch_is_taken_up_not_paid_again(provider: ServingBatches, tmp_path: Path) -> None:
    provider.set(seconds=3600)
    await kill_a_sender(
        provider.url, tmp_path, lambda: any(b.state == "sent" for b, _ in listed_at(tmp_path / "batches.sqlite"))
    )
    provider.set(seconds=0)
    async with desk_at(tmp_path) as desk:
        assert codes(await send_all(desk, asks(provider.url, 4))) == ["ok"] * 4
    assert provider.requests["create"] == 1 and provider.requests["list"] == 0


async def test_closing_with_cancel_stops_batches_and_the_next_run_keeps_what_was_answered(
    provider: ServingBatches, tmp_path: Path
) -> None:
    provider.set(seconds=3600)
    requests = asks(provider.url, 20)
    async with desk_at(tmp_path) as desk:
        sending = asyncio.create_task(send_all(desk, requests))
        await until(lambda: any(b.state == "sent" for b, _ in listed_at(tmp_path / "batches.sqlite")))
        await desk.close(cancel=True)
        assert codes(await sending) == ["cancelled"] * 20
    assert provider.requests["cancel"] == 1
    provider.set(seconds=0)
    async with desk_at(tmp_path) as desk:
        assert codes(await send_all(desk, requests)) == ["ok"] * 20
    first, second = provider.sent()
    assert len(first) == 20 and 0 < len(second) < 20


async def test_the_command_lists_and_cancels(
    provider: ServingBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import typer

    from graft.cli.batches import batches

    app = typer.Typer()
    app.command()(batches)
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path))
    assert "no batches" in CliRunner().invoke(app, []).output
    provider.set(seconds=3600, answered_by_then=0.0)
    async with desk_at(tmp_path) as desk:
        sending = asyncio.create_task(send_all(desk, asks(provider.url, 3)))
        path = path_in(tmp_path)
        await until(lambda: any(b.state == "sent" for b, _ in listed_at(path)))
        ((batch, _),) = listed_at(path)
        listed = await asyncio.to_thread(CliRunner().invoke, app, ["--json"])
        assert batch.id in listed.output and KEY not in listed.output
        assert batch.id[:8] in (await asyncio.to_thread(CliRunner().invoke, app, [])).output
        unknown = await asyncio.to_thread(CliRunner().invoke, app, ["--cancel", "zz"])
        assert isinstance(unknown.exception, GraftError) and "no batch" in str(unknown.exception)
        done = await asyncio.to_thread(CliRunner().invoke, app, ["--cancel", batch.id[:8]])
        assert "is being cancelled" in done.output, done.exception
        assert codes(await sending) == ["cancelled"] * 3
        again = await asyncio.to_thread(CliRunner().invoke, app, ["--cancel", str(batch.remote)])
        assert "has ended already" in again.output


async def test_prices_come_from_litellm_s_table_where_the_recipe_has_none(
    provider: ServingBatches, tmp_path: Path
) -> None:
    known, unknown = {"model": "openai/gpt-4o-mini", "price": None}, {"price": None}
    async with desk_at(tmp_path) as desk:
        replies = await send_all(desk, [ask(provider.url, spec=known), ask(provider.url, spec=unknown)])
    priced, free = replies
    assert isinstance(priced, Reply) and isinstance(free, Reply) and free.price_usd is None
    prompt, completion = priced.usage.prompt_tokens or 0, priced.usage.completion_tokens or 0
    assert priced.price_usd == pytest.approx((0.075 * prompt + 0.3 * completion) / 1e6)


async def test_models_get_their_own_names_of_fields(provider: ServingBatches, tmp_path: Path) -> None:
    async with desk_at(tmp_path) as desk:
        request = ask(provider.url, spec={"model": "openai/gpt-5-mini"})
        extra = {"verbosity": "low", "api_version": "v9", "secret_token": "hush", "n": 8, "max_completion_tokens": 9}
        spec = request.model.model_copy(update={"extra": extra})  # no recipe gives the last three
        await send_all(desk, [request.model_copy(update={"model": spec})])
    ((line,),) = provider.sent()
    assert line["body"]["max_completion_tokens"] == 32 and line["body"]["verbosity"] == "low"
    assert not {"max_tokens", "temperature", "api_version", "secret_token", "n"} & line["body"].keys()


async def test_an_error_that_only_a_person_can_fix_is_reported(
    provider: ServingBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk_at(tmp_path) as desk:
        with pytest.raises(ModelUnreachable, match="no batch API for anthropic"):
            await desk.send(ask(provider.url, spec={"model": "anthropic/claude-3-haiku"}), "a")
        monkeypatch.setenv("GRAFT_TEST_KEY", "sk-another-one-9921")
        with pytest.raises(ModelUnreachable, match="refused the key") as caught:
            await desk.send(ask(provider.url), "b")
        assert "9921" not in str(caught.value)
        monkeypatch.delenv("GRAFT_TEST_KEY")
        with pytest.raises(KeyMissing, match="GRAFT_TEST_KEY"):
            await desk.send(ask(provider.url), "c")
    assert provider.requests["create"] == 0


async def test_the_key_is_in_no_file_and_no_log(
    provider: ServingBatches, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    provider.set(reply_text=f"your key is {KEY}")
    async with desk_at(tmp_path) as desk:
        replies = await send_all(desk, asks(provider.url, 2))
        assert all(isinstance(one, Reply) and one.text == "your key is (key)" for one in replies)
        files = await asyncio.to_thread(lambda: list(tmp_path.iterdir()))
        assert files and not any(KEY.encode() in file.read_bytes() for file in files)
    written = capfd.readouterr()
    assert KEY not in caplog.text + written.out + written.err


async def test_a_role_sends_batches_through_the_gateway(
    provider: ServingBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("graft.agents.gateway.batch.desk.LINGER_S", 0.05)
    monkeypatch.setattr("graft.agents.gateway.batch.desk.POLL_S", 0.05)
    monkeypatch.setattr("graft.agents.gateway.limiter.BASE_WAIT_S", 0.01)
    requests, rules = asks(provider.url, 40), {"reviewer": RoleRules(batch=True)}
    provider.set(failing=0.2)
    async with Gateway(journal=tmp_path / "journal.sqlite", concurrency=2, roles=rules, retries=8) as gateway:
        pending = asyncio.gather(*(gateway.call(one) for one in requests))
        await until(lambda: gateway.stats.retried > 0)
        provider.set(failing=0.0)
        replies = await pending
        stats, sent = gateway.stats, len(provider.sent())
    assert all(reply.text and reply.price_usd is not None for reply in replies)
    assert stats.calls == 40 and stats.retried > 0 and stats.in_flight == 0
    assert 2 <= sent < 12, "forty calls and their second tries go out in a few files"
    usage = sum((r.usage.prompt_tokens or 0) + 2 * (r.usage.completion_tokens or 0) for r in replies) / 1_000_000
    assert sum(reply.price_usd or 0 for reply in replies) == pytest.approx(usage / 2)
    async with Gateway(journal=tmp_path / "journal.sqlite", roles=rules) as gateway:
        assert all([(await gateway.call(one)).cached for one in requests])
    assert len(provider.sent()) == sent
