"""`graft init`: a look at the file, and a commented recipe that validates, from flags or from four answers."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from graft.agents.local import detect
from graft.agents.local.detect import model_spec
from graft.cli import init as verb
from graft.cli.app import app
from graft.flows.plan import read_recipe
from graft.schemas.errors import GraftError, InputInvalid

MODEL = ("--model", "qwen2.5-coder-0.5b-instruct")
SHOP = """id,body,topic
1,"Where is my parcel, it has been two weeks",delivery
2,"Please send back my money for the shoes",refund
3,"The courier did not ring at the door",delivery
4,"I was charged two times for one lamp",refund
"""
GERMAN = (
    "text\nIch warte seit zwei Wochen auf mein Paket und niemand antwortet mir\nBitte senden Sie mir mein Geld zurück\n"
)
INJECTED = """text,label
"one # {{ x }}: [","a: ""b"" #"
"two words here","- {c}"
"three words more","a: ""b"" #"
"f","- {c}"
"""
ANSWERS = "instruction,output\nName a colour that is warm,Red is warm\nName a fruit that is sour,A lemon is sour\n"


def init(folder: Path, text: str | None, *words: str, suffix: str = "csv") -> Path:
    given: list[str] = []
    if text is not None:
        (folder / f"shop.{suffix}").write_text(text, encoding="utf-8")
        given = ["--file", str(folder / f"shop.{suffix}")]
    out = folder / "recipe.yaml"
    done = CliRunner().invoke(app, ["init", *given, *MODEL, "--out", str(out), *words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return out


def test_a_labelled_file_becomes_seeds_with_its_columns_and_counts(tmp_path: Path) -> None:
    out = init(tmp_path, SHOP)
    _, recipe, seeds = read_recipe(str(out))
    assert (recipe.name, recipe.method.kind, recipe.task.language) == ("shop", "gra", "en")
    assert recipe.task.names == ["delivery", "refund"] and len(seeds) == 4
    assert (recipe.seeds.text_field, recipe.seeds.label_field) == ("body", "topic")
    text = out.read_text(encoding="utf-8")
    assert "# 2 rows" in text and "graft preview shop.yaml" in text
    assert all(len(line) < 200 for line in text.splitlines()) and text.count("#") > 8


@pytest.mark.parametrize(
    ("text", "words", "method", "labels", "language"),
    [
        (GERMAN, ("--labels", "lieferung=Pakete,geld"), "label", ["lieferung", "geld"], "de"),
        (SHOP, ("--label-column", "", "--labels", "a,b"), "label", ["a", "b"], "en"),
        (SHOP, ("--text-column", "body", "--labels", "delivery,refund,other"), "gra", None, "en"),
        (ANSWERS, (), "gra", None, "en"),
        (SHOP.replace("topic", "x").replace("delivery", "harmful").replace("refund", "safe"),
         ("--task", "guard", "--policy", "asks for a code", "--label-column", "x"), "gra", ["harmful", "safe"], "en"),
        (INJECTED, (), "gra", ['a: "b" #', "- {c}"], "en"),
        (None, ("--labels", "a=about apples,b=about boats", "--name", "fruit"), "promptmix", ["a", "b"], "en"),
        (SHOP.replace("two weeks", "long " * 2_000), (), "gra", ["delivery", "refund"], "en"),
    ],
    ids=["no labels", "labels anew", "more labels", "instructions", "guard", "odd words", "no file",
         "long texts"],
)  # fmt: skip
def test_each_kind_of_file_becomes_a_recipe_that_validates(
    tmp_path: Path, text: str | None, words: tuple[str, ...], method: str, labels: list[str] | None, language: str
) -> None:
    suffix = "jsonl" if text and text.startswith("{") else "csv"
    if text and "three words more" in text:
        words = (*words, "--label-column", "label")
    if "other" in str(words):
        with pytest.raises(InputInvalid, match="label 'other' has no seed"):
            init(tmp_path, text, *words, suffix=suffix)
        assert not list(tmp_path.glob("*.yaml")) and not list(tmp_path.glob(".*.yaml"))
        return
    _, recipe, _ = read_recipe(str(init(tmp_path, text, *words, suffix=suffix)))
    assert recipe.method.kind == method and (labels is None or recipe.task.names == labels)
    assert recipe.task.language in (language, "en")


@pytest.mark.parametrize(
    ("text", "words", "what"),
    [
        (GERMAN, (), "there are no labels"),
        (SHOP, ("--text-column", "bodi"), "did you mean 'body'"),
        (SHOP, ("--labels", "delivery,other"), "has 'refund' (2 rows), which --labels leaves out"),
        ("a,b\n1,2\n3,4\n", (), "--text-column COLUMN"),
        ("text\n", ("--labels", "a,b"), "no rows"),
        (None, ("--labels", "a,b"), "without a file every label needs a meaning"),
        (None, ("--labels", "a=x"), "a classification needs two labels"),
        (GERMAN, ("--labels", "a"), "a classification needs two labels"),
        (GERMAN, ("--task", "guard", "--policy", "asks for a code"), "the task must be a classification"),
        ("text,label\none two three,1\nfour five six,0\none two four,1\nfour five two,0\n", ("--name", "_"), "name"),
        (SHOP, ("--task", "extraction"), "whose rows need spans"),
        (SHOP, ("--task", "classifcation"), "no task 'classifcation'"),
        (SHOP, ("--name", "Not a slug"), "name"),
    ],
)
def test_what_is_missing_or_odd_is_named(tmp_path: Path, text: str | None, words: tuple[str, ...], what: str) -> None:
    with pytest.raises(GraftError, match=re.escape(what)):
        init(tmp_path, text, *words)
    assert not list(tmp_path.glob("*.yaml")), "nothing is written"


def test_files_that_are_missing_and_recipes_that_exist(tmp_path: Path) -> None:
    run, out = CliRunner().invoke, tmp_path / "r.yaml"
    assert "no such file" in str(run(app, ["init", "--file", str(tmp_path / "no.csv"), *MODEL]).exception)
    out.write_text("mine", encoding="utf-8")
    (tmp_path / "shop.csv").write_text(SHOP, encoding="utf-8")
    words = ["init", "--file", str(tmp_path / "shop.csv"), *MODEL, "--out", str(out)]
    assert "this file exists" in str(run(app, words).exception) and out.read_text(encoding="utf-8") == "mine"
    assert run(app, [*words, "--force", "--json"]).exit_code == 0
    assert read_recipe(str(out))[1].name == "shop"
    assert "no such folder" in str(run(app, [*words[:-1], str(tmp_path / "x" / "r.yaml")]).exception)


def test_a_file_of_many_values_has_no_labels(tmp_path: Path) -> None:
    rows = "".join(f"the text number {n} is here,c{n}\n" for n in range(300))
    out = init(tmp_path, "text,label\n" + rows, "--labels", "a,b")
    _, recipe, _ = read_recipe(str(out))
    assert recipe.method.kind == "label" and "300 distinct values in 'label'" in out.read_text(encoding="utf-8")


def test_models_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [("llama3 (Ollama)", model_spec("llama3@http://127.0.0.1:11434/v1"))]
    monkeypatch.setattr(detect, "found_models", lambda: found)
    assert verb._model(ask=False)["base_url"] == "http://127.0.0.1:11434/v1"
    for answer, provider in (("1", "openai"), ("openai/gpt-4o-mini", "litellm"), ("smollm2-135m-instruct", "embedded")):
        monkeypatch.setattr(verb, "_asked", lambda question, default, answer=answer: answer)
        assert verb._model(ask=True)["provider"] == provider


def test_four_questions_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text(SHOP, encoding="utf-8")
    main, side = pty.openpty()
    env = {**os.environ, "GRAFT_HOME": str(tmp_path / "home"), "TERM": "dumb", "COLUMNS": "200", "OLLAMA_HOST": "x:1"}
    process = subprocess.Popen([sys.executable, "-m", "graft", "init"], cwd=tmp_path, stdin=side, stdout=side,
                               stderr=side, env=env)  # fmt: skip
    os.close(side)
    shown, answers = "", [("Your texts", "shop.csv"), ("Task (", ""), ("Labels", "delivery=parcels,refund=money back"),
                          ("Model:", "openai/gpt-4o-mini")]  # fmt: skip
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        if not select.select([main], [], [], 0.5)[0]:
            continue
        try:
            shown += os.read(main, 4096).decode(errors="replace")
        except OSError:
            break
        if answers and answers[0][0] in shown and shown.rstrip(" ").endswith(":"):
            os.write(main, f"{answers.pop(0)[1]}\n".encode())
    assert process.wait(timeout=10) == 0, shown
    os.close(main)
    assert not answers and "wrote" in shown and "labels in 'topic': delivery 2, refund 2" in shown
    _, recipe, _ = read_recipe(str(tmp_path / "shop.yaml"))
    assert recipe.models[0].provider == "litellm" and recipe.limits.money_usd == 5
    assert [one.description for one in recipe.task.categories] == ["parcels", "money back"]


def test_without_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text(SHOP, encoding="utf-8")
    words = ["init", "--file", str(tmp_path / "shop.csv"), *MODEL, "--out", str(tmp_path / "r.yaml"), "--json"]
    shown = json.loads(CliRunner().invoke(app, words, input="").stdout)
    assert shown["look"]["labels"] == {"delivery": 2, "refund": 2}
