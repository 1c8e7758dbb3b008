"""The docs: links lead somewhere, the tutorial prints what it shows, recipes are valid, the site builds offline."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from fake_llm import Serving
from typer.testing import CliRunner

import graft
from graft.cli.app import app
from graft.flows.plan import read_recipe

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / ".ci"))

import docs  # noqa: E402

TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
SERVER = "http://127.0.0.1:11434/v1"


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def spoken(block: str) -> list[tuple[str, str]]:
    """The commands of a console block, each with the output that the page shows."""
    parts = re.split(r"^\$ graft (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def matches(shown: str, printed: str) -> bool:
    """Whether output is as shown, where … stands for any text, and alone on a line for any lines."""
    lines = [
        "(?:.*\n)*?" if line == "…" else ".*?".join(map(re.escape, line.split("…"))) + "\n"
        for line in shown.splitlines()
    ]
    plain = "".join(f"{line.rstrip()}\n" for line in printed.strip().splitlines())
    return bool(re.fullmatch("".join(lines), plain))


def test_every_link_of_the_docs_and_the_readme_leads_to_a_file_and_a_heading() -> None:
    assert docs.broken(docs.pages()) == []
    assert len(docs.pages()) > 40


def test_a_wrong_link_or_anchor_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    (tmp_path / "a.md").write_text(
        "# One two\n[x](a.md#one-two) [y](b.md) `[z](c.md)`\n[w](#three)\n```\n[v](d.md)\n```\n"
    )
    assert docs.broken([tmp_path / "a.md"]) == ["a.md:2: b.md", "a.md:3: #three"]


def test_every_command_and_option_that_the_docs_name_exists() -> None:
    group: Any = typer.main.get_command(app)
    wrong = []
    for page in docs.pages()[:1] + sorted((ROOT / "docs").glob("*.md")):
        for verb, rest in re.findall(
            r"^(?:\$ )?graft ([a-z-]+)([^#\n]*)", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            found = group.commands.get(verb)
            known = {name for one in [found, *getattr(found, "commands", {}).values()] for name in options(one)}
            used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest))
            if found is None or (used - known and not found.ignore_unknown_options):
                wrong.append(f"{page.name}: graft {verb}{rest}")
    assert not wrong


def options(command: Any) -> set[str]:
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts)} if command else set()


def test_the_tutorials_commands_print_what_it_shows(
    fake_llm: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "120")
    recipe = blocks(TUTORIAL, "yaml")[0]
    assert SERVER in recipe
    Path("shop.yaml").write_text(recipe.replace(SERVER, fake_llm.url).replace("qwen2.5:3b", "fake"), encoding="utf-8")
    said = [one for block in blocks(TUTORIAL, "console") for one in spoken(block)]
    assert [line.split()[0] for line, _ in said] == ["validate", "estimate", "run", "show", "show", "export"]
    for line, shown in said:
        done = CliRunner().invoke(app, shlex.split(line), catch_exceptions=False)
        assert done.exit_code == 0 and matches(shown, done.stdout), f"graft {line} printed\n{done.stdout}"


def test_the_recipe_for_one_server_is_valid_and_priced(tmp_path: Path) -> None:
    found = blocks((ROOT / "docs" / "one_server.md").read_text(encoding="utf-8"), "yaml")
    (tmp_path / "triage.yaml").write_text(found[0], encoding="utf-8")
    read_recipe(str(tmp_path / "triage.yaml"))
    assert graft.estimate(tmp_path / "triage.yaml").calls > 300


def test_the_readme_is_short_and_names_functions_that_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    for block in blocks(text, "python"):
        compile(block, "README.md", "exec")
        assert all(hasattr(graft, name) for name in re.findall(r"graft\.(\w+)\(", block))


def test_the_site_builds_with_every_page_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert docs.build(site) == []
    names = {page.relative_to(site).as_posix() for page in site.rglob("*.html")}
    assert {"index.html", "tutorial.html", "changelog.html", "reference/commands.html", "reference/kinds.html"} <= names
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert 'id="graft-run"' in commands and "--train" in commands
    assert "rows_per_label" in (site / "reference" / "recipe.html").read_text(encoding="utf-8")
    assert "near_duplicate" in (site / "reference" / "kinds.html").read_text(encoding="utf-8")
    assert "graft.improve(" in re.sub(r"<[^>]+>", "", (site / "reference" / "python.html").read_text(encoding="utf-8"))
    assert "tutorial" in (site / "search" / "search_index.js").read_text(encoding="utf-8")


def test_a_script_of_another_host_or_a_page_outside_the_navigation_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="https://x.example/">x</a><script src="https://x.example/y.js"></script>')
    assert docs.foreign(tmp_path) == ['a.html: <script src="https://x.example/y.js">']
    rules = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    assert rules["validation"]["nav"]["omitted_files"] == "warn"
