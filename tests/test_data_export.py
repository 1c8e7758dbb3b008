"""Exports: every format is read back, options hold, filters reach nothing else, the same bytes come twice."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from graft.data.duck import quoted
from graft.data.export import export
from graft.data.export.where import safe_where
from graft.data.lake import Lake
from graft.data.versions import publish
from graft.schemas.base import stable_hash
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.errors import GraftError, StorageFull
from graft.schemas.home import Home
from graft.schemas.kinds import EXPORTS
from graft.schemas.rows import Candidate, Decision, Review, Slot

AT = datetime(2026, 11, 25, tzinfo=UTC)
LABELS = ("lamp/desk", 'it\'s "x" 😀', "plain")
EVIL = "=1+1 \x00 \"q\" 'q' 😀, {{x}} __label__plain\r\n\u2028second"
CLASSES = {"kind": "classification", "language": "en"}
ANSWERS = {"kind": "instruction", "language": "en"}


SHAPED = {
    "spans": [{"start": 0, "end": 1, "type": "x"}], "other": EVIL, "question": "where?",
    "candidates": [{"text": EVIL, "grade": 1}, {"text": "no", "grade": 0}],
}  # fmt: skip


def run(dataset: str, task: dict[str, Any] | None = None) -> Run:
    return Run(id=f"run_{dataset}", dataset=dataset, recipe={"task": task or CLASSES, "licence": "CC0-1.0"},
               status="finished", started_at=AT, code_version="1")  # fmt: skip


def rows(count: int, **more: Any) -> list[Row]:
    """Every third row is in the test split; row 4 is restricted."""
    return [
        Row.model_validate({
            "id": f"c_{n:06}", "text": f"{EVIL} {n}" if n % 2 else f"where is lamp {n}?", "label": LABELS[n % 3],
            "split": "test" if n % 3 == 2 else "train", "restricted": n == 4, **more,
        })
        for n in range(count)
    ]  # fmt: skip


def put(lake: Lake, dataset: str, some: list[Row], task: dict[str, Any] | None = None) -> DatasetVersion:
    made = run(dataset, task)
    lake.save_run(made)
    return publish(lake, run=made, rows=some, models={"m": "CC0-1.0"}, seeds=1, card="# card")


def answer(n: int, part: int, score: float, code: str = "rejected.low_mean", **more: Any) -> Candidate:
    """The answer `part` to instruction n; the first is accepted."""
    slot = Slot(id=f"s{n}_{part}", run_id="run_qa", shard=0, round=0, index=n, label="shop", seed=1, group=f"g{n}",
                part=part)  # fmt: skip
    good = part == 0
    status, named = ("accepted", "accepted.agreed") if good else ("rejected", code)
    route = "agreed" if good else "low_mean"
    review = Review(stage="content", role="reviewer", model="m", scores={"correctness": score}, mean=score)
    return Candidate.model_validate({
        "id": f"c_{n:06}" + (f"_{part}" if part else ""), "slot": slot, "text": f"ask {n}",
        "response": f"reply {n} {part}", "label": "shop", "intended_label": "shop", "reviews": (review,),
        "decision": Decision(status=status, route=route, code=named, reason=""), **more,
    })  # fmt: skip


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """`d` is for classification, `qa` has answers with rejected ones beside them."""
    with Lake.open(Home(tmp_path_factory.mktemp("home"))) as opened:
        put(opened, "d", rows(12))
        requested = [Row(id=f"c_{n:06}", text=f"ask {n}", response=f"reply {n} 0", label="shop", split="train")
                 for n in range(4)]  # fmt: skip
        put(opened, "qa", requested, ANSWERS)
        given = [answer(n, 0, 9) for n in range(4)]
        given += [answer(0, 1, 3), answer(0, 2, 3, response="reply 0 1"), answer(1, 1, 8.5), answer(1, 2, 2)]
        given += [answer(2, 1, 2, "gate.near"), answer(3, 1, 1, restricted=True)]
        opened.commit("run_qa", "b", given, [])
        yield opened


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def kept(split: str) -> list[Row]:
    return [row for row in rows(12) if row.split == split and not row.restricted]


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return found


@pytest.mark.parametrize("format", sorted(set(EXPORTS.own) - {"preference", "unpaired_preference", "stepwise"}))
def test_every_format_is_the_same_twice_and_its_manifest_is_true(lake: Lake, tmp_path: Path, format: str) -> None:
    out, ref = tmp_path / "o'ut", "d"
    if EXPORTS.get(format).column and not EXPORTS.get(format).optional:
        ref = put(lake, "shaped", rows(12, response="lamp", data=SHAPED)).dataset
    paths = export(lake, ref, format=format, out=out)
    assert [path.name for path in paths[-2:]] == ["manifest.json", "README.md"]
    before = {path: path.read_bytes() for path in paths}
    assert {path for path in out.rglob("*") if path.is_file()} == set(paths)
    with Lake.open(lake.home, read_only=True) as reader:
        again = export(reader, f"{ref}@1", format=format, out=out, overwrite=True)
    assert {path: path.read_bytes() for path in again} == before
    facts = manifest(out)
    assert facts["rows"] == (5 if format == "squad" else 11) and facts["format"] == format
    named = {out / one["path"]: one for one in facts["files"]}
    assert set(named) == set(paths) - {out / "manifest.json"}
    for path, one in named.items():
        assert one["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest() and one["bytes"] == path.stat().st_size
    assert "1 restricted rows were left out" in (out / "README.md").read_text()


def test_csv_holds_every_row_and_no_formula(lake: Lake, tmp_path: Path) -> None:
    folder = export(lake, "d", format="csv", out=tmp_path / "o")[0].parent
    with (folder / "train.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    for record, row in zip(found, kept("train"), strict=True):
        text = row.text.replace("\x00", "\ufffd")
        assert record == {"id": row.id, "text": ("'" if text.startswith("=") else "") + text, "label": row.label,
                          "source": "synthetic"}  # fmt: skip
    assert "apostrophe" in (folder / "README.md").read_text()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text("=+-@\t\r\n＝＋－＠ a'\"é,\x00", min_size=1), min_size=1, max_size=8, unique=True))
def test_no_cell_of_any_csv_starts_like_a_formula(lake: Lake, tmp_path: Path, texts: list[str]) -> None:
    name = f"f{stable_hash(*texts)}"
    put(lake, name, [Row(id=f"c_{n}", text=text, label="a", split="train") for n, text in enumerate(texts)])
    path = export(lake, name, format="banking77", out=tmp_path / "o", overwrite=True)[0]
    with path.open(newline="", encoding="utf-8") as file:
        found = [record["text"] for record in csv.DictReader(file)]
    assert [cell.removeprefix("'") for cell in found] == [t.replace("\x00", "\ufffd").removeprefix("'") for t in texts]
    assert not any(cell.lstrip(" \u3000").startswith(tuple("=+-@＝＋－＠")) for cell in found)
    assert not any(cell.startswith(("\t", "\r", "\n")) for cell in found)


def test_fasttext_has_one_line_and_one_label_a_row(lake: Lake, tmp_path: Path) -> None:
    path = export(lake, "d", format="fasttext", out=tmp_path / "o")[0]
    found = path.read_text(encoding="utf-8").splitlines()
    assert len(found) == len(kept("train")) and all(line.count("__label__") == 1 for line in found)
    assert [line.split(" ")[0] for line in found[:2]] == ["__label__lamp/desk", '__label__it\'s_"x"_😀']
    assert found[1] == '__label__it\'s_"x"_😀 =1+1 "q" \'q\' 😀, {{x}} _label_plain second 1'
    put(
        lake, "same", [Row(id=f"c_{n}", text="x", label=label, split="train") for n, label in enumerate(("a b", "a_b"))]
    )
    with pytest.raises(GraftError, match="two labels both become __label__a_b"):
        export(lake, "same", format="fasttext", out=tmp_path / "p")


def test_intent_sets_have_their_usual_shapes(lake: Lake, tmp_path: Path) -> None:
    path = export(lake, "d", format="intents", out=tmp_path / "o")[0]
    wanted = {split: [[row.text, row.label] for row in kept(split)] for split in ("train", "test")}
    assert path.name == "intents.json" and json.loads(path.read_bytes()) == wanted
    files = export(lake, "d", format="banking77", out=tmp_path / "p", splits=["test"])
    with files[0].open(newline="", encoding="utf-8") as file:
        assert next(iter(csv.DictReader(file))).keys() == {"text", "category"}


def test_chat_shapes_say_the_label_or_the_response(lake: Lake, tmp_path: Path) -> None:
    def first(ref: str, format: str, **more: Any) -> dict[str, Any]:
        out = tmp_path / f"{ref}{format}{len(list(tmp_path.iterdir()))}"
        return lines(export(lake, ref, format=format, out=out, **more)[0])[0]

    text, label = "where is lamp 0?", LABELS[0]
    answers = first("d", "messages", ask=True)["messages"]
    assert answers[0]["content"].endswith(f"Text: {text}") and json.dumps(LABELS[2]) in answers[0]["content"]
    assert first("d", "messages")["messages"] == [{"role": "user", "content": text},
                                                  {"role": "assistant", "content": label}]  # fmt: skip
    words = 'Which "shelf"? {{x}} {text}'
    assert first("d", "messages", instruction=words)["messages"][0]["content"] == f"{words}\n\nText: {text}"
    assert first("d", "alpaca", instruction=words)["instruction"] == words
    for ref, format in (("qa", "messages"), ("d", "csv")):
        with pytest.raises(GraftError, match="no text to classify"):
            export(lake, ref, format=format, out=tmp_path / "none", instruction=words)
    assert first("d", "sharegpt")["conversations"][1] == {"from": "gpt", "value": label}
    assert (first("d", "alpaca")["input"], first("d", "alpaca")["output"]) == (text, label)
    assert first("qa", "alpaca") == {"instruction": "ask 0", "input": "", "output": "reply 0 0"}
    assert first("qa", "prompt_completion", plain=True) == {"prompt": "ask 0", "completion": "reply 0 0"}
    out = tmp_path / "factory"
    export(lake, "qa", format="llamafactory", out=out)
    index = json.loads((out / "dataset_info.json").read_text())["qa_train"]
    assert set(index["columns"].values()) == set(lines(out / index["file_name"])[0])


def test_a_guard_learns_to_judge_and_never_to_answer(lake: Lake, tmp_path: Path) -> None:
    some = [Row(id="c_1", text="a discount?", response="of course", label="harmful", split="train")]
    put(lake, "guard", some, {"kind": "guard"})
    answers = lines(export(lake, "guard", format="messages", out=tmp_path / "o")[0])[0]["messages"]
    assert [one["content"] for one in answers] == ["a discount?\n\nof course", "harmful"]


def test_pairs_are_those_that_an_instruction_student_learns_from(lake: Lake, tmp_path: Path) -> None:
    from graft.students.instruct.data import pairs_of

    found = lines(export(lake, "qa", format="preference", out=tmp_path / "o", plain=True)[0])
    everyone = list(lake.iter_candidates("run_qa"))
    wanted = [
        {"prompt": pair.instruction, "chosen": pair.chosen, "rejected": pair.rejected}
        for good in everyone if good.accepted
        for pair in pairs_of(good, [one for one in everyone if not one.restricted], 8.0)
    ]  # fmt: skip
    assert found == wanted and len(found) == 2
    shown = lines(export(lake, "qa", format="preference", out=tmp_path / "r", include_restricted=True)[0])
    assert len(shown) == 3 and shown[2]["rejected"] == [{"role": "assistant", "content": "reply 3 1"}]
    verdicts = lines(export(lake, "qa", format="unpaired_preference", out=tmp_path / "u", plain=True)[0])
    assert [one["completion"] for one in verdicts if not one["label"]] == [one["rejected"] for one in wanted]
    assert sum(one["label"] for one in verdicts) == 4
    with pytest.raises(GraftError, match="no better and worse answer"):
        export(lake, "d", format="preference", out=tmp_path / "d")


def test_steps_are_needed_for_stepwise(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(GraftError, match="no row has steps"):
        export(lake, "qa", format="stepwise", out=tmp_path / "o")
    steps = json.dumps({"steps": [{"text": "2 + 2 = 4", "correct": True}, {"text": "so 5", "correct": False}]})
    some = [Row(id="c_1", text="2 + 2?", response=steps, label="math", split="train"),
            Row(id="c_2", text="3 + 3?", response="six", label="math", split="train")]  # fmt: skip
    put(lake, "sums", some, ANSWERS)
    found = lines(export(lake, "sums", format="stepwise", out=tmp_path / "s")[0])
    assert found == [{"prompt": "2 + 2?", "completions": ["2 + 2 = 4", "so 5"], "labels": [True, False]}]


@pytest.mark.parametrize("cut", [{"shards": 3}, {"shard_rows": 3}, {"shards": 50}])
def test_shards_hold_every_row_once_in_order(lake: Lake, tmp_path: Path, cut: dict[str, Any]) -> None:
    paths = export(lake, "d", format="jsonl", out=tmp_path / "o", splits=["train"], **cut)[:-2]
    assert len(paths) == {3: 3, 50: 7}[next(iter(cut.values()))] and paths[0].name.startswith("train-00000-of-0000")
    assert [one["id"] for path in paths for one in lines(path)] == [row.id for row in kept("train")]
    export(lake, "d", format="jsonl", out=tmp_path / "o", overwrite=True)
    assert not any(path.exists() for path in paths), "a loader that takes every file would read rows twice"


def test_compression_columns_and_refusals(lake: Lake, tmp_path: Path) -> None:
    path = export(lake, "d", format="jsonl", out=tmp_path / "o", compression="gzip", columns=["label", "text"])[0]
    assert path.name == "train.jsonl.gz"
    assert json.loads(gzip.decompress(path.read_bytes()).splitlines()[0]) == {"label": LABELS[0],
                                                                              "text": "where is lamp 0?"}  # fmt: skip
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"columns": ["text); DROP"]}, "no column"), ({"compression": "bz2"}, "cannot be written with"),
        ({"shards": 2, "shard_rows": 2}, "exclude each other"), ({"shards": 0}, "invalid number of files"),
        ({"format": "messages", "columns": ["text"]}, "are fixed"), ({"format": "intents", "shards": 2}, "one file"),
    ]  # fmt: skip
    for number, (options, text) in enumerate(wrong):
        with pytest.raises(GraftError, match=text):
            export(lake, "d", out=tmp_path / f"w{number}", **{"format": "jsonl", **options})
        assert not (tmp_path / f"w{number}").exists()


ATTACKS = [
    "1=1; DROP TABLE lake.versions", "1=1; SELECT 2", "true) OR (true", "true UNION SELECT * FROM chosen",
    "EXISTS (SELECT 1 FROM lake.calls)", "text IN (SELECT text FROM lake.candidates)", "text = (FROM lake.seeds)",
    "text = read_text('/etc/passwd')", "EXISTS (FROM read_csv('/etc/passwd'))", "pg_read_file('/etc/passwd') = ''",
    "getenv('HF_TOKEN') <> ''", "current_setting('temp_directory') = ''", "true LIMIT 1", "true GROUP BY text",
    "true ORDER BY random()", "count(*) > 1", "row_number() OVER () < 3", "COLUMNS('t.*') = 'a'", "text = $1",
    "run_id = 'x'", "lake.version_rows.text = 'a'", "rowid = 1", "length(text)", "text", "text::INT = 1", "",
    "repeat(text, 1000000000) = ''", "error(text) IS NULL", "nextval('s') = 1", "list_transform([1], x -> x) IS NULL",
    "CAST('/etc/passwd' AS INT) = 1", "text = 'a\x00'", "(" * 6000 + "true" + ")" * 6000, "x" * 20000,
    "true --' \n; SELECT 1",
    "replace(text, 'a', 'aaaaaaaa') = ''", "text || text = ''", "concat(text, text) = ''",
    "rpad(text, 99999999, 'x') = ''",
    "lpad(text, 9, 'x') = ''", "format('{:99999999}', text) = ''", "printf('%99999999s', text) = ''", "text[1] = 'a'",
    "string_agg(text) = ''", "len(range(1000000000)) > 1", "len([text, text]) > 1", "array_length(range(9)) = 1",
    "regexp_replace(text, 'a', 'aaaaaaaaa', 'g') = ''", "levenshtein(text, response) > 3",
    "jaccard(text, response) > 0",
    "text LIKE response", "text NOT ILIKE lower(text)", "regexp_matches(text, response)", "text GLOB '*a*a*b'",
    "regexp_matches(text, '(a?){1000}b')", "regexp_matches(text, '((a{1,30}){30}){30}')", "TRY(length(text)) > 1",
    "regexp_matches(text, '(\\pL|\\pN){1,50}b')", "lower(" * 41 + "text" + ")" * 41 + " = ''",
    "text LIKE 'a!' ESCAPE '!'", "text LIKE 'a' ESCAPE 'ab'", "evil.length(text) > 1", "text COLLATE NOCASE = 'a'",
    "true QUALIFY true", "true USING SAMPLE 1", "struct_pack(a := text).a = 'x'", "query('SELECT 1') = 1", "true /*",
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_filter_reaches_nothing_but_the_row(attack: str) -> None:
    with pytest.raises(GraftError, match="this filter cannot be used"):
        safe_where(attack)


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("length(text) > 20 AND label IN ('plain', 'lamp/desk')", lambda r: len(r.text) > 20 and "x" not in r.label),
        ("text LIKE 'where%' -- a remark", lambda r: r.text.startswith("where")),
        ("NOT regexp_matches(text, 'lamp [0-4]') OR id = 'c_000000'", lambda r: int(r.id[2:]) % 2 or int(r.id[2:]) in
         (0, 6)),
        ("CASE WHEN label = 'plain' THEN false ELSE response IS NULL END", lambda r: r.label != "plain"),
        ("restricted", lambda r: False),
        ("true OR true", lambda r: True),
        ("text LIKE 'where!_is%' ESCAPE '!'", lambda r: False),
        ("text LIKE 'where_is%' AND text NOT ILIKE '%LAMP 2%'", lambda r: r.text.startswith("where is") and
         "lamp 2" not in r.text.lower()),
        ("substring(text, 1, 5) = 'where' AND position('lamp' IN text) > 0", lambda r: r.text.startswith("where") and
         "lamp" in r.text),
    ],
)  # fmt: skip
def test_a_filter_chooses_rows(lake: Lake, tmp_path: Path, where: str, holds: Callable[[Row], bool]) -> None:
    found = lines(export(lake, "d", format="jsonl", out=tmp_path / "o", where=where, splits=["train"])[0])
    assert [one["id"] for one in found] == [row.id for row in kept("train") if holds(row)]
    assert manifest(tmp_path / "o")["options"]["where"] == where


SIGNS = "aA%_.*!\\\n"


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(SIGNS, max_size=8), pattern=st.text(SIGNS, max_size=6), ignore=st.booleans(), wanted=st.booleans(),
    escape=st.sampled_from(["", "!", "a", "A"]),
)  # fmt: skip
def test_like_means_what_it_means_to_duckdb(text: str, pattern: str, ignore: bool, wanted: bool, escape: str) -> None:
    content = f"text {'' if wanted else 'NOT '}{'I' if ignore else ''}LIKE {quoted(pattern)}"
    content += f" ESCAPE {quoted(escape)}" if escape else ""
    query = "SELECT count(*) FROM (SELECT ? AS text) WHERE "
    with duckdb.connect() as connection:
        try:
            expected = connection.execute(query + content, [text]).fetchall()
        except duckdb.Error:
            expected = None  # the pattern ends with its escape
        try:
            found = connection.execute(query + safe_where(content), [text]).fetchall()
        except GraftError:
            found = None
    assert found == expected or (found is None and expected == [(int(not wanted),)])


def test_like_takes_linear_time() -> None:
    texts = pa.table({"text": ["a" * 5_000] * 100})
    begun = time.process_time()
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("texts", texts)
        for text in ("text LIKE '%a_%a%b'", "text ILIKE '%a%a%a%b'", "text NOT LIKE '%a%!%%a%b' ESCAPE '!'"):
            connection.execute(f"SELECT count(*) FROM texts WHERE {safe_where(text)}").fetchall()
    assert time.process_time() - begun < 5, "DuckDB's own LIKE takes hours"


def test_a_filter_that_fails_quotes_no_row(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(GraftError) as caught:
        export(lake, "d", format="jsonl", out=tmp_path / "o", where="text AND true")
    assert "lamp" not in str(caught.value) and "quote" not in str(caught.value) and caught.value.__cause__ is None
    assert list((tmp_path / "o").iterdir()) == []


def test_a_full_disk_and_a_killed_export_leave_the_earlier_one(
    lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o"
    before = {path: path.read_bytes() for path in export(lake, "d", format="csv", out=out)}
    (out / ".graft-999999999.part").mkdir()
    (out / "mine.txt").write_text("kept")

    def full(*args: object, **more: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(StorageFull):
            export(lake, "d", format="jsonl", out=out, overwrite=True)
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in out.iterdir()} == {path.name for path in before} | {"mine.txt"}


def test_a_text_of_ten_megabytes(lake: Lake, tmp_path: Path) -> None:
    put(lake, "long", [Row(id="c_1", text="ab " * 3_500_000, label="a", split="train")])
    for format in ("jsonl", "parquet", "csv", "fasttext"):
        path = export(lake, "long", format=format, out=tmp_path / format)[0]
        assert path.stat().st_size > (1_000 if format == "parquet" else 10_000_000)


def test_the_verb(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.cli.export import ExportCommand
    from graft.cli.export import export as verb

    monkeypatch.setenv("GRAFT_HOME", str(lake.home.root))
    app = typer.Typer()
    app.command(cls=ExportCommand)(verb)
    output = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    assert all(name in output for name in EXPORTS.names)
    out = tmp_path / "o"
    words = ["d", "--format", "csv", "--where", "label = 'plain'", "--columns", "id, text", "--out", str(out), "--json"]
    done = CliRunner().invoke(app, words)
    assert json.loads(done.stdout)[0] == str(out / "train.csv") and manifest(out)["rows"] == 4
    for words, text in ((["--push", "me/x"], "the format jsonl cannot be pushed"),
                        (["--push", "x", "-f", "hf"], "not a repository name"),
                        (["--push", "me/x", "-f", "hf", "--restricted"], "not pushed to a public")):  # fmt: skip
        failed = CliRunner().invoke(app, ["d", *words])
        assert isinstance(failed.exception, GraftError) and text in str(failed.exception)


def test_the_flow_offers_every_format() -> None:
    from graft.flows.export_dataset import export_dataset

    answers = export_dataset.parameters.properties["format"]
    assert answers["type"] == "string" and all(name in answers["description"] for name in EXPORTS.names)
