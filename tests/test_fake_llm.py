"""The fault server does what its flags say, seen by plain aiohttp: what other tests and the drill rest on."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
from fake_faults import Behaviour, reply_time
from fake_llm import Serving


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as opened:
        yield opened


async def ask(session: aiohttp.ClientSession, url: str, text: str = "hello", **more: Any) -> tuple[int, Any, Any]:
    """Status, headers and body; the body parsed where it is JSON."""
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], "max_tokens": 50, **more}
    async with session.post(f"{url}/chat/completions", json=body) as response:
        payload = await response.read()
        try:
            return response.status, response.headers, json.loads(payload)
        except ValueError:
            return response.status, response.headers, payload


@pytest.mark.parametrize(
    ("shape", "median", "longest"), [("constant", 0.1, 0.1), ("uniform", 0.1, 0.2), ("bimodal", 0.1, 1.0),
                                     ("lognormal", 0.1, 2.0)]
)  # fmt: skip
def test_reply_times_have_their_shape(shape: str, median: float, longest: float) -> None:
    how, rng = Behaviour(median_ms=100, latency=shape), random.Random(1)
    times = [reply_time(how, rng) for _ in range(4000)]
    assert statistics.median(times) == pytest.approx(median, rel=0.1)
    assert max(times) <= longest
    if shape == "bimodal":
        assert sum(seconds > 0.5 for seconds in times) / len(times) == pytest.approx(how.slow_share, abs=0.015)


def test_a_shape_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        reply_time(Behaviour(median_ms=1, latency="square"), random.Random(1))


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["none", "seconds", "date"])
async def test_more_at_once_than_allowed_are_refused(
    session: aiohttp.ClientSession, fake_llm: Serving, status: int, form: str
) -> None:
    after = None if form == "none" else 7.0
    fake_llm.set(
        median_ms=100, sigma=0, rate_limit_above=3, limit_status=status, retry_after=after,
        retry_after_date=form == "date",
    )  # fmt: skip
    answers = await asyncio.gather(*(ask(session, fake_llm.url, f"n{i}") for i in range(8)))
    refused = [headers.get("Retry-After") for got, headers, _ in answers if got == status]
    assert len(refused) == 5 and sum(got == 200 for got, *_ in answers) == 3
    if form == "none":
        assert set(refused) == {None}
    elif form == "seconds":
        assert set(refused) == {"7"}
    else:
        assert all(5 < parsedate_to_datetime(str(value)).timestamp() - time.time() < 9 for value in refused)


@pytest.mark.parametrize(("limit", "pass_at_first"), [("requests_per_minute", 4), ("tokens_per_minute", 2)])
async def test_a_minute_holds_so_many_and_then_there_is_room_again(
    session: aiohttp.ClientSession, fake_llm: Serving, limit: str, pass_at_first: int
) -> None:
    most = {"requests_per_minute": 4, "tokens_per_minute": 2 * 51 + 5}  # a request books 50, and its prompt
    fake_llm.set(**{limit: most[limit]}, window_s=0.5)
    first = [(await ask(session, fake_llm.url, f"n{i}"))[0] for i in range(6)]
    assert first == [200] * pass_at_first + [429] * (6 - pass_at_first)
    await asyncio.sleep(0.55)
    assert (await ask(session, fake_llm.url, "later"))[0] == 200


async def test_wrong_replies(session: aiohttp.ClientSession, fake_llm: Serving) -> None:
    fake_llm.set(error_rate=1.0, error_status=502)
    assert (await ask(session, fake_llm.url))[0] == 502
    fake_llm.set(error_rate=0.0, malformed_rate=1.0)
    status, _, cut = await ask(session, fake_llm.url)
    assert status == 200 and isinstance(cut, bytes) and cut.startswith(b"{")
    fake_llm.set(malformed_rate=0.0, empty_rate=1.0)
    assert (await ask(session, fake_llm.url))[2]["choices"] == []
    fake_llm.set(empty_rate=0.0, wrong_schema_rate=1.0)
    given = (await ask(session, fake_llm.url))[2]["choices"][0]["message"]["content"]
    assert json.loads(given) == {"unasked": 1}
    assert fake_llm.stats()["faults"] == {"wrong_schema": 1}
    assert fake_llm.stats()["distinct"] == 0, "a wrong reply is no sound answer"


@pytest.mark.parametrize(
    ("fault", "error"), [("reset", aiohttp.ServerDisconnectedError), ("half", aiohttp.ClientPayloadError)]
)
async def test_connections_that_drop(
    session: aiohttp.ClientSession, fake_llm: Serving, fault: str, error: type[Exception]
) -> None:
    fake_llm.set(**{f"{fault}_rate": 1.0})
    if fault == "half":  # the headers come, the body breaks off
        body = {"messages": [{"role": "user", "content": "x"}]}
        async with session.post(f"{fake_llm.url}/chat/completions", json=body) as response:
            assert response.status == 200
            with pytest.raises(error):
                await response.read()
    else:
        with pytest.raises((error, aiohttp.ClientOSError)):
            await ask(session, fake_llm.url)
    assert fake_llm.stats()["statuses"] == {"0": 1}


async def test_a_hang_never_ends_and_a_trickle_does(session: aiohttp.ClientSession, fake_llm: Serving) -> None:
    fake_llm.set(hang_rate=1.0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ask(session, fake_llm.url), 0.3)
    fake_llm.set(hang_rate=0.0, trickle_rate=1.0, trickle_s=0.4)
    started = time.monotonic()
    status, _, reply = await ask(session, fake_llm.url)
    assert status == 200 and reply["choices"][0]["message"]["content"]
    assert time.monotonic() - started >= 0.4


async def test_the_account_runs_out_of_credit(session: aiohttp.ClientSession, fake_llm: Serving) -> None:
    fake_llm.set(answers_paid=2)
    answers = [await ask(session, fake_llm.url, f"n{i}") for i in range(3)]
    assert [status for status, *_ in answers] == [200, 200, 429]
    assert answers[2][2]["error"]["code"] == "insufficient_quota"


async def test_another_model_answers_and_usage_is_missing(session: aiohttp.ClientSession, fake_llm: Serving) -> None:
    fake_llm.set(served_model="fake-older", usage=False)
    reply = (await ask(session, fake_llm.url))[2]
    assert reply["model"] == "fake-older" and "usage" not in reply


async def test_duplicates_and_the_bill_are_counted(session: aiohttp.ClientSession, fake_llm: Serving) -> None:
    fake_llm.set(input_usd=10.0, output_usd=40.0)
    replies = [(await ask(session, fake_llm.url, text))[2] for text in ("one", "two", "one", "one")]
    stats = fake_llm.stats()
    assert (stats["calls"], stats["duplicates"], stats["distinct"]) == (4, 2, 2)
    prompt = sum(reply["usage"]["prompt_tokens"] for reply in replies)
    completion = sum(reply["usage"]["completion_tokens"] for reply in replies)
    assert (stats["prompt_tokens"], stats["completion_tokens"]) == (prompt, completion)
    assert stats["cost_usd"] == pytest.approx((10 * prompt + 40 * completion) / 1e6)
    fake_llm.set(error_rate=1.0)
    await ask(session, fake_llm.url)
    assert fake_llm.stats()["cost_usd"] == 0, "a failure is not on the bill"


async def test_all_judges_score_a_poor_text_low(session: aiohttp.ClientSession, fake_llm: Serving) -> None:
    fake_llm.set(poor_rate=0.5, low_score_rate=0.0)
    schema = {"type": "object", "properties": {"fit": {"type": "integer", "minimum": 0, "maximum": 10}}}
    form = {"response_format": {"json_schema": {"schema": schema}}}
    poor = 0
    for number in range(20):
        scores = []
        for judge in range(3):
            requested = f"{'a prior review ' * judge}<text>\nnumber {number}\n</text>"
            reply = (await ask(session, fake_llm.url, requested, model=f"m{judge}", **form))[2]
            scores.append(json.loads(reply["choices"][0]["message"]["content"])["fit"])
        assert all(score <= 6 for score in scores) or all(score >= 8 for score in scores)
        poor += scores[0] <= 6
    assert 3 <= poor <= 17


async def test_a_running_server_changes_its_behaviour(session: aiohttp.ClientSession, fake_llm: Serving) -> None:
    await ask(session, fake_llm.url)
    address = fake_llm.url.removesuffix("/v1")
    async with session.post(f"{address}/behave", json={"reply_text": "good day"}) as response:
        assert response.status == 200
    assert (await ask(session, fake_llm.url))[2]["choices"][0]["message"]["content"] == "good day"
    async with session.get(f"{address}/stats") as response:
        assert (await response.json())["calls"] == 1
