"""Gating a version again: what goes, why, and what is published; with nothing written on a dry run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from graft.cli.rescreen import rescreen as rescreen_verb
from graft.data.gates import Needs
from graft.data.lake import Lake
from graft.data.rescreen import gate_again
from graft.data.versions import publish, rows, versions
from graft.flows.rescreen import recipe_of, rescreen, rescreen_version
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.errors import GraftError, InputInvalid, NotFound
from graft.schemas.home import Home
from graft.schemas.recipe import Recipe, SeedRow, SeedSettings
from graft.schemas.tasks.base import Label
from graft.schemas.tasks.classification import ClassificationTask
from graft.students.folds import out_of_fold

AT = datetime(2026, 11, 26, tzinfo=UTC)
BANKING = Path("/work/shared/data/banking77")
RECIPE = Recipe(
    name="d",
    task=ClassificationTask(labels=(Label(name="parcel"), Label(name="money"))),
    seeds=SeedSettings(rows=(SeedRow(text="Where is the blue jacket that I ordered?", label="parcel"),)),
)
PARCEL = [
    "My parcel has not arrived and the courier left no note at all",
    "The courier says that the box was delivered but nobody saw it",
    "Could somebody tell me where the shoes from last week are now",
    "Tracking has stopped in Leeds since Tuesday morning, what now",
    "Please send the lamp to my office and not to the old flat",
    "A neighbour took the package, yet she only got half of it",
]
MONEY = [
    "You charged my card twice for one pair of winter gloves",
    "When will the forty pounds for the broken kettle be back",
    "I was promised a refund in May and see nothing on the account",
    "The voucher took no discount off the total at the checkout",
    "Why does the invoice show a fee that nobody told me about",
    "Your shop took the payment although the order had failed",
]


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Unit vectors by counts of letter pairs: texts that share most of their letters are near."""
    vectors = np.zeros((len(texts), 676), dtype=np.float32)
    for place, text in enumerate(texts):
        letters = [ord(letter) - 97 for letter in text.lower() if "a" <= letter <= "z"]
        for one, two in pairwise(letters):
            vectors[place, one * 26 + two] += 1
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return np.asarray(vectors / lengths, dtype=np.float32)


def row(index: int, text: str, label: str = "parcel", **more: Any) -> Row:
    return Row.model_validate({"id": f"c_row{index:05}", "text": text, "label": label, "split": "train", **more})


def plain() -> list[Row]:
    return [row(i, text, "parcel" if text in PARCEL else "money") for i, text in enumerate([*PARCEL, *MONEY])]


def put(some: Sequence[Row], recipe: dict[str, Any] | None = None, dataset: str = "d") -> DatasetVersion:
    given = RECIPE.model_dump(mode="json") if recipe is None else recipe
    run = Run(id="run1", dataset=dataset, recipe=given, status="finished", started_at=AT, code_version="1")
    with Lake.open(Home.find()) as lake:
        if lake.run("run1") is None:
            lake.save_run(run)
        return publish(lake, run=run, rows=some, models={"gemma": "Gemma Terms of Use"}, seeds=0, card="# card")


