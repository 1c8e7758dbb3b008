"""The quality report: each figure by hand, what is not known, drift; order and restricted words do not show."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from big_lake import fill

from graft.data.arrow import to_table
from graft.data.gates.shared.folding import words
from graft.data.gates.shared.near import jaccard
from graft.data.lake import Lake
from graft.data.lake_schema import VersionRowRecord
from graft.data.quality import Quality, page, quality, sections
from graft.data.quality.judged import alpha_of
from graft.data.quality.meaning import coverage, mean_distance
from graft.data.quality.words import words_sql
from graft.data.versions import publish, version
from graft.schemas.calls import Call
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, Review, Seed, Slot

AT = datetime(2026, 11, 25, tzinfo=UTC)
RUN = Run(id="run1", dataset="d", recipe={}, status="finished", started_at=AT, code_version="1")
TEXTS = (
    "Where is my parcel?", "where is my PARCEL", "I want to return the blue shoes that I bought last week in your shop",
    "I want to return the blue shoes that I bought last month in your shop", "Do you have this lamp in green?",
    "My card was charged twice for one order",
)  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory):
    with Lake.open(Home(tmp_path_factory.mktemp("quality"))) as opened:
        yield opened


def row(index: int, text: str, label: str = "a", **more: Any) -> Row:
    given = {"id": f"c_{index:05}", "text": text, "label": label, "split": "train", **more}
    return Row.model_validate(given)


def put(lake: Lake, dataset: str, rows: Sequence[Row], run_id: str = "run1", **more: Any) -> DatasetVersion:
    run = RUN.model_copy(update={"dataset": dataset, "id": run_id})
    return publish(lake, run=run, rows=rows, models={}, seeds=0, card="# card", **more)


def stored(lake: Lake, dataset: str, number: int, rows: Sequence[Row]) -> DatasetVersion:
    """A version as `publish` writes it, but with its rows in the order given."""
    made = DatasetVersion(
        dataset=dataset, version=number, run_id="none", content_hash=f"{number}", rows=len(rows), splits={}, labels={},
        models={}, seeds=0, card="", created_at=AT,
    )  # fmt: skip
    count = len(rows)
    held = to_table(
        VersionRowRecord, rows, dataset=[dataset] * count, version=[number] * count, ordinal=list(range(count)),
        run_id=["none"] * count, candidate_id=[""] * count,
    )  # fmt: skip

    def work(_: Any) -> None:
        lake.insert("version_rows", held)
        lake.insert("versions", to_table(DatasetVersion, [made]))

    lake.write(work)
    return made


def letters(texts: Sequence[str]) -> NDArray[np.float32]:
    """A vector a text: how often each letter occurs."""
    return np.array([[text.lower().count(chr(97 + k)) + 0.01 for k in range(26)] for text in texts], dtype=np.float32)


def test_figures_of_the_rows_by_hand(lake: Lake) -> None:
    rows = [row(i, text, "a" if i < 5 else "b") for i, text in enumerate(TEXTS)]
    report = quality(lake, put(lake, "hand", rows))
    assert [(one.label, one.rows) for one in report.balance.labels] == [("a", 5), ("b", 1)]
    assert report.balance.entropy == pytest.approx(-(5 / 6 * math.log2(5 / 6) + 1 / 6 * math.log2(1 / 6)), abs=1e-6)
    assert report.balance.evenness == report.balance.entropy and report.balance.splits == {"train": 6}
    tokens = [words(text) for text in TEXTS]
    counts = np.array([len(one) for one in tokens])
    assert report.lengths.words.mean == pytest.approx(counts.mean(), abs=1e-6)
    assert report.lengths.words.p95 == pytest.approx(np.quantile(counts, 0.95), abs=1e-6)
    assert report.lengths.chars.p50 == np.median([len(text) for text in TEXTS])
    for n in (1, 2, 3):
        grams = [tuple(one[k : k + n]) for one in tokens for k in range(len(one) - n + 1)]
        assert getattr(report.wording, f"distinct_{n}") == pytest.approx(len(set(grams)) / len(grams), abs=1e-6)
    assert report.wording.tokens == counts.sum() and report.wording.vocabulary == len(
        {w for one in tokens for w in one}
    )
    assert report.wording.self_bleu is not None and 0 < report.wording.self_bleu < 1
    repeats = report.duplicates
    assert (repeats.exact_rows, repeats.exact) == (1, pytest.approx(1 / 6, abs=1e-6))
    assert [(one.text, one.rows) for one in repeats.repeated] == [("Where is my parcel?", 2)]
    twins = sum(any(i != j and jaccard(a, b) >= 0.8 for j, b in enumerate(TEXTS)) for i, a in enumerate(TEXTS))
    assert repeats.near == pytest.approx(twins / 6, abs=1e-6)


def test_what_is_not_known_is_none_with_a_reason(lake: Lake) -> None:
    report = quality(lake, put(lake, "plain", [row(0, "one"), row(1, "…")], origin="import"))
    unknown = {
        name for name in ("meaning", "reviews", "calibration", "yields", "drift") if getattr(report, name) is None
    }
    assert unknown == {"meaning", "reviews", "calibration", "yields", "drift"} <= set(report.missing)
    assert "import" in report.missing["reviews"]
    assert report.wording.distinct_2 is None and report.missing["wording.distinct_2"]
    assert report.wording.self_bleu is None and report.balance.evenness is None
    by_name = {section.name: section for section in sections(report)}
    assert len(by_name) == 9 and by_name["reviews"].text.startswith("not known: an import")
    assert ("distinct-2", "–") in [(fact.name, fact.text) for fact in by_name["wording"].facts]
    assert any("self bleu" in note for note in by_name["wording"].notes)


def test_words_in_sql_are_the_gates_words(lake: Lake) -> None:
    texts = [
        "Don't STOP, it's 3.5!",
        "Ärger mit der Straße",
        "我想退货 now",
        "snake_case a-b",
        "",
        "🙂",
        "e\u0301te\u0301",
    ]
    for text in texts:
        assert lake.query(f"SELECT {words_sql('?::VARCHAR')} AS w", [text] * words_sql("{}").count("{}"))[0]["w"] == [
            word.replace("strasse", "straße") for word in words(text)
        ], text


def test_restricted_words_are_hidden(lake: Lake) -> None:
    rows = [row(i, "the hidden words of a row", restricted=i == 0) for i in range(3)] + [row(3, "other words")]
    made = put(lake, "shut", rows)
    report = quality(lake, made)
    assert report.restricted_rows == 1 and report.duplicates.repeated[0].text == "(restricted)"
    assert "hidden words" not in report.model_dump_json() + page(report)
    assert "hidden words" in quality(lake, made, restricted=True).model_dump_json()


TEXT = st.lists(st.sampled_from(("order", "parcel", "refund", "shoe", "lamp")), min_size=1, max_size=8).map(" ".join)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(TEXT, min_size=2, max_size=12), data=st.data())
def test_order_does_not_show_and_a_version_has_no_drift_from_itself(lake: Lake, texts: list[str], data: Any) -> None:
    rows = [row(i, text, "ab"[i % 2]) for i, text in enumerate(texts)]
    name = f"p{lake.query('SELECT count(*) AS n FROM lake.versions')[0]['n']}"
    first = stored(lake, name, 1, rows)
    second = stored(lake, name, 2, data.draw(st.permutations(rows)))
    one, other = quality(lake, first, embed=letters), quality(lake, second, embed=letters, against=second)
    same = ("balance", "lengths", "wording", "duplicates", "meaning")
    assert [getattr(one, part) for part in same] == [getattr(other, part) for part in same]
    for n in (1, 2, 3):
        value = getattr(one.wording, f"distinct_{n}")
        assert value is None or 0 < value <= 1
    drift = other.drift
    assert drift is not None and (drift.labels, drift.tokens, drift.chars_psi, drift.words_psi) == (0, 0, 0, 0)
    assert drift.distinct_2 == drift.distinct_2_before
    assert all(change.before == change.now for change in drift.changes)


def test_drift_of_versions_that_share_nothing(lake: Lake) -> None:
    put(lake, "moved", [row(i, f"short text {i}", "a") for i in range(10)])
    report = quality(
        lake, put(lake, "moved", [row(i, "quite other long words " * 9 + "x" * i, "b") for i in range(10)])
    )
    assert report.drift is not None and report.drift.against == "moved@1"
    assert (report.drift.labels, report.drift.tokens) == (1, 1)
    assert report.drift.chars_psi > 1
    section = next(one for one in sections(report) if one.name == "drift")
    assert section.unusual and "the label distribution changed" in section.text
    wording = next(one for one in sections(report) if one.name == "wording")
    assert "distinct-2 fell" in wording.text


def test_alpha_is_that_of_krippendorffs_example() -> None:
    text = """* * * * * 3 4 1 2 1 1 3 3 * 3
              1 * 2 1 3 3 4 3 * * * * * * *
              * * 2 1 3 4 4 * 2 1 1 3 3 * 4"""
    answers = np.array([[np.nan if v == "*" else float(v) for v in line.split()] for line in text.splitlines()])
    assert alpha_of(answers, "nominal")[0] == pytest.approx(0.691, abs=1e-3)
    assert alpha_of(answers, "interval")[0] == pytest.approx(0.811, abs=1e-3)
    assert alpha_of(np.ones((2, 3)), "interval")[0] is None


def judged(index: int, scores: dict[str, float], *, label: str = "a", status: str = "accepted", route: str = "agreed",
           **more: Any) -> Candidate:  # fmt: skip
    slot = Slot(id=f"sl_{index}", run_id="judged", shard=0, round=0, index=index, label=label, seed=index)
    reviews = tuple(
        Review(stage="content", role="reviewer", model=model, scores={"fit": value}, mean=value,
               flags={'a "quoted/flag~': int(value > 5)})
        for model, value in scores.items()
    )  # fmt: skip
    decided = Decision.model_validate({"status": status, "route": route, "code": route, "reason": "", **more})
    return Candidate(id=f"c_{index:05}", slot=slot, text=f"text number {index} of {label}", label=label,
                     intended_label=label, models={"generator": "writer"}, reviews=reviews, decision=decided,
                     soft_label={label: 0.9, "other": 0.1})  # fmt: skip


def call(index: int, price: float | None, **more: Any) -> Call:
    given = {
        "key": f"k{index}", "run_id": "judged", "candidate_id": f"c_{index:05}", "role": "generator", "purpose": "p",
        "model": "writer", "provider": "p", "served_model": None, "revision": None, "request": "{}", "reply": "",
        "prompt_tokens": 5, "completion_tokens": 1, "cached_tokens": 0, "price_usd": price, "latency_s": 0.1,
        "attempts": 1, "cached": False, "at": AT, **more,
    }  # fmt: skip
    return Call.model_validate(given)


@pytest.fixture(scope="module")
def reviewed(lake: Lake) -> DatasetVersion:
    candidates = [
        judged(0, {"mild": 9, "hard": 7}), judged(1, {"mild": 9, "hard": 8}),
        judged(2, {"mild": 10, "hard": 7}, label="b"),
        judged(3, {"mild": 8, "hard": 2}, route="adjudicated"),
        judged(4, {"mild": 9, "hard": 1}, route="adjudicated", status="rejected"),
        judged(5, {"mild": 2}, route="low_mean", status="rejected", label="b"),
    ]  # fmt: skip
    calls = [call(i, None if i == 5 else 0.5) for i in range(6)] + [call(0, 0.5, candidate_id="")]
    lake.commit("judged", "b", candidates, calls)
    lake.add_seeds("judged", [Seed.of("text number 0 of a", "a"), Seed.of("zebra quiz", "b")])
    rows = [row(i, c.text, c.label) for i, c in enumerate(candidates) if c.accepted]
    return put(lake, "judged", rows, run_id="judged")


def test_reviewers_routes_yield_and_price(lake: Lake, reviewed: DatasetVersion) -> None:
    report = quality(lake, reviewed)
    reviews, yields = report.reviews, report.yields
    assert reviews is not None and yields is not None
    assert (reviews.candidates, reviews.accepted) == (6, pytest.approx(4 / 6, abs=1e-6))
    assert (reviews.adjudicated, reviews.overturned) == (pytest.approx(2 / 6, abs=1e-6), 0.5)
    assert (reviews.alpha_candidates, reviews.alpha_flags_units) == (5, 5)
    scores = np.array([[9.0, 9, 10, 8, 9], [7, 8, 7, 2, 1]])
    assert (
        reviews.alpha == alpha_of(scores, "interval")[0]
        and reviews.alpha_flags == alpha_of((scores > 5).astype(float), "nominal")[0]
    )
    hard, mild = reviews.reviewers
    assert (mild.reviews, mild.mean) == (6, pytest.approx(47 / 6, abs=1e-6))
    assert mild.severity == -(hard.severity or 0) == 2.0
    assert mild.bias == {"a": pytest.approx((1 + 0.5 + 3 + 4) / 4 - 2, abs=1e-6), "b": pytest.approx(1.5 - 2, abs=1e-6)}
    assert (yields.candidates, yields.accepted, yields.price_usd) == (6, 4, None)
    assert [(one.label, one.candidates, one.accepted, one.price_usd) for one in yields.labels] == [
        ("a", 4, 3, 2.0), ("b", 2, 1, None),
    ]  # fmt: skip
    assert [(one.role, one.calls, one.tokens, one.price_usd) for one in yields.spending] == [("generator", 6, 36, None)]
    section = next(one for one in sections(report) if one.name == "reviews")
    assert "reviewers disagree" in section.text and "over a point off their panels: hard, mild" in section.text


def test_gold_labels_give_accuracy_and_calibration(lake: Lake, reviewed: DatasetVersion) -> None:
    gold = [("c_00000", "a"), ("text number 1 of a", "a"), ("c_00002", "a"), ("no such row", "a")]
    found = quality(lake, reviewed, gold=gold).calibration
    assert found is not None and (found.gold, found.matched, found.scored) == (4, 3, 3)
    assert found.accuracy == pytest.approx(2 / 3, abs=1e-6) and found.by == "soft labels"
    assert found.ece == pytest.approx(0.9 - 2 / 3, abs=1e-5)
    assert found.brier == pytest.approx((0.01 + 0.01 + 0.81) / 3, abs=1e-6)
    nothing = quality(lake, reviewed, gold=[("x", "a")])
    assert nothing.calibration is not None and nothing.calibration.accuracy is None
    assert "calibration.accuracy" in nothing.missing


def test_embeddings(lake: Lake, reviewed: DatasetVersion) -> None:
    found = quality(lake, reviewed, embed=letters).meaning
    assert found is not None and (found.rows, found.seeds, found.clusters) == (4, 2, 2)
    assert (found.seed_clusters_covered, found.row_clusters_seeded) == (0.5, 1.0)
    assert found.nearest_seed is not None and found.nearest_seed.p5 < 0.01 and found.copied == 0.75
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(30, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    pairs = cosines[~np.eye(30, dtype=bool)]
    assert mean_distance(vectors) == pytest.approx(1 - float(pairs.mean()), abs=1e-5)
    assert coverage(vectors[:5], vectors[:5]) == (2, 1.0, 1.0)


def test_near_duplicates_of_a_larger_version(tmp_path: Path) -> None:
    home = Home(tmp_path)
    fill(home, rows=600, versions=2, candidates=True)
    with Lake.open(home, read_only=True) as lake:
        made = version(lake, "big@2")
        report = quality(lake, made)
        rows = lake.sql("SELECT text FROM lake.version_rows WHERE version = 2").column("text").to_pylist()
        left = lake.query("SELECT count(*) AS n FROM duckdb_tables() WHERE temporary")
    folded = Counter(" ".join(words(text)) for text in rows)
    assert report.duplicates.exact_rows == len(rows) - len(folded) > 0
    shingled = [set(words(text)) | set(zip(words(text), words(text)[1:], strict=False)) for text in rows]
    near = sum(
        any(i != j and len(a & b) >= 0.8 * len(a | b) - 1e-9 for j, b in enumerate(shingled))
        for i, a in enumerate(shingled)
    )
    assert report.duplicates.near == pytest.approx(near / len(rows), abs=1e-6) and near > report.duplicates.exact_rows
    assert report.drift is not None and 0 < (report.drift.tokens or 0) < 0.2
    assert left == [{"n": 0}]
    assert report.reviews is not None and report.reviews.candidates == 720
    assert Quality.model_validate_json(report.model_dump_json()) == report


def test_the_page_is_whole_and_inert(lake: Lake) -> None:
    evil = '<script>alert("x")</script>'
    rows = [row(0, evil, evil), row(1, evil, evil), *(row(n, f"{{{{ 7 * {n} }}}} plain", "b") for n in range(2, 20))]
    result = page(quality(lake, put(lake, "evil", rows), gold=[]))
    assert "<script" not in result and "&lt;script&gt;" in result and "prefers-color-scheme: dark" in result
    assert not re.findall(r"(?:src|href)=|url\(|https?://|@import", result)
    assert "<svg" in result and "not known" in result
