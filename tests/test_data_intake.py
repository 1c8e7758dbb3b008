"""Sources of every kind are read, their columns guessed, and nothing that is wrong with a row stays unsaid."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graft.data.intake import columns, sources
from graft.data.intake.collect import Checks, Collected, collect
from graft.data.seeds import load_labelled
from graft.schemas.base import stable_hash
from graft.schemas.datasets import Row
from graft.schemas.errors import GraftError, InputInvalid
from graft.schemas.recipe import Splits

PAIRS = [
    ("where is my parcel", "delivery"), ("the courier never came", "delivery"), ("I was charged twice", "billing"),
    ("please send an invoice", "billing"), ("I forgot my password", "account"), ("café à la carte “now”", "account"),
]  # fmt: skip
TWO = [("where is my parcel", "delivery"), ("I was charged twice", "billing")]


def read(given: Path | str, facts: str = "", skip: bool = False, options: Any = None, **checks: Any) -> Collected:
    source = sources.find(str(given), options or sources.Options())
    mapped = columns.guess(source, columns.sample(source), columns.parse_map([facts] if facts else []))
    return collect(source, mapped, Checks(bool(mapped.response or mapped.chat), **checks), skip_bad=skip)


def pairs(found: Collected) -> set[tuple[str, str]]:
    return {(row.text, row.label) for row in found.rows}


def splits(found: Collected) -> dict[str, str]:
    return {row.text: row.split for row in found.rows}


def table(
    path: Path, mark: str = ",", encoding: str = "utf-8", head: tuple[str, str] = ("utterance", "intent")
) -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=mark).writerows([head, *PAIRS])
    return path


def problems(error: pytest.ExceptionInfo[InputInvalid]) -> list[tuple[int | None, str]]:
    return [(problem.line, problem.what) for problem in error.value.problems]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_delimiter_and_encoding_are_found(tmp_path: Path, mark: str, encoding: str) -> None:
    found = sources.find(str(table(tmp_path / 'it\'s "a" 😀; DROP TABLE x.csv', mark, encoding)))
    assert pairs(read(found.name)) == set(PAIRS)
    assert bool(found.notices) == (encoding in ("cp1252", "utf-16-le"))


def test_latin_1_and_requested_encodings(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"text,label\nna\x81ve \xe9,a\nplain words,b\n")
    assert ("na\x81ve é", "a") in pairs(read(file))
    file.write_text("text,label\nпривет всем,a\nещё слова,b\n", encoding="cp1251")
    assert ("привет всем", "a") in pairs(read(file, options=sources.Options(encoding="cp1251")))
    with pytest.raises(InputInvalid, match="unknown encoding 'klingon'"):
        read(file, options=sources.Options(encoding="klingon"))


def test_lines_of_another_encoding_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mixed.csv"
    file.write_bytes("text,label\ncafé one,a\n".encode() + b"caf\xe9 two,a\n" + b"plain three,b\n")
    with pytest.raises(InputInvalid) as error:
        read(file)
    assert problems(error) == [(3, "cannot be decoded")]
    found = read(file, skip=True)
    assert pairs(found) == {("café one", "a"), ("plain three", "b")} and found.counts["skipped.bytes"] == 1
    lines = tmp_path / "mixed.jsonl"
    lines.write_bytes('{"text":"café one","label":"a"}\n'.encode() + b'{"text":"caf\xe9","label":"b"}\n')
    with pytest.raises(InputInvalid) as error:
        read(lines)
    assert problems(error) == [(2, "cannot be decoded")]


def test_every_bad_row_is_named_and_skip_bad_counts_them(tmp_path: Path) -> None:
    file = tmp_path / "bad.csv"
    good = 'where is it,"a"\nhow much is it,b\n'
    bad = f' ,a\nno label,\ntoo,many,cells\n{"x" * 51},a\nnul \0 byte,a\n"quo"ted,b\n'
    file.write_text(f"text,label\n{good}{bad}", newline="")
    with pytest.raises(InputInvalid) as error:
        read(file, max_chars=50)
    assert [line for line, _ in problems(error)] == [4, 5, 6, 7, 8, 9]
    found_problems = " ".join(what for _, what in problems(error))
    for what in ("is empty", "3 columns", "51 characters", "NUL byte", "not valid CSV"):
        assert what in found_problems
    found = read(file, skip=True, max_chars=50)
    assert len(found.rows) == 2 and found.counts["read"] == 8
    assert sum(n for kind, n in found.counts.items() if kind.startswith("skipped.")) == 6


def test_an_open_quote_is_never_skipped(tmp_path: Path) -> None:
    file = tmp_path / "open.csv"
    file.write_text('text,label\none two,a\n"three four,b\nfive six,a\n')
    with pytest.raises(InputInvalid, match=r"open\.csv:3: a quote opened here is never closed"):
        read(file, skip=True)


def test_repeats_count_once_and_texts_in_two_splits_are_reported(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    lines = [
        ("where is it", "a", "train"), ("where is it", "a", "train"), ("how much", "b", "train"),
        ("how much", "b", "test"), ("Where  is it", "b", "dev"),
    ]  # fmt: skip
    file.write_text("".join(json.dumps(dict(zip(("text", "label", "split"), x, strict=True))) + "\n" for x in lines))
    found = read(file)
    assert splits(found) == {"where is it": "train", "how much": "test", "Where  is it": "validation"}
    assert found.counts["repeated"] == 2 and found.counts["texts_in_several_splits"] == 1
    assert found.counts["texts_with_several_labels"] == 1
    assert all(row.id == "i_" + stable_hash(row.text, row.label, None) for row in found.rows)
    assert [row.id for row in found.rows] == sorted(row.id for row in found.rows)


def test_splits_are_assigned_if_missing_or_requested(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    rows = [{"text": f"text number {n}", "label": "ab"[n % 2], "split": "train"} for n in range(40)]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = read(file)
    assert found.assigned and any("only train" in notice for notice in found.notices)
    halves = read(file, splits=Splits(train=0.5, validation=0, test=0.5))
    assert [list(splits(halves).values()).count(name) for name in ("train", "test")] == [20, 20]


@pytest.mark.parametrize("layout", ["array", "pairs", "columns", "clinc", "nested"])
def test_json_of_every_usual_form(tmp_path: Path, layout: str) -> None:
    objects = [{"text": text, "label": label} for text, label in TWO]
    forms: dict[str, Any] = {
        "array": objects, "pairs": [list(pair) for pair in TWO], "nested": {"data": objects},
        "columns": {"text": [t for t, _ in TWO], "label": [name for _, name in TWO]},
        "clinc": {"train": [list(TWO[0])], "val": [list(TWO[1])], "oos_test": [["what is a shoe", "oos"]]},
    }  # fmt: skip
    file = tmp_path / "d.json"
    file.write_text(json.dumps(forms[layout]))
    found = read(file)
    assert pairs(found) >= set(TWO)
    if layout == "clinc":
        expected = {"where is my parcel": "train", "I was charged twice": "validation", "what is a shoe": "test"}
        assert splits(found) == expected


def test_chats_and_alpaca_become_instructions(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    turns = [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}]
    more = [{"from": "human", "value": "And now?"}, {"from": "gpt", "value": "Here."}]
    file.write_text(json.dumps({"messages": turns}) + "\n" + json.dumps({"messages": [*turns, *more]}) + "\n")
    rows = {row.text: row.response for row in read(file).rows}
    assert rows["Where is it?"] == "On its way."
    assert rows["user: Where is it?\n\nassistant: On its way.\n\nuser: And now?"] == "Here."
    alpaca = tmp_path / "alpaca.json"
    given = [
        {"instruction": "Add", "input": "1 and 2", "output": "3"},
        {"instruction": "Greet", "input": "", "output": "Hi"},
    ]
    alpaca.write_text(json.dumps(given))
    assert {row.text: row.response for row in read(alpaca).rows} == {"Add\n\n1 and 2": "3", "Greet": "Hi"}


def test_ambiguous_columns_are_an_error_with_the_fix(tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    file.write_text("sentence,question,label\na b c,d e f,x\ng h i,j k l,y\n")
    with pytest.raises(InputInvalid, match=r"(?s)'sentence' and 'question' could each be the text.*--map text=COLUMN"):
        read(file)
    assert pairs(read(file, "text=question")) == {("d e f", "x"), ("j k l", "y")}
    with pytest.raises(InputInvalid, match="did you mean 'question'"):
        read(file, "text=questoin")
    with pytest.raises(InputInvalid, match="cannot read 'nonsense'"):
        read(file, "nonsense")


def test_columns_are_guessed_by_what_they_hold(tmp_path: Path) -> None:
    file = tmp_path / "d.csv"
    table(file, head=("was gesagt, wurde", "wozu=?"))
    assert pairs(read(file)) == set(PAIRS)
    assert pairs(read(file, "text=was gesagt, wurde,label=wozu=?")) == set(PAIRS)
    file.write_text("".join(f"{text},{label}\n" for text, label in PAIRS))
    assert pairs(read(file, options=sources.Options(header=False))) == set(PAIRS)


def test_integers_are_labels_and_labels_in_two_cases_are_not(tmp_path: Path) -> None:
    file = tmp_path / "d.parquet"
    pq.write_table(pa.table({"text": ["one two", "three four"], "label": [0, 1]}), file)
    assert {row.label for row in read(file).rows} == {"0", "1"}
    pq.write_table(pa.table({"text": ["one two", "three four"], "label": ["Refund", "refund"]}), file)
    with pytest.raises(InputInvalid, match="differ only in case"):
        read(file, skip=True)
    many = {"text": [f"number {n} of it" for n in range(99)], "label": [f"own {n}" for n in range(99)]}
    pq.write_table(pa.table(many), file)
    with pytest.raises(InputInvalid, match="99 different labels in 99 rows"):
        read(file)


def test_excel_sheets(tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    for name, rows in (("train", PAIRS[:4]), ("test", PAIRS[4:])):
        sheet = book.create_sheet(name)
        sheet.append(["text", "label"])
        for row in rows:
            sheet.append(row)
    file = tmp_path / "d.xlsx"
    book.save(file)
    assert set(splits(read(file)).values()) == {"train", "test"}
    assert pairs(read(file, options=sources.Options(sheet="train"))) == set(PAIRS[:4])
    book["train"].title = "desk"
    book.save(file)
    with pytest.raises(InputInvalid, match="2 sheets with rows: desk, test"):
        read(file)
    with pytest.raises(InputInvalid, match="no sheet 'x'"):
        read(file, options=sources.Options(sheet="x"))
    assert load_labelled(single(file, book), "text", "label", None) == PAIRS[:4]


def single(file: Path, book: Any) -> Path:
    book.remove(book["test"])
    book.save(file)
    return file


README = """---
license: cc-by-4.0
configs:
- config_name: small
  data_files:
  - split: train
    path: data/train-*
  - split: dev
    path: data/other.parquet