def drops() -> dict[str, str]:
    with Lake.open(Home.find(), read_only=True) as lake:
        found = lake.query("SELECT row_id, gate || '.' || rule AS rule FROM lake.drops")
    return {one["row_id"]: one["rule"] for one in found}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("GRAFT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("graft.agents.local.encoder.find_embed", lambda: (embed, ""))
    return Home.find()


def test_a_stricter_threshold_makes_a_new_version_and_notes_each_row_that_goes() -> None:
    near = row(20, MONEY[0] + " and scarves", "money")
    first = put([*plain(), near, row(21, MONEY[1].upper() + "!", "money")])
    mild = rescreen_version("d", {"gates.near_duplicate": 0.95}, dry_run=True)
    assert {one for one, _ in mild.gated.drops} == {"c_row00021"} and mild.published is None
    done = rescreen_version("d@1", {"gates.near_duplicate": 0.7})
    assert done.published is not None and done.published.ref == "d@2"
    assert (done.published.origin, done.published.parent, done.published.rows) == ("gates", first.version, 12)
    assert "gates.near_duplicate=0.7" in done.published.note and "2 of 14" in done.published.note
    assert drops() == {"c_row00020": "near_run.near_duplicate", "c_row00021": "exact_run.exact_duplicate"}
    assert sorted(one.rows for one in done.gated.clusters) == [
        ("c_row00006", "c_row00020"),
        ("c_row00007", "c_row00021"),
    ]
    with Lake.open(Home.find(), read_only=True) as lake:
        assert rows(lake, first).num_rows == 14, "the parent keeps its rows"
    assert rescreen_version("d@1", {"gates.near_duplicate": 0.7}).published == done.published
    again = rescreen_version("d@2", {"gates.near_duplicate": 0.7})
    assert again.published is None and again.gated.drops == []


def test_the_better_row_stays_and_people_s_rows_before_all(home: Home) -> None:
    some = [
        row(1, PARCEL[0]),
        row(2, PARCEL[0] + "!"),
        row(3, MONEY[0], "money"),
        row(4, MONEY[0] + "?", "money", source="seed"),
    ]
    held = [(one, "run1", one.id) for one in some]
    gated = gate_again(held, RECIPE, scores={"c_row00001": 6.0, "c_row00002": 8.0, "c_row00003": 9.9})
    assert [one.id for one, *_ in gated.kept] == ["c_row00002", "c_row00004"]
    assert {result.neighbour for _, result in gated.drops} == {"c_row00002", "c_row00004"}


def test_held_out_texts_are_found_in_words_and_in_meaning(tmp_path: Path) -> None:
    put(plain())
    held = tmp_path / "held.jsonl"
    texts = ["nothing alike 77", PARCEL[1].lower(), MONEY[2].replace(" ", "-x ", 1)]
    texts.append(" ".join(word[:-1] + word[-1] * 2 for word in PARCEL[3].split()))
    held.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    dry = rescreen_version("d", tests=[held], test_cosine=0.8, dry_run=True)
    with Lake.open(Home.find(), read_only=True) as lake:
        assert lake.test_texts("d") == []
    done = rescreen_version("d", tests=[held], test_cosine=0.8)
    assert dry.gated.drops == done.gated.drops
    found = {one: (result.rule, result.neighbour) for one, result in done.gated.drops}
    assert found["c_row00001"] == ("contamination_exact", "held.jsonl:2")
    assert found["c_row00008"][1] == "held.jsonl:3"
    assert found["c_row00003"] == ("contamination_semantic", "held.jsonl:4")
    assert len(found) == 3
    with Lake.open(Home.find(), read_only=True) as lake:
        assert len(lake.test_texts("d")) == 4, "from now on no run of this dataset may repeat them"


def test_rows_that_mean_the_same_are_one_cluster() -> None:
    put([*plain(), row(20, PARCEL[4].replace("office", "offices").replace("lamp", "lamps").replace("flat", "flats"))])
    done = rescreen_version("d", {"gates.semantic": 0.9})
    assert [(one, result.rule, result.neighbour) for one, result in done.gated.drops] == [
        ("c_row00020", "semantic", "c_row00004")
    ]
    assert [(one.kind, one.rows) for one in done.gated.clusters] == [("meaning", ("c_row00004", "c_row00020"))]


def test_label_errors_are_reported_and_on_request_rejected() -> None:
    draw = np.random.default_rng(0)
    parcel = ["courier", "parcel", "box", "delivery", "tracking", "depot", "address", "door"]
    money = ["refund", "card", "invoice", "payment", "charge", "fee", "voucher", "account"]
    words = {"parcel": parcel, "money": money}
    some = []
    for index in range(80):
        label = ("parcel", "money")[index % 2]
        text = " ".join(draw.choice(words[label], 6)) + f" n{index}"
        some.append(row(index, text, label if index > 3 else ("money", "parcel")[index % 2]))
    put(some)
    loose = {"gates.near_duplicate": 1.0, "gates.label_leak": False, "gates.repetition.action": "off"}
    result = rescreen_version("d", loose)
    errors = result.as_dict()["label_errors"]
    wrong, found = {some[index].id for index in range(4)}, {error["row_id"] for error in errors}
    assert result.published is None and len(found & wrong) >= 3 and found <= wrong
    assert all(error["likely"] != error["given"] and error["share"] > 0.5 and error["text"] for error in errors)
    assert {one["row_id"] for one in result.as_dict()["reported"]} == found
    done = rescreen_version("d", {**loose, "gates.learned.action": "reject"})
    assert done.published is not None and done.published.rows == 80 - len(found)
    assert drops().keys() == found and set(drops().values()) == {"learned.label_error"}


def test_redaction_changes_the_words_and_keeps_the_id() -> None:
    put([*plain(), row(20, "Please write to jane.roe@mail.example about the green kettle")])
    rejected = rescreen_version("d", dry_run=True)
    assert [one for one, _ in rejected.gated.drops] == ["c_row00020"]
    done = rescreen_version("d", {"gates.personal.action": "redact"})
    assert done.published is not None and done.published.rows == 13 and list(done.gated.redacted) == ["c_row00020"]
    with Lake.open(Home.find(), read_only=True) as lake:
        texts = {one["id"]: one["text"] for one in rows(lake, done.published).to_pylist()}
    assert "jane.roe" not in texts["c_row00020"] and "green kettle" in texts["c_row00020"]


def test_an_imported_version_gets_neutral_gates() -> None:
    labels = ["Parcel", "parcel", "a" * 120, ""]
    some = [row(i, text, labels[i % 4], source="imported") for i, text in enumerate([*PARCEL, *MONEY, "ok"])]
    some.append(row(30, "Где моя посылка, которую я заказал неделю назад?", "Parcel", source="imported"))
    found = put(some, recipe={})
    done = rescreen_version("d")
    assert done.gated.drops == [] and done.published is None
    assert "neutral gates" in done.gated.notes[0]
    strict = rescreen_version(
        "d", {"gates.min_chars": "5", "task.language": "en", "gates.personal.kinds": "email,card"}, dry_run=True
    )
    assert {result.rule for _, result in strict.gated.drops} >= {"too_short", "script"}
    with Lake.open(Home.find(), read_only=True) as lake:
        recipe, _ = recipe_of(lake, found, [], {"gates.personal.kinds": "email,card"})
    assert recipe.gates.personal.kinds == ("email", "card")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"gates.near_duplicat": 0.7}, "did you mean 'gates.near_duplicate'"),
        ({"gates.near_duplicate.x": 1}, "gates.near_duplicate.x"),
        ({"nothing": 1}, "nothing: unknown threshold"),
        ({"target.rows_per_label": 3}, "target.rows_per_label: is not a setting of gates"),
        ({"gates.near_duplicate": 7}, "gates.near_duplicate"),
        ({"gates.personal.action": "burn"}, "gates.personal.action"),
    ],
)
def test_an_override_that_cannot_be_is_named(overrides: dict[str, Any], expected: str) -> None:
    put(plain())
    with pytest.raises(InputInvalid, match=expected):
        rescreen_version("d", overrides)


