"""`graft quality`: tables with bars and verdicts, JSON, the HTML file, a gold file, and a missing encoder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from graft.cli.quality import quality, read_gold
from graft.data.lake import Lake
from graft.data.quality import Quality
from graft.data.versions import publish
from graft.schemas.datasets import Row, Run
from graft.schemas.errors import GraftError, MissingExtra, NotFound
from graft.schemas.home import Home

AT = datetime(2026, 1, 1, tzinfo=UTC)
RUN = Run(id="r", dataset="shop", recipe={}, status="finished", started_at=AT, code_version="1")
EVIL = "[red]|<b>\x1b"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "160")
    rows = [
        Row(id=f"c_{i}", text=f"{EVIL} where is parcel {i // 2}", label="a" if i < 18 else EVIL, split="train",
            restricted=i == 0)
        for i in range(20)
    ]  # fmt: skip
    with Lake.open(Home.find()) as lake:
        publish(lake, run=RUN, rows=rows, models={}, seeds=0, card="", origin="import")
        publish(lake, run=RUN, rows=rows[:16], models={}, seeds=0, card="")
    return tmp_path


def ask(*words: str) -> str:
    app = typer.Typer()
    app.command()(quality)
    found = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert found.exit_code == 0
    return found.output


def test_tables_bars_and_verdicts(home: Path) -> None:
    output = ask("shop@1", "--no-embed")
    assert "shop@1: 20 rows" in output and "█" * 20 in output and "█" * 21 not in output
    assert "under half of their share: [red]|<b>" in output.replace("\n", " ") and "\x1b" not in output
    assert "50.0% of rows repeat another's text" in output
    assert "not known: turned off by --no-embed" in output and "an import: no model made" in output
    assert "(restricted)" in output and "first version" in output
    assert "against shop@1" in ask("shop", "--no-embed")
    assert "against shop@2" in ask("shop@1", "--no-embed", "--against", "shop@2")


def test_json_is_the_report(home: Path) -> None:
    report = Quality.model_validate(json.loads(ask("shop", "--no-embed", "--json")))
    assert report.ref == "shop@2" and report.drift is not None and report.reviews is None
    assert report.missing["meaning"] == "turned off by --no-embed"


def test_a_missing_encoder_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(texts: object) -> None:
        raise MissingExtra("no encoder", fix="pip install it")

    monkeypatch.setattr("graft.agents.local.encoder.embed", missing)
    assert "the built-in encoder is not installed (pip install it)" in ask("shop")


def test_gold_and_html(home: Path) -> None:
    gold, page = home / "gold.csv", home / "report.html"
    gold.write_text("id,text,label\nc_1,,a\nc_2,,b\n", encoding="utf-8")
    output = ask("shop", "--no-embed", "--gold", str(gold), "--html", str(page))
    assert "1 of 2 labels differ from the gold labels" in output and "wrote" in output
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and "Against gold" in text and "<b>" not in text
    with pytest.raises(GraftError, match="cannot be written"):
        ask("shop", "--no-embed", "--html", str(home / "no" / "such" / "folder.html"))


def test_gold_files(tmp_path: Path) -> None:
    lines = tmp_path / "gold.jsonl"
    lines.write_text('{"text": "hi", "label": "a"}\n\n{"id": "c_1", "label": "b"}\n', encoding="utf-8")
    assert read_gold(lines) == [("hi", "a"), ("c_1", "b")]
    for name, text in (("a.csv", "text,class\nhi,a\n"), ("b.jsonl", "{"), ("c.jsonl", "[1]\n"), ("d.csv", None)):
        if text is not None:
            (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(GraftError):
            read_gold(tmp_path / name)


def test_an_unknown_version_is_an_error(home: Path) -> None:
    with pytest.raises(NotFound):
        ask("shop@9", "--no-embed")
