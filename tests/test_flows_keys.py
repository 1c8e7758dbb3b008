"""A key that a person gives in any way is nowhere in what Graft keeps: not in the lake, a log, a card or an export.

Run as a program (`python tests/test_flows_keys.py RECIPE URL`), it is the person: all commands in one process.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import duckdb
import pytest
import tiny_encoder
import yaml
from browsing import COOKIES, serving
from fake_llm import Serving

from graft.data.lake import Lake
from graft.schemas.home import Home

ROOT = Path(__file__).resolve().parent.parent
BEARER = "w0rd/with+odd&chars=4711-zq"
HEADER = "another-w0rd-0815-zq"
SHAPED = "sk-canary7f3a9c21d4e8b6f0aa"
CANARIES = (BEARER, HEADER, SHAPED)


def recipe_of(url: str, encoder: Path, **model: Any) -> dict[str, Any]:
    keys = {"api_key_env": "SHOP_WORD", "headers_env": {"X-Shop": "SHOP_HEADER"}}
    models = [{"name": f"m{n}", "provider": "openai", "model": f"fake-{n}", "base_url": url, **keys} for n in range(5)]
    models[0] |= model
    roles = {"generator": ["m0"], "reviewer": ["m1", "m2", "m3"], "adjudicator": ["m4"]}
    return {
        "name": "shop", "description": f"made with {BEARER} and {SHAPED}", "licence": "CC0-1.0",
        "task": {"kind": "classification", "text": "a text",
                 "labels": [{"name": "alpha", "description": "first"}, {"name": "beta", "description": "second"}]},
        "seeds": {"rows": [{"text": "the quick brown fox jumps over a lazy dog", "label": "alpha"},
                           {"text": "a calm river runs below the old stone bridge", "label": "beta"}]},
        "models": models, "roles": {role: {"models": names, "max_tokens": 64} for role, names in roles.items()},
        "method": {"kind": "gra", "max_cosine": None}, "target": {"rows_per_label": 12},
        "student": {"encoder": str(encoder), "epochs": 1, "max_length": 16},
    }  # fmt: skip


def write(folder: Path, recipe: dict[str, Any]) -> Path:
    file = folder / "shop.yaml"
    file.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return file


def person(home: Path, prefect: str, *words: str) -> str:
    """Run this file as a program and return the output of both streams."""
    environment = {**os.environ, "GRAFT_HOME": str(home), "PREFECT_API_URL": prefect, "NO_COLOR": "1",
                   "SHOP_WORD": BEARER, "SHOP_HEADER": HEADER, "PYTHONPATH": str(ROOT)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, *words],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout + done.stderr


def command(*words: str, code: int = 0) -> None:
    """One command of `graft`, which ends with that code."""
    from graft.cli.app import main

    sys.argv = ["graft", *words]
    try:
        main()
        ended = 0
    except SystemExit as exit:
        ended = int(exit.code or 0)
    assert ended == code, f"graft {words} ended with {ended}"


def use_keys(recipe: str, fake: str) -> None:
    """Run, train, export, explain; a recipe that holds keys although none is loaded; a server that repeats the key."""
    command("run", recipe, "--train", "--export", "jsonl")
    asyncio.run(slip(recipe))
    with Lake.open(Home.find()) as lake:
        row = lake.query("SELECT id FROM lake.version_rows LIMIT 1")[0]["id"]
    command("explain", row, "--json")
    command("journal", "export", "--restricted")
    repeat = urllib.request.Request(fake.removesuffix("/v1") + "/behave", b'{"echo_key": true}')
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(repeat).close()
    command("run", recipe, "--seed", "7", code=7)


async def slip(recipe: str) -> None:
    from prefect import flow

    from graft.flows.make_dataset import make_run
    from graft.flows.plan import read_recipe

    file, loaded, seeds = read_recipe(recipe)
    extra = {"extra_headers": {"X-Old": SHAPED}, "deep": [{"api_key": SHAPED, "note": SHAPED}], "top_k": 3}
    models = tuple(one.model_copy(update={"extra": extra}) for one in loaded.models)
    slipped = loaded.model_copy(update={"models": models, "name": "slipped", "description": f"with {SHAPED}"})

    @flow(name="slip")
    async def slip_in() -> Any:
        return await make_run(slipped, file, seeds)

    assert (await slip_in())["version"]


def use_weights(recipe: str, weights: str) -> None:
    """The file is no model, so each run ends at once."""
    for content in (b"GGUF one", b"GGUF two"):
        Path(weights).write_bytes(content)
        command("run", recipe, code=3)


def found_in(content: bytes) -> list[str]:
    forms = {word: (word, word.replace("/", "%2F").replace("+", "%2B").replace("&", "%26").replace("=", "%3D"),
                    word.replace("&", "&amp;"), word.replace("&", "\\u0026")) for word in CANARIES}  # fmt: skip
    return [word for word, ways in forms.items() if any(way.encode() in content for way in ways)]


def kept_in(folder: Path) -> dict[str, list[str]]:
    """File to the canaries in it; Parquet is unpacked."""
    found = {}
    for file in sorted(one for one in folder.rglob("*") if one.is_file()):
        content = file.read_bytes()
        if content[:4] == b"PAR1":
            rows = duckdb.execute("SELECT * FROM read_parquet(?)", [str(file)]).fetchall()
            content += repr(rows).encode()
        if words := found_in(content):
            found[str(file.relative_to(folder))] = words
    return found


def test_the_search_finds_what_it_is_to_find(tmp_path: Path) -> None:
    duckdb.execute("COPY (SELECT repeat($1, 99) AS a) TO $2 (FORMAT parquet, COMPRESSION zstd)",
                   [SHAPED, str(tmp_path / "a.parquet")])  # fmt: skip
    (tmp_path / "b.db").write_bytes(b"x" + BEARER.encode())
    assert kept_in(tmp_path) == {"a.parquet": [SHAPED], "b.db": [BEARER]}


def test_no_key_is_kept_anywhere(tmp_path: Path, prefect_url: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path / "home"
    encoder = tiny_encoder.write(tmp_path / "encoder", [text for text, _ in tiny_encoder.ROWS])
    with Serving(key=BEARER) as fake:
        given = person(home, prefect_url, "keys", str(write(tmp_path, recipe_of(fake.url, encoder))), fake.url)
    with Lake.open(Home(home)) as lake:
        assert {run.dataset for run in lake.runs() if run.version} == {"shop", "slipped"}
        assert len(list(home.rglob("*.parquet"))) > 5 and lake.students()
    with serving(home, PREFECT_API_URL=prefect_url) as address:
        texts = {path: page(address + path) for path in ("/", "/runs", "/models")}
        links = dict.fromkeys(re.findall(r'href="(/[^"#]*)"', "".join(texts.values())))
        texts |= {path: page(address + path) for path in list(links)[:40]}
    assert len(texts) > 6 and not found_in(given.encode())
    assert not {path: words for path, text in texts.items() if (words := found_in(text.encode()))}
    assert kept_in(home) == {}
    servers = [kept_in(folder) for folder in tmp_path_factory.getbasetemp().glob("prefect*")]
    assert servers and not any(servers)


def test_a_run_of_a_recipe_that_holds_keys_keeps_nothing(tmp_path: Path) -> None:
    wrong = {
        "extra": {"extra_headers": {"Authorization": f"Bearer {BEARER}"}, "a": {"password": BEARER}, "note": SHAPED},
        "base_url": f"http://me:{SHAPED}@127.0.0.1:1/v1?key={BEARER}", "api_key_env": SHAPED,
    }  # fmt: skip
    file = write(tmp_path, recipe_of("http://127.0.0.1:1/v1", tmp_path, **wrong))
    done = subprocess.run(
        [sys.executable, "-m", "graft", "validate", str(file)], cwd=ROOT, text=True, capture_output=True, timeout=60,
        env={**os.environ, "GRAFT_HOME": str(tmp_path / "home")}, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and "headers_env" in done.stderr and "api_key_env" in done.stderr
    assert not found_in((done.stdout + done.stderr).encode()) and kept_in(tmp_path / "home") == {}


def page(address: str) -> str:
    cookies = "; ".join(f"{name}={value}" for name, value in COOKIES.items())
    request = urllib.request.Request(address, headers={"Cookie": cookies})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60) as answer:
            return str(answer.read().decode(errors="replace"))
    except urllib.error.HTTPError as error:
        return str(error.read().decode(errors="replace"))


def test_a_run_with_other_weights_at_the_same_path_is_another_run(tmp_path: Path, prefect_url: str) -> None:
    recipe = recipe_of("http://127.0.0.1:9/v1", tmp_path)
    recipe["models"][0] = {"name": "m0", "provider": "embedded", "model": str(tmp_path / "own.gguf")}
    person(tmp_path / "home", prefect_url, "weights", str(write(tmp_path, recipe)), str(tmp_path / "own.gguf"))
    with Lake.open(Home(tmp_path / "home")) as lake:
        assert len({run.id for run in lake.runs()}) == 2


if __name__ == "__main__":
    {"keys": use_keys, "weights": use_weights}[sys.argv[1]](sys.argv[2], sys.argv[3])