def test_nothing_left_is_an_error_and_writes_nothing() -> None:
    put(plain())
    dry = rescreen_version("d", {"gates.min_chars": 3_000}, dry_run=True)
    assert len(dry.gated.drops) == 12 and dry.gated.kept == []
    with pytest.raises(GraftError, match="no row is left"):
        rescreen_version("d", {"gates.min_chars": 3_000})
    with Lake.open(Home.find(), read_only=True) as lake:
        assert len(versions(lake)) == 1 and drops() == {}
    with pytest.raises(NotFound):
        rescreen_version("d@9")
    with pytest.raises(InputInvalid, match=r"absent\.jsonl"):
        rescreen_version("d", tests=["absent.jsonl"])


def test_one_class_seeds_alone_and_monstrous_texts(tmp_path: Path) -> None:
    put([row(i, text, "parcel") for i, text in enumerate(PARCEL)])
    one = rescreen_version("d")
    assert one.published is None and any("not looked for" in note for note in one.gated.notes)
    seeds = [row(i, text, "parcel", id=f"s_{i:05}", source="seed") for i, text in enumerate(PARCEL)]
    put(seeds, recipe={}, dataset="e")
    assert rescreen_version("e").gated.drops == []
    put(
        [
            *plain(),
            row(30, "long text " * 1_000_000),
            row(31, "a NUL \x00 in the middle of it"),
            row(32, "\ud83d bad".encode("utf-8", "replace").decode()),
        ],
        dataset="f",
    )
    done = rescreen_version("f")
    assert {name for name, _ in done.gated.drops} >= {"c_row00030", "c_row00031"}
    assert dict(done.gated.drops)["c_row00030"].rule == "too_long"


