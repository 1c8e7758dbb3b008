"""Small files that unpack to much: refused by name and size, in bounded memory, wherever Graft reads a file."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graft.data.intake import columns, sources
from graft.data.intake.limits import FLOOR, MAX_LINE, SETTING, Allowance, readable
from graft.data.intake.parts import Problems
from graft.data.seeds import load_labelled
from graft.schemas.errors import GraftError, InputInvalid

READ = """
import json, sys
from pathlib import Path
from graft.data.intake import sources
from graft.data.intake.parts import Problems
from graft.data.seeds import load_labelled, load_texts
from graft.schemas.errors import InputInvalid
from graft.students.texts import read_texts

def import_rows():
    for part in sources.find(sys.argv[1]).parts:
        wrong = Problems()
        for _ in part.records(wrong, None):
            pass
        wrong.finish()

readers = {
    "import": import_rows,
    "held-out": lambda: load_labelled(Path(sys.argv[1]), "text", "label", None),
    "unlabelled": lambda: load_texts(Path(sys.argv[1]), "text"),
    "predict": lambda: [None for _ in read_texts(sys.argv[1])],
}
said = []
for name in sys.argv[2:]:
    try:
        readers[name]()
        said.append("")
    except InputInvalid as error:
        said.append(str(error))
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([said, int(peak) * 1024]))
"""
PEAK = 450_000_000
"""Bytes of memory that reading any of these may take at most; Python with Arrow takes 80 MB."""


def read_apart(path: Path | str, *readers: str, **environment: str) -> list[str]:
    """Messages of each reader for the file, in a process of its own whose memory stays bounded."""
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), *readers], env={**os.environ, **environment}, capture_output=True,
        text=True, check=True, timeout=300,
    )  # fmt: skip
    report, peak = json.loads(done.stdout)
    assert peak < PEAK, f"{readable(peak)} at most: {report}"
    return list(report)


def records(path: Path | str) -> Iterator[Any]:
    for part in sources.find(str(path)).parts:
        wrong = Problems()
        yield from part.records(wrong, None)
        wrong.finish()


def count(path: Path | str) -> int:
    return sum(1 for _ in records(path))


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1.35 GB of one text, in a few kilobytes."""
    file = tmp_path_factory.mktemp("bombs") / "repeated.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array(["x" * 330_000]))
    pq.write_table(pa.table({"text": text, "label": ["a"] * 4096}), file, compression="zstd")
    assert file.stat().st_size < 8_000
    return file


def test_two_kilobytes_of_parquet_do_not_become_a_gigabyte_anywhere(repeated: Path) -> None:
    for text in read_apart(repeated, "import", "held-out", "unlabelled", "predict"):
        assert "unpacks to more than 500 MB (" in text and "bytes on disk)" in text
        assert str(repeated) in text and f"{SETTING}=20GB" in text


def test_repeated_values_inside_lists_are_counted_too(tmp_path: Path) -> None:
    file = tmp_path / "chats.parquet"
    inner = pa.DictionaryArray.from_arrays(pa.array([0] * 8192, pa.int32()), pa.array(["y" * 100_000]))
    turns = pa.ListArray.from_arrays(pa.array([0, 8192], pa.int32()), inner)
    pq.write_table(pa.table({"text": turns}), file)
    (message,) = read_apart(file, "import")
    assert f"{file}:1: this row has more than 64 MB" in message


def test_pages_are_added_up_by_their_own_headers_not_the_footer(tmp_path: Path) -> None:
    file = tmp_path / "pages.parquet"
    table = pa.table({"text": ["x" * 20_000_000], "label": ["a"]})
    with pq.ParquetWriter(file, table.schema, use_dictionary=False, compression="zstd") as writer:
        for _ in range(30):
            writer.write_table(table)
    raw = bytearray(file.read_bytes())
    size = pq.ParquetFile(file).metadata.row_group(0).column(0).total_uncompressed_size
    true, lie = varint(2 * size), varint(2, len(varint(2 * size)))
    footer = raw.rindex(b"PAR1") - int.from_bytes(raw[-8:-4], "little") - 4
    raw[footer:] = raw[footer:].replace(true, lie)
    file.write_bytes(raw)
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).total_uncompressed_size == 1
    (message,) = read_apart(file, "import")
    assert "unpacks to more than 500 MB" in message


