"""Commands that the terminal suggests are run as a person would run them: each is followed, and each succeeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_encoder
import typer
from fake_llm import Serving
from test_flows_make_dataset import graft
from typer.exceptions import TyperException

from graft.cli.app import app

VERBS = typer.main.get_command(app)
SUGGESTED = re.compile(r"(?<![\w./-])(?<!by )graft (?=[a-z])")
ENDS = re.compile(r"[`;)\n]|, |: |\.(?= |$)|  | && |$")
"""A command ends here, unless a quotation is open."""
SPOKEN = {"has", "lists", "merges", "tells"}
"""A sentence goes on after a command."""
SERVERS = {"dashboard", "schedule", "up"}
"""Verbs that serve until they are stopped, or need Prefect's server: their words are parsed; other tests run them."""
THEN = ("run demo --more 2", "tag demo", "edit ROW --dataset demo --note fine", "review demo --agreement", "clean",
        "status")  # fmt: skip
"""Commands of a person who has a version already."""
WRONG = {
    "delete demo@prod --yes": 1, "tag demo --remove": 1, "students nobody": 8, "predict nobody 'a text'": 8,
    "explain c_1234567890": 8, "models --run nobody": 8, "schedule --cron '0 3 * * *'": 1,
}  # fmt: skip
"""Mistakes with their exit code, whose fix is a command."""


def parsed(words: list[str]) -> bool:
    """Whether the command line takes these words."""
    command, rest = VERBS, words
    while rest and rest[0] in getattr(command, "commands", ()):
        command, rest = command.commands[rest[0]], rest[1:]
    if hasattr(command, "commands"):
        return False
    try:
        command.make_context("graft", list(rest))
    except (TyperException, typer.Exit):
        return False
    return True


def suggested(printed: str) -> Iterator[str]:
    """The commands in a text. A bare verb that needs more words is only spoken of, unless a colon precedes it."""
    for line in printed.splitlines():
        for found in SUGGESTED.finditer(line):
            before, rest = line[: found.start()].rstrip(), line[found.end() :]
            ends = (one.start() for one in ENDS.finditer(rest) if rest[: one.start()].count('"') % 2 == 0)
            words = shlex.split(rest[: next(ends)])
            spoken = next((n for n, word in enumerate(words) if word in SPOKEN), None)
            if parsed(words[:spoken]):
                yield shlex.join(words[:spoken])
            else:
                assert spoken == 1 or (len(words) == 1 and not before.endswith(":")), f"no command: {words} in: {line}"


class Person:
    """Someone at a terminal, who follows each suggestion once. Their dataset and their recipe are called demo."""

    def __init__(self, home: Path) -> None:
        self.home, self.open, self.followed = home, dict[str, None](), set[str]()

    def types(self, line: str, code: int = 0) -> None:
        """Run a command, which ends with that exit code, and note each suggestion that it prints."""
        done = graft(self.home, *shlex.split(line))
        assert done.returncode == code, f"graft {line}\n{done.stdout}{done.stderr}"
        self.reads(done.stdout + done.stderr)

    def reads(self, text: str) -> None:
        """Note each suggestion in a text; those that differ in the version or the row alone are one."""
        for one in map(self._meant, suggested(text)):
            same = re.sub(r"(?<=@)\d+|c_[0-9a-f]{16}", "", one)
            if same not in self.followed:
                self.open[one] = None
                self.followed.add(same)

    def follows(self) -> None:
        """Run each suggestion, and those that they print."""
        while self.open:
            line = next(iter(self.open))
            del self.open[line]
            if line.split()[0] not in SERVERS:
                self.types(line)

    def row(self) -> str:
        return re.findall(r"c_[0-9a-f]{16}", graft(self.home, "show", "demo").stdout)[0]

    def _meant(self, line: str) -> str:
        """The suggestion with things of the person's own, where it has words that stand for them."""
        things = {"RECIPE": "demo", "DATASET": "demo", "NAME": "demo", "FILE": "held.csv", "demo@OTHER": "demo@1"}
        things |= {"NAME": "review_text"} if line.startswith("prompts") else {}
        words = [self.row() if word == "ROW" else things.get(word, word) for word in shlex.split(line)]
        return shlex.join("demo" if word.endswith("demo.yaml") else word for word in words)


@pytest.mark.usefixtures("one_thread")
def test_each_command_that_the_terminal_suggests_runs(
    tmp_path: Path, fake_llm: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count in (("shop", 6), ("held", 8)):
        rows = [f"where is parcel {name} {n},delivery\nplease refund lamp {name} {n},refund\n" for n in range(count)]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(rows), encoding="utf-8")
    encoder = tiny_encoder.write(tmp_path / "encoder", ["where is parcel", "please refund lamp"])
    person, recipe = Person(tmp_path / "home"), tmp_path / "recipes" / "demo.yaml"
    recipe.parent.mkdir()

    for line in ("status", "datasets", "students", "models", "recipes", "prompts"):
        person.types(line)
    for line in ("show demo", "train demo", "predict demo 'a text'", "export-student demo", "journal size",
                 "resume demo-1", "stop demo-1", "review demo", "compare st_1 st_2"):  # fmt: skip
        person.types(line, code=8)
    person.types("schedule", code=1)

    model = f"fake@{fake_llm.url}"
    person.types(f"init --file shop.csv --name demo --model {model} --out {recipe}")
    text = recipe.read_text(encoding="utf-8")
    person.reads(text)
    for before, after in (("label: 50", "label: 6"), ("/v1'}", "/v1', price: {input: 0, output: 0}}")):
        assert before in text
        text = text.replace(before, after)
    student = f"student: {{encoder: {encoder}, epochs: 1, max_length: 16, test: ../held.csv}}\n"
    student += "splits: {train: 0.9, validation: 0.1, test: 0}\n"
    recipe.write_text(text + student, encoding="utf-8")
    with pytest.raises(AssertionError, match="no command"):
        person.reads("  fix: graft train demo --teacher-rows 200")
    for line in ("validate demo", "estimate demo"):
        person.types(line)
    person.follows()
    recipe.write_text(recipe.read_text(encoding="utf-8").replace(", test: ../held.csv", ""), encoding="utf-8")
    for line in THEN:
        person.types(line.replace("ROW", person.row()))
        person.follows()
    for line, code in WRONG.items():
        person.types(line, code)
        person.follows()
    verbs = {line.split()[0] for line in person.followed}
    assert verbs >= {*SERVERS, "estimate", "explain", "export", "maintain", "predict", "preview", "prompts", "rebase",
                     "recipes", "review", "run", "show", "status", "tag", "teacher", "train"}  # fmt: skip