def test_what_people_see_hides_restricted_words() -> None:
    put([*plain(), row(20, "so short"[:7], restricted=True), row(21, MONEY[0] + "!", "money")])
    shown = json.dumps(rescreen_version("d", dry_run=True).as_dict())
    assert "so shor" not in shown and "(restricted)" in shown
    assert "so shor" in json.dumps(rescreen_version("d", dry_run=True, restricted=True).as_dict())
    result = rescreen.fn("d", dry_run=True)
    assert result["dropped"] == 2 and not any("example" in rule for rule in result["rules"])


def test_the_verb_shows_rules_clusters_and_what_was_published() -> None:
    app = typer.Typer()
    app.command()(rescreen_verb)
    put([*plain(), row(20, MONEY[0] + "!", "money"), row(21, "[bold]x[/bold]\x1b[31m" + PARCEL[0])])
    runner, wide = CliRunner(), {"COLUMNS": "200"}
    dry = runner.invoke(app, ["d", "--dry-run"], env=wide)
    assert dry.exit_code == 0, dry.output
    assert (
        "exact_duplicate" in dry.output
        and "13 rows would stay" not in dry.output
        and "nothing was written" in dry.output
    )
    assert "\x1b[31m" not in dry.output and "clusters of duplicates: 1" in dry.output
    done = runner.invoke(app, ["d", "--json", "--set", "gates.near_duplicate=0.9"], env=wide)
    report = json.loads(done.stdout)
    assert report["published"] == "d@2" and report["rows"] == 14 and report["kept"] == 12 and not report["dry_run"]
    assert "Example" in runner.invoke(app, ["--help"]).output
    wrong = runner.invoke(app, ["d", "--set", "gates.x=1"])
    assert isinstance(wrong.exception, InputInvalid) and "gates.x" in str(wrong.exception)


text_rows = st.lists(st.sampled_from([*PARCEL[:3], PARCEL[0] + "!", MONEY[0], "x", "", "a\x00b" * 5]), max_size=14)


@settings(max_examples=25, deadline=None)
@given(texts=text_rows, draw=st.randoms(use_true_random=False))
def test_each_row_is_kept_or_dropped_once_whatever_the_order(texts: list[str], draw: Any) -> None:
    held = [(row(i, text, ("parcel", "money")[i % 2]), "run1", "") for i, text in enumerate(texts)]
    needs = Needs(embed=lambda: (embed, ""), folds=lambda v, y, k, s: out_of_fold(v, y, k, s))
    first, second = (gate_again(some, RECIPE, needs) for some in (held, draw.sample(held, len(held))))
    assert (first.kept, first.drops, first.clusters) == (second.kept, second.drops, second.clusters)
    ids = [one.id for one, *_ in first.kept] + [name for name, _ in first.drops]
    assert sorted(ids) == sorted(one.id for one, *_ in held)
    assert sum(count for *_, count, _ in first.tally()) == len(first.drops)


@pytest.mark.skipif(not BANKING.is_dir(), reason="the public evaluation data is not on this machine")
def test_banking77_test_texts_in_its_train_file_are_found() -> None:
    lines = [json.loads(line) for line in (BANKING / "train.jsonl").read_text().splitlines()]
    some = [row(i, one["text"], one["label"], source="imported") for i, one in enumerate(lines)]
    put(some, recipe={}, dataset="banking")
    off = {"gates.learned.action": "off", "gates.near_duplicate": 1.0, "gates.language.action": "off"}
    done = rescreen_version(
        "banking", off, tests=[BANKING / "test.jsonl"], embed=lambda texts: np.zeros((len(texts), 8))
    )
    assert sum(result.rule == "contamination_exact" for _, result in done.gated.drops) >= 25
    assert done.published is not None and done.published.rows > 9_000
