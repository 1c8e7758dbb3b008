"""`graft mcp`: a scripted client makes a dataset, and its user's caps, folders and servers hold."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import tiny_encoder
import yaml
from mcp import ClientSession, Implementation, StdioServerParameters, stdio_client
from test_flows_make_dataset import write_recipe

from graft.schemas.home import python_path

CLIENT = Implementation(name="scripted client", version="1")


class Agent:
    """A client of one server."""

    def __init__(self, session: ClientSession) -> None:
        self._session = session

    async def ask(self, tool: str, *, failing: bool = False, **given: Any) -> Any:
        result = await self._session.call_tool(tool, given)
        (content,) = result.content
        assert bool(result.is_error) == failing, content.text  # type: ignore[union-attr]
        return json.loads(content.text)  # type: ignore[union-attr]

    async def done(self, work: dict[str, Any], within_s: float = 120) -> dict[str, Any]:
        until = time.monotonic() + within_s
        while work["state"] == "running" and time.monotonic() < until:
            await asyncio.sleep(0.2)
            work = await self.ask("status", id=work["id"])
        return work


@asynccontextmanager
async def agent(folder: Path, *caps: str) -> AsyncIterator[Agent]:
    environment = {
        **os.environ,
        "GRAFT_HOME": str(folder / "home"),
        "PYTHONPATH": python_path(),
        "OMP_NUM_THREADS": "1",
    }
    words = ["-m", "graft", "mcp", "--root", str(folder), *caps]
    server = StdioServerParameters(command=sys.executable, args=words, env=environment, cwd=folder)
    async with stdio_client(server) as streams, ClientSession(*streams, client_info=CLIENT) as session:
        await session.initialize()
        yield Agent(session)


async def test_an_agent_makes_a_dataset_and_trains_on_it(tmp_path: Path, fake_llm: Any) -> None:
    fields = yaml.safe_load(write_recipe(tmp_path, fake_llm.url, rows=8).read_text())
    encoder = tiny_encoder.write(tmp_path / "encoder", [seed["text"] for seed in fields["seeds"]["rows"]])
    fields["student"] = {"encoder": str(encoder), **tiny_encoder.SETTINGS, "epochs": 1}
    async with agent(tmp_path) as client:
        broken = await client.ask("validate", recipe=yaml.safe_dump({**fields, "targets": {"rows_per_label": 8}}))
        assert not broken["valid"] and broken["problems"][0]["line"] and "target" in broken["problems"][0]["fix"]
        sound = await client.ask("validate", recipe=fields)
        assert sound["valid"] and Path(sound["file"]).parent == tmp_path
        assert (await client.ask("estimate", recipe=sound["file"]))["calls"] > 0
        seen = await client.done(await client.ask("preview", recipe=fields, rows=4))
        assert seen["state"] == "done" and seen["result"]["rows"] and seen["result"]["projected"]["calls"]
        made = await client.done(await client.ask("run", recipe=fields))
        assert made["state"] == "done", made
        ref = f"{fields['name']}@1"
        standing = await client.ask("status")
        assert standing["versions"] == [ref] and standing["runs"][0]["by"] == "agent:scripted client"
        assert 470 < standing["caps"]["rows"]["left"] <= 500 - made["result"]["version"]["rows"]
        assert standing["caps"]["tokens"]["left"] < standing["caps"]["tokens"]["cap"]
        page = await client.ask("rows", ref=ref, limit=3)
        assert len(page["rows"]) == 3 and page["total"] == made["result"]["version"]["rows"]
        row = page["rows"][0]["id"]
        history = await client.ask("explain", row=row)
        assert history["run"]["by"] == "agent:scripted client" and history["reviews"]
        offered = await client.ask("review", ref=ref, rule="random", size=5)
        assert row in {one["row_id"] for one in offered["items"]} or offered["total"] > 5
        assert (await client.ask("decide", ref=ref, row=row, action="reject", note="a test"))["by"].startswith("agent:")
        assert (await client.ask("publish", ref=ref))["version"] == f"{fields['name']}@2"
        assert (await client.ask("explain", row=row))["edits"][0]["by"] == "agent:scripted client"
        trained = await client.done(await client.ask("train", ref=ref))
        assert trained["state"] == "done", trained
        missing = await client.ask("rows", failing=True, ref="nothing")
        assert missing["error"]["what"] and missing["error"]["fix"]


async def test_caps_hold_over_calls_and_restarts_whatever_the_recipe_says(tmp_path: Path, fake_llm: Any) -> None:
    file = write_recipe(tmp_path, fake_llm.url, rows=8)
    fields = yaml.safe_load(file.read_text()) | {"limits": {"tokens": 10**9, "money_usd": 1000.0}}
    fields["models"] = [{**model, "price": {"input": 0, "output": 0}} for model in fields["models"]]
    caps = ("--max-tokens", "6000", "--max-rows", "50")
    async with agent(tmp_path, *caps) as client:
        await client.done(await client.ask("preview", recipe=fields, rows=4))
    async with agent(tmp_path, *caps) as client:
        ended = await client.done(await client.ask("run", recipe=fields, seed=2))
        left = (await client.ask("status"))["caps"]["tokens"]["left"]
        many = await client.done(await client.ask("run", recipe=fields, rows_per_label=500))
    sent = fake_llm.stats()
    assert ended["result"]["run"]["stopped_by"] == "budget", ended
    assert sent["prompt_tokens"] + sent["completion_tokens"] <= 6000 and left < 3000
    assert many["state"] == "failed" and "--max-rows" in " ".join(many["lines"])


async def test_an_agents_recipe_reaches_no_other_file_server_key_or_paid_model(tmp_path: Path, fake_llm: Any) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (tmp_path / "secret.jsonl").write_text('{"text": "a secret", "label": "delivery"}\n')
    fields = yaml.safe_load(write_recipe(folder, fake_llm.url, rows=8).read_text())
    (model, *_) = fields["models"]
    hosted = {"name": "m1", "provider": "litellm", "model": "openai/gpt-4o-mini"}
    refused = {
        "read this file": {"seeds": {"path": "../secret.jsonl"}},
        "reads no address": {"student": {"test": "https://example.org/test.csv"}},
        "this server": {"models": [{**model, "base_url": "http://192.0.2.1/v1"}]},
        "may not send": {"models": [{**model, "api_key_env": "SOME_TOKEN"}]},
        "spend $0.00": {"models": [hosted]},
        "sets no price": {"models": [{**hosted, "price": {"input": 0, "output": 0}}]},
    }
    skill = (Path(__file__).parents[1] / "docs/skill/SKILL.md").read_text(encoding="utf-8")
    async with agent(folder) as client:
        taught = await client.ask("validate", recipe=textwrap.dedent(skill.split("```yaml\n")[1].split("```")[0]))
        assert taught["valid"], taught
        for what, change in refused.items():
            answer = await client.ask("validate", recipe={**fields, "roles": {}, **change})
            assert not answer["valid"] and what in json.dumps(answer), (what, answer)
        outside = await client.ask("validate", recipe=str(tmp_path / "secret.jsonl"))
        assert "a secret" not in json.dumps(outside) and not outside["valid"]
    assert fake_llm.stats()["requests"] == 0
