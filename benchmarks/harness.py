"""Shared parts of the measurements: the fake server in its own process, a Prefect server, recipes, child runs.

Each run is measured in its own process (child.py), so that its memory and CPU are its own. Servers listen on
127.0.0.1.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
STOP_S = 15

RECIPE = """
name: {name}
task: {{kind: classification, labels: [{{name: alpha, description: one}}, {{name: beta, description: two}}]}}
seeds:
  rows:
    - {{text: the quick brown fox jumps over a lazy dog, label: alpha}}
    - {{text: a calm river runs below the old stone bridge, label: beta}}
models:
{models}
roles:
  generator: {{models: [m1], max_tokens: 64}}
  reviewer: {{models: [m2, m3, m4], max_tokens: 64}}
  adjudicator: {{models: [m5], max_tokens: 64}}
method: {{kind: gra, reviewers: {reviewers}, max_cosine: null, early_exit: {early_exit}}}
target: {{rows_per_label: {rows}}}
limits:
  {{candidates: {candidates}, concurrency: {concurrency}, shard_rows: {shard_rows}, min_yield: 0, out_of_reach: go_on,
  money_usd: {money_usd}}}
seed: {seed}
"""


def write_recipe(
    folder: Path, base: str, *, candidates: int, name: str = "bench", concurrency: int = 64, reviewers: int = 2,
    early_exit: bool = False, rows: int | None = None, seed: int = 42, shard_rows: int = 1_000_000, model: str = "",
    one_model: bool = False, money_usd: float | None = None,
) -> Path:  # fmt: skip
    """A GRA recipe over five models of one server; without `rows` it goes on until `candidates` have settled.

    With `one_model` the server has one model, which plays all five.
    """
    models = "\n".join(
        f"  - {{name: m{i}, provider: openai, model: fake-{1 if one_model else i}, revision: r{i}, "
        f"base_url: {base}/v1, max_concurrency: {concurrency}{model}}}"
        for i in range(1, 6)
    )
    file = folder / f"{name}.yaml"
    file.write_text(
        RECIPE.format(
            name=name, models=models, reviewers=reviewers, early_exit=str(early_exit).lower(), candidates=candidates,
            rows=candidates if rows is None else rows, concurrency=concurrency, shard_rows=shard_rows, seed=seed,
            money_usd="null" if money_usd is None else money_usd,
        ),
        encoding="utf-8",
    )  # fmt: skip
    return file


@contextmanager
def fake_server(**behaviour: Any) -> Iterator[str]:
    """tests/fake_llm.py on a free port: its base address (without /v1). Behaviour's fields as keywords."""
    words = [word for name, value in behaviour.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    server = subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "fake_llm.py"), "--port", "0", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline().split()
        if not line:
            raise RuntimeError("the fake server did not start")
        yield line[-1].rstrip("/").removesuffix("/v1")
    finally:
        stop(server)


def stats(base: str) -> dict[str, Any]:
    """The fake server's counters."""
    with OPENER.open(f"{base}/stats", timeout=30) as reply:
        return dict(json.loads(reply.read()))


def behave(base: str, **behaviour: Any) -> None:
    """Change the fake server's behaviour (by Behaviour's fields) and forget its counters."""
    data = json.dumps(behaviour).encode()
    OPENER.open(urllib.request.Request(f"{base}/behave", data=data, method="POST"), timeout=30).read()


@contextmanager
def prefect_server(folder: Path) -> Iterator[None]:
    """One Prefect server for all runs of a measurement, as `graft up` starts; PREFECT_API_URL is its address.

    A server that PREFECT_API_URL names already is used as it is.
    """
    if os.environ.get("PREFECT_API_URL"):
        yield
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    quiet = {
        "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
        "PREFECT_LOCAL_STORAGE_PATH": str(folder / "storage"),
    }  # fmt: skip
    os.environ.update(quiet)
    with (folder / "server.log").open("w") as log:
        words = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
        server = subprocess.Popen([sys.executable, "-m", "prefect", *words], stdout=log, stderr=log)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api/health", server)
            os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
            yield
        finally:
            for name in ("PREFECT_API_URL", *quiet):
                os.environ.pop(name, None)
            stop(server)


def _wait_for(url: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with OPENER.open(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError(f"Prefect's server did not answer within {seconds:g} s")


def stop(process: subprocess.Popen[Any]) -> None:
    """End a child by its own id: terminate, and kill what does not end within 15 s."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_S)
    if process.stdout is not None:
        process.stdout.close()


def run_flow(
    home: Path, *recipes: Path, memory: bool = False, noted: Path | None = None, seconds: float = 900
) -> list[dict[str, Any]]:
    """One measured run for each recipe, all at the same time, in processes that share one GRAFT_HOME (see child.py).

    Raises RuntimeError with the end of a child's output where it failed.
    """
    home.mkdir(parents=True, exist_ok=True)
    gate = home / f"gate-{time.monotonic_ns()}"
    gate.mkdir()
    words = [sys.executable, str(ROOT / "benchmarks" / "child.py"), "--gate", str(gate), "--of", str(len(recipes))]
    words += ["--memory"] if memory else []
    words += ["--noted", str(noted)] if noted else []
    environment = {**os.environ, "GRAFT_HOME": str(home)}
    children = [
        subprocess.Popen(
            [*words, str(recipe)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for recipe in recipes
    ]  # fmt: skip
    results = []
    try:
        for child in children:
            output, complaint = child.communicate(timeout=seconds)
            if child.returncode:
                raise RuntimeError(f"a run ended with {child.returncode}: {complaint[-2000:]}")
            results.append(dict(json.loads(output.splitlines()[-1])))
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.communicate()
    return results