def varint(value: int, length: int = 1) -> bytes:
    """A number as Thrift writes it, padded to at least `length` bytes."""
    made = bytearray()
    while value > 127 or len(made) + 1 < length:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def test_rows_that_hold_nothing_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "nulls.parquet"
    pq.write_table(
        pa.table({"text": pa.nulls(2_000_000, pa.string()), "label": pa.nulls(2_000_000, pa.string())}), file
    )
    monkeypatch.setenv(SETTING, "20MB")
    with pytest.raises(InputInvalid, match="unpacks to more than 20 MB"):
        count(file)


def test_texts_that_begin_alike_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    """DELTA_BYTE_ARRAY repeats the text before for a few bits; such a column cannot be kept as a dictionary."""
    file, nested = tmp_path / "alike.parquet", tmp_path / "nested.parquet"
    texts = pa.array(["x" * 100_000] * 3_000)
    pq.write_table(pa.table({"text": texts}), file, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"})
    assert read_apart(file, "import") == [""]
    lists = pa.ListArray.from_arrays(pa.array([0, 3_000], pa.int32()), texts)
    encoding = {"text.list.element": "DELTA_BYTE_ARRAY"}
    pq.write_table(pa.table({"text": pa.concat_arrays([lists] * 3)}), nested, use_dictionary=False,
                   column_encoding=encoding)  # fmt: skip
    (message,) = read_apart(nested, "import")
    assert "cannot be bounded" in message and "rewrite the file" in message


@pytest.mark.parametrize("place", [4, 40, 200])
def test_a_damaged_parquet_file_is_an_error_with_its_name(tmp_path: Path, place: int) -> None:
    file = tmp_path / "damaged.parquet"
    pq.write_table(pa.table({"text": [f"a text {n}" for n in range(500)], "label": ["a"] * 500}), file)
    raw = bytearray(file.read_bytes())
    raw[place : place + 8] = b"\xff" * 8
    file.write_bytes(raw)
    with pytest.raises(InputInvalid, match=r"damaged\.parquet"):
        count(file)


def test_a_small_gzip_does_not_become_a_gigabyte(tmp_path: Path) -> None:
    file = tmp_path / "zeros.csv.gz"
    with gzip.open(file, "wb") as out:
        out.write(b"text,label\n")
        for _ in range(550):
            out.write(b"0" * 1_000_000)
    (message,) = read_apart(file, "import")
    assert "unpacks to more than 500 MB (" in message and "KB on disk)" in message


def test_a_gzip_that_is_cut_off_or_no_gzip_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(b"text,label\n" + b"a text,a\n" * 1000)
    for name, data in (("cut.csv.gz", whole[:-20]), ("none.csv.gz", b"text,label\n")):
        (tmp_path / name).write_bytes(data)
        for options in (sources.Options(), sources.Options(encoding="utf-8", delimiter=",")):
            with pytest.raises(InputInvalid, match="cannot be unpacked"):
                columns.sample(sources.find(str(tmp_path / name), options))


@pytest.mark.parametrize("name", ["line.csv", "line.jsonl"])
def test_a_line_without_end_is_refused_by_its_number(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_bytes(b"text,label\na text,a\n" + b"x" * (MAX_LINE + 1))
    with pytest.raises(InputInvalid, match=r":3: this line has more than 10,000,000 characters"):
        sources_of(file)


def sources_of(file: Path) -> int:
    found = sources.find(str(file), sources.Options(delimiter=","))
    wrong = Problems(skip=True)
    return sum(1 for part in found.parts for _ in part.records(wrong, None))


def test_a_field_without_end_is_refused_where_it_opens(tmp_path: Path) -> None:
    file = tmp_path / "field.csv"
    file.write_text('text,label\na text,a\n"' + ("x" * 99 + "\n") * 110_000 + '",b\n')
    with pytest.raises(InputInvalid, match=r"field\.csv:3: a field that starts here has more than 10,000,000"):
        count(file)


def test_json_is_weighed_by_its_values(tmp_path: Path) -> None:
    file = tmp_path / "lists.json.gz"
    file.write_bytes(gzip.compress(b"[" + b"[]," * 5_000_000 + b"[]]"))
    (message,) = read_apart(file, "import")
    assert "lists.json.gz: unpacks to more than 500 MB (" in message
    lines = tmp_path / "lists.jsonl"
    lines.write_text('{"text": "a"}\n{"text": [' + "[]," * 2_000_000 + "[]]}\n")
    with pytest.raises(InputInvalid, match=r"lists\.jsonl:2: contains millions of values"):
        count(lines)
    with pytest.raises(InputInvalid, match=r"lists\.jsonl:2: has more than 10,000,000 characters, or millions"):
        load_labelled(lines, "text", "label", None)


@pytest.mark.parametrize("name", ["deep.json", "deep.jsonl"])
def test_deep_json_is_an_error_with_its_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text('{"text": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(InputInvalid, match=rf"{name}.*is not valid JSON"):
        count(file)


SHEET = "xl/worksheets/sheet1.xml"


def book(path: Path, change: Any = None) -> Path:
    """A workbook of two rows; `change` gets the name and text of each of its files."""
    import openpyxl

    made = openpyxl.Workbook()
    for row in (["text", "label"], ["where is my parcel", "delivery"]):
        made.active.append(row)
    made.save(path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, text in files.items():
            archive.writestr(name, change(name, text) if change else text)
    return path


def test_a_workbook_is_read(tmp_path: Path) -> None:
    assert list(records(book(tmp_path / "b.xlsx"))) == [(2, {"text": "where is my parcel", "label": "delivery"})]


@pytest.mark.parametrize("at", [SHEET, "xl/workbook.xml", "xl/styles.xml", "[Content_Types].xml"])
def test_entities_in_a_workbook_are_refused(tmp_path: Path, at: str) -> None:
    laughs = "".join(f'<!ENTITY a{n} "&a{n - 1};&a{n - 1};">' for n in range(1, 30))
    head = f'<?xml version="1.0"?><!-- a --><!DOCTYPE x [<!ENTITY a0 "ha">{laughs}]>'

    def change(name: str, text: str) -> str:
        return head + text.replace("where is my parcel", "&a29;").partition("?>")[2] if name == at else text

    file = book(tmp_path / "b.xlsx", lambda name, text: change(name, "<?xml?>" + text.removeprefix("<?xml?>")))
    with pytest.raises(InputInvalid, match=r"declares a document type or entities") as caught:
        count(file)
    assert at in str(caught.value)


def test_a_workbook_that_unpacks_to_much_is_refused_before_it_is_read(tmp_path: Path) -> None:
    def padded(name: str, text: str) -> str:
        return text.replace("<sheetData>", "<sheetData>" + " " * 510_000_000) if name == SHEET else text

    file = book(tmp_path / "b.xlsx", padded)
    (message,) = read_apart(file, "import")
    assert "b.xlsx: unpacks to more than 500 MB (" in message


def test_a_workbook_of_empty_elements_is_refused(tmp_path: Path) -> None:
    def many(name: str, text: str) -> str:
        return (
            text.replace("<sheetData>", "<sheetData><row>" + "<c/>" * 20_000_000 + "</row>") if name == SHEET else text
        )

    (message,) = read_apart(book(tmp_path / "b.xlsx", many), "import")
    assert "b.xlsx: unpacks to more than 500 MB (" in message


def test_a_workbook_cannot_claim_rows_and_columns_without_end(tmp_path: Path) -> None:
    def far(name: str, text: str) -> str:
        if name != SHEET:
            return text
        text = text.replace('ref="A1:B2"', 'ref="A1:XFD1048576"')
        last = '<row r="999999999"><c r="A999999999"><v>1</v></c></row>'
        return text.replace("</sheetData>", f"{last}</sheetData>")

    assert count(book(tmp_path / "b.xlsx", far)) == 1


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06" + b"\0" * 18, b"no archive"])
def test_what_is_no_workbook_is_an_error(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "b.xlsx"
    file.write_bytes(data)
    with pytest.raises(InputInvalid, match="is not a readable Excel file"):
        count(file)


@pytest.mark.parametrize("kind", ["stream", "file"])
@pytest.mark.parametrize("packing", ["zstd", "lz4", None])
def test_arrow_is_read_and_its_buffers_are_added_up_first(tmp_path: Path, kind: str, packing: str | None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=packing)
    small = pa.table(
        {"text": [f"a text {n}" for n in range(1000)], "label": pa.array(["a"] * 1000).dictionary_encode()}
    )
    large = pa.table({"text": ["x" * 60_000_000], "label": pa.array(["a"]).dictionary_encode()})
    maker = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    for name, table, times in (("small", small, 1), ("large", large, 10)):
        if packing is None and name == "large":
            continue
        with maker(tmp_path / f"{name}.arrow", table.schema, options=options) as writer:
            for _ in range(times):
                writer.write_table(table)
    assert list(records(tmp_path / "small.arrow"))[-1] == (1000, {"text": "a text 999", "label": "a"})
    if packing:
        (message,) = read_apart(tmp_path / "large.arrow", "import")
        assert "large.arrow: unpacks to more than 500 MB (" in message


def test_an_address_is_read_a_few_rows_at_a_time(repeated: Path) -> None:
    (message,) = read_apart(f"file://{repeated}", "import")
    assert "a text has more than 50,000 bytes: download the file, and import that" in message
    file = repeated.with_name("shorter.parquet")
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 60_000, pa.int32()), pa.array(["x" * 10_000]))
    pq.write_table(pa.table({"text": text, "label": ["a"] * 60_000}), file)
    (message,) = read_apart(f"file://{file}", "import", **{SETTING: "400MB"})
    assert "unpacks to more than 400 MB" in message


def test_one_setting_allows_more_or_less(tmp_path: Path, repeated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "2 GB")
    rows = records(repeated)
    assert sum(len(record["text"]) for _, record in rows) == 4096 * 330_000
    for wrong in ("much", "-1", "0", "1e9", "5XB"):
        monkeypatch.setenv(SETTING, wrong)
        with pytest.raises(InputInvalid, match=rf"{SETTING}: cannot read '{wrong}'"):
            count(repeated)


@pytest.mark.parametrize(
    ("packed", "limit"),
    [(2_000, FLOOR), (5_000_000, FLOOR), (10_000_000, 1_000_000_000), (10**9, 4_000_000_000), (None, 4_000_000_000)],
)
def test_a_file_may_unpack_to_so_much(packed: int | None, limit: int) -> None:
    allowance = Allowance("file", packed)
    allowance.charge(limit)
    with pytest.raises(GraftError, match="unpacks to more than"):
        allowance.charge(1)


def test_a_million_rows_of_twenty_texts_are_no_bomb(tmp_path: Path) -> None:
    file, texts = tmp_path / "million.parquet", pa.array([f"a usual text of some words, number {n}" for n in range(20)])
    places = pa.array([n * 7919 % 20 for n in range(1_000_000)], pa.int32())
    text = pa.DictionaryArray.from_arrays(places, texts)
    pq.write_table(pa.table({"text": text, "label": text, "response": text}), file)
    assert file.stat().st_size < 3_000_000
    assert count(file) == 1_000_000
