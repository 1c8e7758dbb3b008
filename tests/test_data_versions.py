"""Versions, splits, cards, exports and explanations, over a small lake."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.arrow import from_rows
from graft.data.card import inert, render_card
from graft.data.explain import explain
from graft.data.export import export
from graft.data.lake import Lake
from graft.data.splits import assign_splits
from graft.data.versions import first_rows, load, plain_rows, publish, published_texts, rows, version, versions
from graft.schemas.calls import Call
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.errors import GraftError, NotFound, StorageFull
from graft.schemas.recipe import Recipe, SeedRow, SeedSettings, Splits
from graft.schemas.rows import Candidate, Decision, GateResult, Seed, Slot
from graft.schemas.students import Student, StudentSettings
from graft.schemas.tasks.base import Label
from graft.schemas.tasks.classification import ClassificationTask

AT = datetime(2026, 11, 25, tzinfo=UTC)
EVIL = "NUL \x00 \"q\" 'q' 😀 [x](http://evil.example) | <script> `rm` \n# head\u2028"
RECIPE = Recipe(
    name="d",
    task=ClassificationTask(labels=(Label(name="a"), Label(name="b|<i>"))),
    seeds=SeedSettings(rows=(SeedRow(text="one", label="a"),)),
    licence="CC0-1.0",
)
RUN = Run(id="run1", dataset="d", recipe={}, status="finished", started_at=AT, code_version="1", price_usd=None)


def row(index: int, **more: object) -> Row:
    given = {"id": f"c_row{index:05}", "text": f"{index} {EVIL}", "label": "a" if index % 2 else "b|<i>",
             "split": ("train", "train", "test")[index % 3], "restricted": index == 3, **more}  # fmt: skip
    return Row.model_validate(given)


ROWS = [row(i) for i in range(6)]


def put(lake: Lake, some: list[Row] = ROWS, run: Run = RUN) -> DatasetVersion:
    return publish(lake, run=run, rows=some, models={"gemma": "Gemma Terms of Use"}, seeds=2, card="# card")


def test_publish_is_idempotent_and_immutable(lake: Lake) -> None:
    first = put(lake)
    assert (first.ref, first.rows, first.splits) == ("d@1", 6, {"train": 4, "test": 2})
    assert first.labels == {"a": 3, "b|<i>": 3}
    assert put(lake, list(reversed(ROWS))) == first
    second = put(lake, [*ROWS, row(6)])
    assert second.version == 2 and second.content_hash != first.content_hash
    assert put(lake) == first
    moved = put(lake, [ROWS[0].model_copy(update={"split": "validation"}), *ROWS[1:]])
    assert moved.version == 3
    assert versions(lake) == versions(lake, "d") == [first, second, moved] and versions(lake, "e") == []
    columns = list(Row.model_fields)
    assert from_rows(Row, rows(lake, first).select(columns).to_pylist()) == ROWS
    at = lake.query(f"SELECT max(version) AS v FROM lake.versions AT (VERSION => {second.snapshot})")
    assert at[0]["v"] == 2
    with pytest.raises(GraftError, match="no accepted row"):
        put(lake, [])
    with pytest.raises(ValueError, match="twice"):
        put(lake, [ROWS[0], ROWS[0]])


def test_a_version_carries_the_rows_of_an_earlier_one(lake: Lake) -> None:
    seed = Row(id="s_1", text="a seed", label="a", split="train", source="seed")
    first = put(lake, [*ROWS[:3], seed])
    later = RUN.model_copy(update={"id": "run2"})
    fresh = [row(7, split="validation"), seed.model_copy(update={"split": "test"})]
    given: dict[str, Any] = {
        "rows": fresh,
        "models": {"gemma": "Gemma Terms of Use", "other": "MIT"},
        "seeds": 2,
        "card": "# card",
    }
    second = publish(lake, run=later, carried=first, **given)
    held = {r["id"]: r for r in rows(lake, second).to_pylist()}
    origins = {name: (r["run_id"], r["candidate_id"], r["split"]) for name, r in held.items()}
    assert origins == {
        "c_row00000": ("run1", "c_row00000", "train"), "c_row00001": ("run1", "c_row00001", "train"),
        "c_row00002": ("run1", "c_row00002", "test"), "c_row00007": ("run2", "c_row00007", "validation"),
        "s_1": ("run1", "", "train"),
    }  # fmt: skip
    assert held["c_row00002"]["text"] == ROWS[2].text
    assert (second.run_id, second.rows) == ("run2", 5)
    assert second.splits == {"train": 3, "validation": 1, "test": 1} and second.labels == {"a": 3, "b|<i>": 2}
    assert second.models == given["models"]
    assert publish(lake, run=later, carried=first, **given) == second
    assert put(lake, [*ROWS[:3], row(7, split="validation"), seed]) == second  # content alone distinguishes versions
    assert {name for name, *_ in published_texts(lake, "d", exclude_runs={"run2"})} == {*held} - {"c_row00007"}
    third = publish(lake, run=RUN.model_copy(update={"id": "run3"}), carried=second, **{**given, "rows": [row(9)]})
    whose = rows(lake, third).to_pydict()
    assert sorted(whose["run_id"]) == ["run1"] * 4 + ["run2", "run3"]
    with pytest.raises(ValueError, match="no version of e"):
        publish(lake, run=RUN.model_copy(update={"dataset": "e"}), carried=first, **given)


def test_a_carried_row_is_explained_by_its_own_run(lake: Lake) -> None:
    for name in ("run1", "run2"):
        lake.save_run(RUN.model_copy(update={"id": name}))
    lake.commit("run1", "b", [_candidate("run1", "the first text")], [])
    own = Row(id="c_row00001", text="the first text", label="a", split="train")
    seed = Row(id="s_12345", text="a seed", label="a", split="train", source="seed")
    first = put(lake, [own, seed])
    given: dict[str, Any] = {"models": {}, "seeds": 1, "card": "#"}
    publish(lake, run=RUN.model_copy(update={"id": "run2"}), rows=[row(7)], carried=first, **given)
    for name in ("c_row00001", "s_12345"):
        history = explain(lake, name)
        assert history["run"]["id"] == "run1" and [v["version"] for v in history["versions"]] == [1, 2]


def test_refs(lake: Lake) -> None:
    with pytest.raises(NotFound, match="nothing is published"):
        version(lake, "d")
    first = put(lake)
    second = put(lake, ROWS[:3])
    assert version(lake, "d") == version(lake, "d@latest") == version(lake, "d@2") == second
    assert version(lake, "d@1") == first
    for ref, listed in (("d@9", "d@1, d@2"), ("dd", "one of: d"), ("d@x'; --", "d@1, d@2")):
        with pytest.raises(NotFound, match=listed):
            version(lake, ref)


def test_frame_has_arrow_types(lake: Lake) -> None:
    frame = load(lake, put(lake), "test")
    assert list(frame["id"]) == ["c_row00002", "c_row00005"] and frame["text"][0] == ROWS[2].text
    assert "pyarrow" in str(frame["text"].dtype)


def test_the_first_rows_of_each_label(lake: Lake) -> None:
    some = [Row(id=f"c_{n:02}", text=f"text {n}", label="ab"[n % 2], split="train") for n in range(9)]
    found = put(lake, some)
    every = plain_rows(lake, found)
    assert every == rows(lake, found).to_pylist() and [row["id"] for row in every] == [row.id for row in some]
    assert first_rows(lake, found, 2) == [row for row in every if row["id"] < "c_04"]
    assert first_rows(lake, found, 99) == every and first_rows(lake, found, 0) == []


def test_published_texts_of_other_runs(lake: Lake) -> None:
    put(lake)
    put(lake, ROWS[:2])
    put(lake, [row(9)], RUN.model_copy(update={"id": "run2"}))
    assert published_texts(lake, "d", exclude_runs={"run1"}) == [("c_row00009", row(9).text, "a")]
    assert len(published_texts(lake, "d", exclude_runs={"run2"})) == 6
    assert published_texts(lake, "e") == []


shares = st.sampled_from([Splits(), Splits(train=0.6, validation=0.4, test=0), Splits(train=1, validation=0, test=0),
                          Splits(train=1 / 3, validation=1 / 3, test=1 / 3)])  # fmt: skip
labelled = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 12)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(labels=labelled, splits=shares, seed=st.integers(0, 2**31 - 1))
def test_splits_are_stratified_to_within_a_row(labels: list[tuple[str, int]], splits: Splits, seed: int) -> None:
    given = [(f"r{i}", "", label, "") for i, (label, _) in enumerate(labels)]
    assigned = assign_splits(given, splits, seed)
    assert assigned == assign_splits(reversed(given), splits, seed)
    assert assigned.keys() == {row_id for row_id, *_ in given}
    for label, total in Counter(label for label, _ in labels).items():
        got = Counter(assigned[row_id] for row_id, _, of, _ in given if of == label)
        for name in ("train", "validation", "test"):
            assert abs(got[name] - getattr(splits, name) * total) < 1


@settings(max_examples=60, deadline=None)
@given(labels=labelled, splits=shares, seed=st.integers(0, 2**31 - 1))
def test_clusters_never_cross_splits(labels: list[tuple[str, int]], splits: Splits, seed: int) -> None:
    given = [(f"r{i}", "", label, str(cluster)) for i, (label, cluster) in enumerate(labels)]
    assigned = assign_splits(given, splits, seed)
    assert len(assigned) == len(given)
    for cluster in {cluster for *_, cluster in given}:
        assert len({assigned[row_id] for row_id, _, _, of in given if of == cluster}) == 1
    assert all(getattr(splits, name) > 0 for name in assigned.values())


def test_splits_depend_on_the_seed_and_refuse_repeats() -> None:
    given = [(f"r{i}", "", "a", "") for i in range(50)]
    assert assign_splits(given, Splits(), 1) != assign_splits(given, Splits(), 2)
    with pytest.raises(ValueError, match="twice"):
        assign_splits([given[0], given[0]], Splits(), 1)


def test_the_card_lists_what_reaches_the_student_and_is_inert() -> None:
    run = RUN.model_copy(update={"shortfall": {"a": 2}, "stopped_by": "money"})
    reasons = [("accepted", "agreed", 6), ("rejected", "gate.<b>|x", 2)]
    recipe = RECIPE.model_copy(update={"description": EVIL})
    card = render_card(
        run=run,
        recipe=recipe,
        rows=ROWS,
        seeds=2,
        reasons=reasons,
        generators={"gemma"},
        roles=("generator", "reviewer", "adjudicator"),
    )
    for role in ("generator", "reviewer", "adjudicator"):
        assert f"| gemma | gemma\\-3\\-270m | embedded | {role} | Gemma Terms of Use | yes |" in card
    assert "| minilm | all\\-MiniLM\\-L6\\-v2 | encoder | reviewer | Apache\\-2\\.0 | no |" in card
    assert "derivative of Gemma" in card and "CC0\\-1\\.0" in card and "price: unknown" in card
    assert "| b\\|&lt;i&gt; | 2 | 0 | 1 | 3 |" in card and "| **all** | 4 | 0 | 2 | 6 |" in card
    assert "| rejected | gate\\.&lt;b&gt;\\|x | 2 | 2 of 8 |" in card and "rows still missing: a 2" in card
    assert "1 rows are restricted" in card
    assert "<" not in card and "](" not in card and "http:" not in card and "\x00" not in card
    assert inert("a" * 400).endswith("…") and "\n" not in inert(EVIL)


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_export_is_the_same_twice(lake: Lake, tmp_path: Path, format: str) -> None:
    put(lake, [*ROWS, row(8, response="reply \x00")])
    out = tmp_path / "it's out"
    paths = export(lake, "d", format=format, out=out)
    assert [path.name for path in paths] == [f"train.{format}", f"test.{format}", "manifest.json", "README.md"]
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in paths)
    before = [path.read_bytes() for path in paths]
    with pytest.raises(GraftError, match="--overwrite"):
        export(lake, "d", format=format, out=out)
    with Lake.open(lake.home, read_only=True) as reader:
        assert [path.read_bytes() for path in export(reader, "d@1", format=format, out=out, overwrite=True)] == before
    train = _read(paths[0])
    expected = [{"id": r.id, "text": r.text, "response": None, "label": r.label, "source": "synthetic"}
                for r in ROWS if r.split == "train" and not r.restricted]  # fmt: skip
    assert train == expected
    assert "6 rows of train, test; 1 restricted rows were left out" in paths[-1].read_text()
    whole = export(lake, "d", format=format, out=tmp_path / "all", splits=["train"], include_restricted=True)
    assert [path.name for path in whole] == [f"train.{format}", "manifest.json", "README.md"]
    assert len(_read(whole[0])) == 4


def _read(path: Path) -> list[dict[str, object]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    import pyarrow.parquet as pq

    table: list[dict[str, object]] = pq.read_table(path).to_pylist()
    return table


def test_export_refusals(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(lake, ROWS[:1])
    assert "response" not in _read(export(lake, "d", format="jsonl", out=tmp_path / "o")[0])[0]
    with pytest.raises(GraftError, match=r"(?s)no export .xlsx.*parquet"):
        export(lake, "d", format="xlsx", out=tmp_path / "o")
    with pytest.raises(NotFound, match="one of: train"):
        export(lake, "d", format="jsonl", out=tmp_path / "p", splits=["dev"])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GraftError, match="cannot be written"):
        export(lake, "d", format="jsonl", out=tmp_path / "file" / "x")

    def full(*args: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageFull):
        export(lake, "d", format="jsonl", out=tmp_path / "q")
    assert list((tmp_path / "q").iterdir()) == []


def _candidate(run: str, text: str) -> Candidate:
    seed = Seed.of("seed text", "a")
    slot = Slot(id="s1", run_id=run, shard=0, round=0, index=0, label="a", exemplars=(seed,), seed=1)
    return Candidate(
        id="c_row00001", slot=slot, text=text, label="a", intended_label="a", models={"generator": "gemma"},
        gates=(GateResult(gate="near", rule="jaccard", passed=True, score=0.5, neighbour=seed.id),),
        decision=Decision(status="accepted", route="agreed", code="agreed.mean", reason="fine", mean=9.0),
    )  # fmt: skip


def _call(run: str, price: float | None, key: str) -> Call:
    return Call(
        key=key, run_id=run, candidate_id="c_row00001", role="generator", purpose="generate.text", model="gemma",
        provider="litellm", served_model=None, revision="r1", request='{"temperature": 0.2}', reply="hi",
        prompt_tokens=3, completion_tokens=4, cached_tokens=None, price_usd=price, latency_s=0.5, attempts=1,
        cached=True, at=AT,
    )  # fmt: skip


def test_explain_a_row(lake: Lake) -> None:
    for number, run in enumerate(("run0", "run1")):
        found = _candidate(run, f"of {run}")
        lake.save_run(RUN.model_copy(update={"id": run, "started_at": AT.replace(hour=number)}))
        lake.commit(run, "b", [found], [_call(run, 0.25, "k1"), _call(run, 0.5, "k2")])
    put(lake)
    student = Student(
        id="st", dataset="d", version=1, trained_on="version", settings=StudentSettings(), encoder_revision="e",
        train_rows=3, device="cpu", seconds=1.5, path="students/st", created_at=AT,
    )  # fmt: skip
    lake.save_student(student)
    history = explain(lake, "c_row00001")
    assert explain(lake, "c_row00001 ") == history and json.dumps(history)
    assert history["text"] == "of run1" and history["run"]["id"] == "run1" and history["slot"]["label"] == "a"
    assert [seed["text"] for seed in history["exemplars"]] == ["seed text"]
    assert history["gates"][0]["neighbour_text"] == "seed text"
    assert history["decision"]["code"] == "agreed.mean" and history["price_usd"] == 0.75
    assert [(c["key"], c["revision"]) for c in history["calls"]] == [("k1", "r1"), ("k2", "r1")]
    assert history["versions"] == [{"dataset": "d", "version": 1, "split": "train"}]
    assert [s["id"] for s in history["students"]] == ["st"]
    lake.commit("run1", "late", [], [_call("run1", None, "k3")])
    assert explain(lake, "c_row00001")["price_usd"] is None


def test_explain_by_prefix_and_seed_rows(lake: Lake) -> None:
    put(lake, [row(0, id="s_abcdef12", source="seed"), row(1, id="s_abcdeg", split="test")])
    history = explain(lake, "s_abcdef")
    assert history["id"] == "s_abcdef12" and history["source"] == "seed" and history["calls"] == []
    wrongs = (("s_abc", "6 characters"), ("s_abcde", "s_abcdef12, s_abcdeg"), ("s_abcdxx", "such as: s_abcd"))
    for wrong, hint in wrongs:
        with pytest.raises(NotFound, match=hint):
            explain(lake, wrong)


def test_explain_gives_published_row_without_its_candidate(lake: Lake) -> None:
    put(lake)
    history = explain(lake, "c_row00002")
    assert history["text"] == ROWS[2].text and history["slot"] is None and history["students"] == []
