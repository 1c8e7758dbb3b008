"""The same rows by Graft and by Data Designer, on one fake server: `python benchmarks/designer.py --python DD`.

The schema is that of Data Designer's quickstart: drawn categories and numbers, a text, a structured reply, a judge and
an expression; three calls a row. DD is the Python of a virtual environment with `pip install data-designer`. Each tool
is a command of its own, measured from its start to its end, in turns. With `--kill SECONDS` both are killed (SIGKILL)
after so long and started again: requests beyond three a row, less those that were open, repeat a finished call.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARALLEL = 64

RECIPE = """
name: reviews
task: {{kind: classification, text: a review of a product, labels: [{{name: positive}}, {{name: negative}}]}}
method:
  kind: pipeline
  steps:
    - {{draw: product, of: [kettle, lamp, chair, coat]}}
    - {{draw: age, number: [18, 70]}}
    - ask: review
      prompt: Write a review of a {{{{ product }}}} by a customer of {{{{ age }}}}.
    - ask: facts
      prompt: "Read this review and extract facts: {{{{ review }}}}"
      reply: {{stars: {{number: [1, 5]}}, mood: {{enum: [positive, negative]}}, summary: text}}
    - ask: quality
      prompt: "Judge this review: {{{{ review }}}}"
      reply: {{reasoning: text, score: {{number: [1, 5]}}}}
    - {{expr: line, value: "product + ', ' + str(facts.stars) + ' stars'"}}
  row: {{text: review, label: label, data: {{facts: facts, quality: quality, line: line}}}}
models: [{{name: m, provider: openai, model: fake-1, base_url: {url}/v1, max_concurrency: {parallel}}}]
roles: {{generator: {{models: [m], temperature: 0.7, max_tokens: 256}}}}
target: {{rows_per_label: {each}}}
limits: {{concurrency: {parallel}, candidates: 100000}}
gates: {{near_duplicate: 1.0}}
"""


def data_designer(url: str, rows: int, folder: Path) -> None:
    """Make the rows by Data Designer, in its own environment; an earlier start is resumed."""
    from typing import Literal

    import data_designer.config as dd  # type: ignore[import-not-found]
    from data_designer.engine.storage.artifact_storage import ResumeMode  # type: ignore[import-not-found]
    from data_designer.interface import DataDesigner  # type: ignore[import-not-found]
    from pydantic import BaseModel, Field

    class Facts(BaseModel):
        stars: int = Field(ge=1, le=5)
        mood: Literal["positive", "negative"]
        summary: str

    sampled = dd.ChatCompletionInferenceParams(temperature=0.7, max_tokens=256, max_parallel_requests=PARALLEL)
    model = dd.ModelConfig(
        alias="m", model="fake-1", provider="fake", skip_health_check=True, inference_parameters=sampled
    )
    scores = [
        dd.Score(name="score", description="helps a buyer", options={n: f"{n} of 5" for n in range(1, 6)}),
    ]  # fmt: skip
    config = dd.DataDesignerConfigBuilder(model_configs=[model])
    for column in (
        dd.SamplerColumnConfig(name="product", sampler_type="category",
                               params=dd.CategorySamplerParams(values=["kettle", "lamp", "chair", "coat"])),
        dd.SamplerColumnConfig(name="age", sampler_type="uniform", convert_to="int",
                               params=dd.UniformSamplerParams(low=18, high=70)),
        dd.LLMTextColumnConfig(name="review", model_alias="m",
                               prompt="Write a review of a {{ product }} by a customer of {{ age }}."),
        dd.LLMStructuredColumnConfig(name="facts", model_alias="m", output_format=Facts,
                                     prompt="Read this review and extract facts: {{ review }}"),
        dd.LLMJudgeColumnConfig(name="quality", model_alias="m", prompt="Judge this review: {{ review }}",
                                scores=scores),
        dd.ExpressionColumnConfig(name="line", expr="{{ product }}, {{ facts.stars }} stars"),
    ):  # fmt: skip
        config.add_column(column)
    provider = dd.ModelProvider(name="fake", endpoint=f"{url}/v1", provider_type="openai", api_key="none")
    tool = DataDesigner(artifact_path=folder, model_providers=[provider])
    tool.create(config, num_records=rows, dataset_name="reviews", resume=ResumeMode.IF_POSSIBLE)


def command_of(tool: str, python: str, url: str, rows: int, folder: Path) -> list[str]:
    """The command of a tool: Graft's own, or this file in Data Designer's environment."""
    if tool == "graft":
        recipe = folder / "reviews.yaml"
        recipe.write_text(RECIPE.format(url=url, each=rows // 2, parallel=PARALLEL), encoding="utf-8")
        return [sys.executable, "-m", "graft", "run", str(recipe), "--json"]
    return [python, str(Path(__file__)), "--made-by", tool, url, str(rows), str(folder)]


def journaled(home: Path) -> int:
    """Replies in Graft's journal: a reply that came, but was not written yet, counts as open."""
    with closing(sqlite3.connect(home / "journal.sqlite")) as journal:
        return int(journal.execute("SELECT count(*) FROM calls").fetchone()[0])


def measure(tool: str, python: str, url: str, rows: int, kill_s: float) -> dict[str, Any]:
    """Wall seconds, requests, repeated requests and CPU seconds of one command, or of two with a kill between."""
    from harness import behave, stats

    behave(url)
    with tempfile.TemporaryDirectory(prefix="compared-") as name:
        folder = Path(name)
        environment = {**os.environ, "GRAFT_HOME": str(folder / "home"), "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
        if tool != "graft":
            del environment["PYTHONPATH"]
        command = command_of(tool, python, url, rows, folder)
        began, used, open_calls = time.perf_counter(), os.times(), 0
        with (folder / "log").open("wb") as log:

            def start() -> subprocess.Popen[bytes]:
                return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

            child = start()
            if kill_s:
                time.sleep(kill_s)
                answered = int(stats(url)["calls"])
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                answered = journaled(folder / "home") if tool == "graft" else answered
                open_calls = int(stats(url)["requests"]) - answered
                child = start()
            code = child.wait()
        wall, now, counted = time.perf_counter() - began, os.times(), stats(url)
        if code:
            shutil.copy(folder / "log", f"{tool}.log")
            raise SystemExit(f"{tool} ended with {code}: see {tool}.log")
    cpu = now.children_user + now.children_system - used.children_user - used.children_system
    again = max(0, counted["calls"] - 3 * rows - open_calls)
    return {"tool": tool, "wall_s": wall, "cpu_s": cpu, "requests": counted["calls"], "finished_again": again}


def main() -> None:
    """Measure both in turns and print medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="Python of the environment that has data-designer")
    parser.add_argument("--rows", type=int, default=2300)
    parser.add_argument("--times", type=int, default=3, help="runs of each tool, in turns")
    parser.add_argument("--median-ms", type=int, default=200, help="the server's median reply time")
    parser.add_argument("--kill", type=float, default=0.0, help="seconds after which each run is killed once")
    given = parser.parse_args()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from harness import fake_server

    tools, found = ("graft", "data-designer"), list[dict[str, Any]]()
    with fake_server(median_ms=given.median_ms) as url:
        for _ in range(given.times):
            for tool in tools:
                found.append(measure(tool, given.python, url, given.rows, given.kill))
                print(found[-1], flush=True)
    middle = {tool: statistics.median(one["wall_s"] for one in found if one["tool"] == tool) for tool in tools}
    print({**{tool: round(value, 1) for tool, value in middle.items()}, "ratio": middle["graft"] / middle[tools[1]]})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--made-by"]:
        data_designer(sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        main()
