"""Provenance of rows and versions: explain, PROV-JSON, OpenLineage, and reverse look-ups."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from graft.cli import provenance as verbs
from graft.cli import read
from graft.data.arrow import to_table
from graft.data.explain import explain
from graft.data.lake import Lake
from graft.data.lineage import lineage
from graft.data.provenance import prov
from graft.data.recall import recall
from graft.data.trace import known, trace
from graft.data.versions import derive, held_by, publish
from graft.data.withdrawn import Selector
from graft.schemas.calls import Call
from graft.schemas.datasets import DatasetVersion, Edit, Row, Run
from graft.schemas.errors import NotFound
from graft.schemas.rows import Candidate, Decision, GateResult, Review, Seed, Slot
from graft.schemas.students import Student, StudentSettings

AT = datetime(2026, 11, 25, tzinfo=UTC)
SEED, OTHER = Seed.of("where is my parcel", "delivery"), Seed.of("i want my money back", "refund")
TEXTS = ("when does my parcel come", "the courier came too late", "send back the money please", "a refund for shoes")
IDS = tuple(f"c_row0000{number}" for number in range(len(TEXTS)))
RUN = Run(
    id="shop-1", dataset="shop", recipe={"seeds": {"path": "seeds.csv"}, "name": "shop"}, recipe_file="shop.yaml",
    status="finished", started_at=AT, ended_at=AT.replace(hour=1), code_version="1", price_usd=None,
)  # fmt: skip


def call(candidate: str, role: str, model: str, purpose: str, request: object, **more: Any) -> Call:
    facts: dict[str, Any] = {
        "key": f"k{candidate}{model}{purpose}", "run_id": RUN.id, "candidate_id": candidate, "provider": "embedded",
        "served_model": None, "revision": "r1", "reply": "a reply", "prompt_tokens": 3, "completion_tokens": 4,
        "cached_tokens": None, "price_usd": 0.5, "latency_s": 0.1, "attempts": 1, "cached": False, "at": AT, **more,
    }  # fmt: skip
    text = request if isinstance(request, str) else json.dumps(request)
    return Call(role=role, model=model, purpose=purpose, request=text, **facts)  # type: ignore[arg-type]


def chat(system: str, user: str) -> dict[str, Any]:
    turns = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    return {"messages": turns, "temperature": 0.7, "max_tokens": 64, "seed": 5}


def candidate(number: int, exemplar: Seed, judge: str) -> Candidate:
    label = "delivery" if number < 2 else "refund"
    slot = Slot(id=f"sl{number}", run_id=RUN.id, shard=0, round=0, index=number, label=label, exemplars=(exemplar,),
                seed=1)  # fmt: skip
    review = Review(stage="content", role="adjudicator", model=judge, mean=9.0, comment="clear")
    return Candidate(
        id=IDS[number], slot=slot, text=TEXTS[number], label=label, intended_label=label,
        models={"generator": "writer" if number < 3 else "second", "reviewer": "judge"}, reviews=(review,),
        gates=(GateResult(gate="near_seed", rule="passed", passed=True, neighbour=""),),
        decision=Decision(status="accepted", route="agreed", code="agreed.mean", reason="both agree", mean=9.0),
    )  # fmt: skip


def fill(lake: Lake) -> DatasetVersion:
    """Row 0 came of the seed, row 1 of row 0; rows 2 and 3 of the other seed."""
    first = Seed.of(TEXTS[0], "delivery")
    made = [candidate(0, SEED, "judge"), candidate(1, first, "judge"), candidate(2, OTHER, "judge"),
            candidate(3, OTHER, "writer")]  # fmt: skip
    lake.save_run(RUN)
    lake.add_seeds(RUN.id, [SEED, OTHER])
    calls = [call(one.id, "generator", one.models["generator"], "generate.text", chat("Write one.", f"{n}"))
             for n, one in enumerate(made)]  # fmt: skip
    calls.append(call(IDS[0], "reviewer", "judge", "review.text", {"prompt": "Judge.\n\nText: a", "choices": []}))
    calls.append(call(IDS[0], "reviewer", "judge", "review.text", "no JSON {", key="broken"))
    calls.append(call(IDS[1], "reviewer", "down", "review.text", chat("Judge it.", "x"), failure="timeout", reply=None))
    lake.commit(RUN.id, "b1", made, calls)
    rows = [Row(id=one.id, text=one.text, label=one.label, split="test" if n == 3 else "train")
            for n, one in enumerate(made)]  # fmt: skip
    rows.append(Row(id=SEED.id, text=SEED.text, label="delivery", split="train", source="seed"))
    return publish(lake, run=RUN, rows=rows, models={"writer": "MIT", "judge": "MIT", "idle": "MIT"}, seeds=2, card="#")


def hows(lake: Lake, kind: str, value: str) -> dict[str, tuple[str, ...]]:
    return {row.id: row.how for row in trace(lake, Selector(kind, value))}  # type: ignore[arg-type]


def test_a_model_is_traced_by_its_part(lake: Lake) -> None:
    fill(lake)
    found = hows(lake, "model", "writer")
    assert found == {**dict.fromkeys(IDS[:3], ("generator",)), IDS[3]: ("adjudicator",)}
    assert hows(lake, "model", "judge") == {
        IDS[0]: ("adjudicator", "reviewer"), IDS[1]: ("adjudicator",), IDS[2]: ("adjudicator",)
    }  # fmt: skip
    assert hows(lake, "model", "down") == {}  # it failed: it touched nothing, but it is known
    with pytest.raises(NotFound, match="writer"):
        trace(lake, Selector("model", "nobody"))


def test_seeds_are_traced_through_accepted_rows(lake: Lake) -> None:
    fill(lake)
    found = hows(lake, "seed", SEED.id)
    assert found == {SEED.id: ("itself",), IDS[0]: ("shown as exemplar",), IDS[1]: ("by way of 1 accepted row",)}
    assert set(hows(lake, "seed", OTHER.id)) == {IDS[2], IDS[3]}


def test_prompts_have_versions_by_their_fixed_opening(lake: Lake) -> None:
    fill(lake)
    versions = {row["detail"]: row["value"] for row in known(lake, "prompt") if row["calls"] > 1}
    assert list(versions) == ["generate.text"]
    assert set(hows(lake, "prompt", versions["generate.text"])) == set(IDS)
    others = [row["value"] for row in known(lake, "prompt") if row["detail"] == "review.text"]
    assert sorted(map(len, others)) == [14, 14]  # a completion's first paragraph, a system message; no broken JSON
    assert [row for name in others for row in hows(lake, "prompt", name)] == [IDS[0]]
    assert set(hows(lake, "run", RUN.id)) == {*IDS, SEED.id}


def test_explain_is_whole(lake: Lake) -> None:
    found = fill(lake)
    student = Student(id="st_1", dataset="shop", version=1, trained_on="version", settings=StudentSettings(),
                      encoder_revision="e", train_rows=3, device="cpu", seconds=1, path="p", created_at=AT)  # fmt: skip
    lake.save_student(student)
    edit = Edit(id="e1", dataset="shop", version=1, row_id=IDS[0], action="relabel", base_text=TEXTS[0],
                base_label="delivery", label="refund", note="it is a refund", by="ann", at=AT)  # fmt: skip
    lake.write(lambda _: lake.insert("edits", to_table(Edit, [edit])))
    held = [(row.model_copy(update={"label": "refund"}) if row.id == IDS[0] else row, *rest)
            for row, *rest in held_by(lake, found) if row.id != IDS[1]]  # fmt: skip
    drop = GateResult(gate="near", rule="near_duplicate", passed=False, score=0.9, neighbour=IDS[0], detail="alike")
    derive(lake, found, held, origin="gates", note="stricter", drops=[drop], dropped=[IDS[1]])
    history = explain(lake, IDS[0])
    assert history["published"] == {
        "dataset": "shop",
        "version": 2,
        "text": TEXTS[0],
        "response": None,
        "label": "refund",
        "data": {},
        "view": [{"pieces": [{"text": TEXTS[0], "mark": ""}], "title": "", "tone": "text"}],
    }
    assert [(e["by"], e["label"]) for e in history["edits"]] == [("ann", "refund")]
    generated = next(c for c in history["calls"] if c["purpose"] == "generate.text")
    assert generated["parameters"] == {"temperature": 0.7, "max_tokens": 64, "seed": 5}
    assert generated["prompt_version"].startswith("p_")
    assert next(c for c in history["calls"] if c["key"] == "broken")["parameters"] == {}
    assert history["origin"] == {"source": "synthetic", "file": "seeds.csv", "run": RUN.id}
    dropped = explain(lake, IDS[1])
    assert [(d["version"], d["parent"], d["origin"], d["rule"]) for d in dropped["drops"]] == [
        (2, 1, "gates", "near_duplicate")
    ]
    assert [s["id"] for s in dropped["students"]] == ["st_1"] and dropped["published"] is None
    seed = explain(lake, OTHER.id)  # a seed that no version holds
    assert (seed["source"], seed["versions"], seed["shown_to"]["rows"]) == ("seed", [], 2)
    assert seed["origin"]["file"] == "seeds.csv"


def test_imported_rows_explain_themselves(lake: Lake) -> None:
    run = RUN.model_copy(update={"id": "import-1", "dataset": "given", "recipe": {}, "recipe_file": "given.csv"})
    lake.save_run(run)
    row = Row(id="i_000001", text="a shop text", label="a", split="train", source="imported")
    made = publish(lake, run=run, rows=[row], models={}, seeds=0, card="#", origin="import")
    history = explain(lake, "i_000001")
    assert (
        history["origin"] == {"source": "imported", "file": "given.csv", "run": "import-1"} and history["calls"] == []
    )
    assert [one["name"] for one in lineage(lake, made)[0]["inputs"]] == ["given.csv"]
    assert check_prov(prov(history))["entity"] >= 2


RELATIONS = {
    "used": ("activity", "entity"),
    "wasGeneratedBy": ("entity", "activity"),
    "wasDerivedFrom": ("generatedEntity", "usedEntity"),
    "wasAssociatedWith": ("activity", "agent"),
    "wasAttributedTo": ("entity", "agent"),
}
KIND = {"generatedEntity": "entity", "usedEntity": "entity"}
NAME = re.compile(r"^[a-z]+:[A-Za-z0-9_.%/-]+$")


def check_prov(document: dict[str, Any]) -> dict[str, int]:
    """Check the structure that the PROV-JSON note requires; return records by kind."""
    assert json.loads(json.dumps(document)) == document
    assert set(document) <= {"prefix", "entity", "activity", "agent", *RELATIONS}
    for kind in ("entity", "activity", "agent"):
        for name, text in document.get(kind, {}).items():
            assert NAME.match(name) and name.split(":")[0] in document["prefix"]
            assert all(key.split(":")[0] in document["prefix"] for key in text)
            for value in text.values():
                assert isinstance(value, str | int | float | bool) or set(value) == {"$", "type"}
    for relation, parts in RELATIONS.items():
        for name, text in document.get(relation, {}).items():
            assert name.startswith("_:") and set(text) <= {f"prov:{p}" for p in (*parts, "activity", "time")}
            for part in parts:
                assert text[f"prov:{part}"] in document[KIND.get(part, part)]
            for value in (v for k, v in text.items() if k == "prov:activity"):
                assert value in document["activity"]
    return {name: len(records) for name, records in document.items()}


def test_prov_is_valid_and_whole(lake: Lake) -> None:
    found = fill(lake)
    selector = Selector("row", IDS[2])
    recall(lake, selector, reason="wrong", by="ann é/b")
    kinds = check_prov(prov(explain(lake, IDS[0])))
    assert set(kinds) == {"prefix", "entity", "activity", "agent", *RELATIONS}
    document = prov(explain(lake, IDS[2]))
    check_prov(document)
    assert f"graft:drop/shop/{found.version + 1}/recall" in document["activity"]
    assert "graft:model/writer" in document["agent"]


def test_lineage_has_what_the_spec_requires(lake: Lake) -> None:
    found = fill(lake)
    later = derive(lake, found, held_by(lake, found)[:3], origin="gates", note="fewer")
    for one in (found, later):
        start, complete = lineage(lake, one)
        assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
        assert start["run"] == complete["run"] and re.fullmatch(r"[0-9a-f-]{36}", start["run"]["runId"])
        for event in (start, complete):
            assert {"eventTime", "producer", "schemaURL", "run", "job"} <= set(event)
            assert datetime.fromisoformat(event["eventTime"]).tzinfo and ":" in event["producer"]
            for dataset in (*event["inputs"], *event["outputs"], event["job"]):
                assert dataset["namespace"] and dataset["name"]
                for facet in (dataset.get("facets") or {}).values():
                    assert facet["_producer"] and facet["_schemaURL"]
        facets = complete["outputs"][0]["facets"]
        assert {"schema", "version", "dataQualityMetrics", "columnLineage"} == set(facets)
        assert facets["dataQualityMetrics"]["rowCount"] == one.rows
        names = {field["name"] for field in facets["schema"]["fields"]}
        assert set(facets["columnLineage"]["fields"]) <= names
    first = lineage(lake, found)[1]
    assert [one["name"] for one in first["inputs"]] == ["seeds.csv", "writer", "judge"]  # not the model that was idle
    assert first["eventTime"] == RUN.ended_at.isoformat()  # type: ignore[union-attr]
    assert lineage(lake, later)[0]["inputs"][0]["facets"]["version"]["datasetVersion"] == "1"


def test_the_verbs(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(lake)
    monkeypatch.setenv("GRAFT_HOME", str(lake.home.root))
    app = typer.Typer()
    for verb in (verbs.trace, verbs.lineage, read.explain):
        app.command()(verb)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return result.stdout

    found = json.loads(run("trace", "shop", "--model", "writer", "--json"))
    assert [row["id"] for row in found["rows"]] == list(IDS)
    assert "adjudicator" in run("trace", "--model", "writer") and "p_" in run("trace")
    lines = [json.loads(line) for line in run("lineage", "shop").splitlines()]
    assert [line["eventType"] for line in lines] == ["START", "COMPLETE"]
    check_prov(json.loads(run("explain", IDS[0], "--format", "prov")))
    run("explain", IDS[0], "--prov", str(tmp_path / "row.json"))
    check_prov(json.loads((tmp_path / "row.json").read_text()))
    assert "max_tokens 64" in " ".join(run("explain", IDS[0]).split())
    assert CliRunner().invoke(app, ["explain", IDS[0], "--format", "x"]).exit_code != 0
    assert CliRunner().invoke(app, ["trace", "--model", "a", "--seed", "b"]).exit_code != 0
