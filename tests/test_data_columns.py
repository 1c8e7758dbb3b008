"""Rows with columns beyond text, response and label: from a method through lake and version to exports and history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graft.data.explain import explain
from graft.data.export.write import export
from graft.data.lake import Lake
from graft.data.versions import held_by, plain_rows, publish
from graft.schemas.base import utc_now
from graft.schemas.datasets import Row, Run

SPANS = [{"start": 0, "end": 5, "type": "place"}]
RUN = Run(id="r_1", dataset="shape", recipe={}, status="finished", started_at=utc_now(), code_version="test")


def rows(*data: dict) -> list[Row]:
    return [
        Row(id=f"i_{n}", text=f"Paris is text {n}", label="a", split="train", source="imported", data=one)
        for n, one in enumerate(data)
    ]


def published(lake: Lake, *data: dict):
    return publish(lake, run=RUN, rows=rows(*data), models={}, seeds=0, card="")


def test_a_version_keeps_every_row_s_columns(lake: Lake) -> None:
    made = published(lake, {"spans": SPANS}, {"messages": [{"role": "user", "content": "é 😀"}]}, {})
    assert [row.data for row, *_ in held_by(lake, made)] == [
        {"spans": SPANS}, {"messages": [{"role": "user", "content": "é 😀"}]}, {},
    ]  # fmt: skip


def test_columns_count_for_the_content_and_plain_rows_keep_their_hash(lake: Lake) -> None:
    plain, spans, other = published(lake, {}), published(lake, {"spans": SPANS}), published(lake, {"spans": []})
    assert len({one.content_hash for one in (plain, spans, other)}) == 3
    assert published(lake, {}).version == plain.version
    assert Row(id="x", text="t", label="l", split="train").content == ("t", None, "l", "train")


@pytest.mark.parametrize("format", ["jsonl", "parquet", "csv"])
def test_exports_have_a_column_for_each(lake: Lake, tmp_path: Path, format: str) -> None:
    import pandas as pd

    made = published(lake, {"spans": SPANS, 'odd "name"\\': 1}, {"rationale": "=because"})
    file = next(
        one for one in export(lake, made.ref, format=format, out=tmp_path / "out") if one.suffix == f".{format}"
    )
    if format == "jsonl":
        found = [json.loads(line) for line in file.read_text().splitlines()]
        assert found[0]["spans"] == SPANS
        assert found[0]['odd "name"\\'] == 1
        assert found[1]["spans"] is None
        assert found[1]["rationale"] == "=because"
        return
    frame = pd.read_parquet(file) if format == "parquet" else pd.read_csv(file)
    assert json.loads(frame["spans"][0]) == SPANS
    if format == "csv":
        assert not frame["rationale"][1].startswith("=")


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_column_named_like_one_of_the_row_s_own_keeps_both(lake: Lake, tmp_path: Path, format: str) -> None:
    import pandas as pd

    passage = {"document": "a.pdf", "start": 1, "end": 9, "hash": "d_1"}
    made = published(lake, {"source": passage})
    (file, *_) = export(lake, made.ref, format=format, out=tmp_path / "out")
    if format == "jsonl":
        row = json.loads(file.read_text())
        assert (row["source"], row["data_source"]) == ("imported", passage)
    else:
        frame = pd.read_parquet(file)
        assert (frame["source"][0], json.loads(frame["data_source"][0])) == ("imported", passage)


def test_a_history_names_them_and_hides_them_with_the_text(lake: Lake) -> None:
    restricted = rows({"spans": SPANS})[0].model_copy(update={"restricted": True, "id": "i_secret"})
    publish(lake, run=RUN, rows=[restricted], models={}, seeds=0, card="")
    assert explain(lake, "i_secret")["data"] != {"spans": SPANS}
    assert explain(lake, "i_secret", restricted=True)["data"] == {"spans": SPANS}


def test_columns_can_be_chosen(lake: Lake, tmp_path: Path) -> None:
    made = published(lake, {"spans": SPANS})
    export(lake, made.ref, format="jsonl", out=tmp_path / "out", columns=["text", "spans"])
    assert json.loads((tmp_path / "out" / "train.jsonl").read_text()) == {"text": "Paris is text 0", "spans": SPANS}
    assert set(plain_rows(lake, made)[0]) >= {"data"}