dataset_info:
  config_name: small
  features:
  - {name: text, dtype: string}
  - name: label
    dtype:
      class_label:
        names: {'0': delivery, '1': "b'; DROP TABLE versions; --"}
---
# A set
"""


def hub(folder: Path, readme: str = README) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(readme)
    for name, text, label in (("train-0", "one two", 0), ("train-1", "three four", 1), ("other", "five six", 1)):
        pq.write_table(pa.table({"text": [text], "label": [label]}), folder / f"data/{name}.parquet")
    return folder


def test_a_hugging_face_folder(tmp_path: Path) -> None:
    folder = hub(tmp_path / "set")
    found = read(folder)
    evil = "b'; DROP TABLE versions; --"
    assert pairs(found) == {("one two", "delivery"), ("three four", evil), ("five six", evil)}
    assert splits(found)["five six"] == "validation" and sources.find(str(folder)).licence == "cc-by-4.0"
    seeds = load_labelled(folder, "text", "label", None)
    assert sorted(seeds) == sorted(pairs(found))
    with pytest.raises(InputInvalid, match="no configuration 'big'"):
        read(folder, options=sources.Options(config="big"))
    with pytest.raises(InputInvalid, match="files outside"):
        read(hub(tmp_path / "evil", README.replace("data/train-*", "../set/data/*")))
    pq.write_table(pa.table({"text": ["seven"], "label": [7]}), folder / "data/other.parquet")
    with pytest.raises(InputInvalid, match="class 7 has no name"):
        read(folder)


def test_files_of_a_plain_folder_and_shards(tmp_path: Path) -> None:
    folder = hub(tmp_path / "set", "no head")
    (folder / "data/other.parquet").rename(folder / "data/test-0.parquet")
    assert splits(read(folder)) == {"one two": "train", "three four": "train", "five six": "test"}
    assert len(read(f"{folder}/data/train-*.parquet").rows) == 2
    assert splits(read(f"{folder}/data/t*.parquet"))["five six"] == "test"
    (folder / "data/extra.jsonl").write_text('{"text": "left over", "label": 1}\n')
    with pytest.raises(InputInvalid, match="have no split"):
        read(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputInvalid, match="contains no data file"):
        read(tmp_path / "empty")
    with pytest.raises(InputInvalid, match="no such file"):
        read(tmp_path / "nowhere.csv")


def test_what_datasets_saved(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["delivery", "billing"])}
    )
    one = datasets.Dataset.from_dict({"text": [t for t, _ in TWO], "label": [0, 1]}, features=features)
    one.save_to_disk(str(tmp_path / "one"))
    assert pairs(read(tmp_path / "one")) == set(TWO)
    both = datasets.DatasetDict({"train": one.select([0]), "test": one.select([1])})
    both.save_to_disk(str(tmp_path / "both"))
    assert list(splits(read(tmp_path / "both")).values()).count("test") == 1
    one.to_parquet(str(tmp_path / "one.parquet"))
    assert pairs(read(tmp_path / "one.parquet")) == set(TWO)


def test_packed_files(tmp_path: Path) -> None:
    file = tmp_path / "d.csv.gz"
    file.write_bytes(gzip.compress(table(tmp_path / "d.csv").read_bytes()))
    assert pairs(read(file)) == set(PAIRS)


def test_addresses_without_the_extension_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graft.schemas.errors import MissingExtra

    def missing(connection: Any, name: str) -> None:
        raise MissingExtra(f"DuckDB's extension {name} cannot be loaded", fix="pip install it")

    monkeypatch.setattr("graft.data.duck.load_extension", missing)
    with pytest.raises(GraftError, match="download the file") as error:
        read("https://user:secret@127.0.0.1:1/d.csv?token=abc")
    assert "secret" not in str(error.value) and "abc" not in str(error.value)
    with pytest.raises(InputInvalid, match="its path has no known suffix"):
        read("s3://bucket/thing")


def test_addresses_are_read_where_the_extension_is(tmp_path: Path) -> None:
    import duckdb

    from graft.data.duck import load_extension
    from graft.schemas.errors import MissingExtra

    if importlib.util.find_spec("duckdb_extension_httpfs") is None:
        pytest.skip("duckdb-extension-httpfs is not installed")
    try:
        with duckdb.connect() as connection:
            load_extension(connection, "httpfs")
    except MissingExtra:
        pytest.skip("httpfs does not fit this DuckDB")
    table(tmp_path / "d.csv")
    pq.write_table(pa.table({"text": [t for t, _ in TWO], "label": ["a", "b"]}), tmp_path / "d.parquet")

    class Quiet(RangeHandler):
        folder = tmp_path

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        at = f"http://127.0.0.1:{server.server_port}"
        assert pairs(read(f"{at}/d.csv")) == set(PAIRS)
        assert pairs(read(f"{at}/d.parquet")) == {(TWO[0][0], "a"), (TWO[1][0], "b")}
        with pytest.raises(InputInvalid, match="cannot be read"):
            read(f"{at}/gone.csv")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class RangeHandler(BaseHTTPRequestHandler):
    """Serves a folder's files, or the requested bytes of them."""

    folder = Path()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        file = self.folder / Path(self.path).name
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        size, requested = len(data), self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = requested.partition("-")
        if requested:
            data = data[int(first) : int(last or size) + 1]
        self.send_response(206 if requested else 200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data)))
        if requested:
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(data) - 1}/{size}")
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12).filter(
    lambda text: bool(text.strip())
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.tuples(cells, st.sampled_from(["a", "b'; --", "ü😀"])), min_size=1, max_size=8))
def test_whatever_is_written_is_read_or_named(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("any") / "d.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    found = read(file, "text=text,label=label")
    assert pairs(found) == {(text.strip(), label) for text, label in rows}
    assert found.counts["read"] == len(rows) == found.counts["repeated"] + len(found.rows)
    assert found.rows == [Row.model_validate(row.model_dump()) for row in found.rows]
