"""`graft predict`: what it reads, what it writes, what it refuses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from graft.schemas.errors import InputInvalid
from graft.schemas.students import Evaluation
from graft.students.heads import Rule
from graft.students.heads.single import Single
from graft.students.predict import CHUNK, Predictor
from graft.students.texts import read_texts, write_answers

LABELS = ("short", "long")


def by_length(texts: Sequence[str]) -> Any:
    """Logits of a student that separates long texts from short ones."""
    import numpy

    return numpy.array([[5.0 - len(text), 0.0] for text in texts])


def student(rule: Rule | None = None) -> Predictor:
    return Predictor(Single(LABELS), rule or Rule(), "fake", by_length)


def judged(test_file: str, **more: Any) -> Evaluation:
    return Evaluation(
        student_id="s", test_file=test_file, test_hash=test_file, rows=1, accuracy=1, macro_f1=1, classes=(),
        confusion=(), labels=LABELS, **more,
    )  # fmt: skip


def read(file: Path, **more: Any) -> list[str]:
    return list(read_texts(str(file), **more))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=70))
def test_answers_come_in_the_order_of_the_texts_and_sum_to_one(texts: list[str]) -> None:
    answers = student().predict(texts)
    assert [answer.label for answer in answers] == ["short" if len(text) <= 5 else "long" for text in texts]
    for answer in answers:
        assert sum(answer.probabilities) == pytest.approx(1)
        assert answer.probability == max(answer.probabilities)


def test_temperature_softens_and_the_threshold_is_of_the_probability_before_it() -> None:
    warm = student(Rule(temperature=10.0)).predict(["ab"])[0]
    assert warm.label == "short" and warm.probability < student().predict(["ab"])[0].probability
    at_two = student().predict(["ab"])[0].probabilities[0]  # logit 3 against 0: 0.953
    below, above = (student(Rule(10.0, cut, "short")).predict(["ab"])[0] for cut in (at_two - 0.01, at_two + 0.01))
    assert (below.label, above.label) == ("short", "long")
    assert above.probability == pytest.approx(1 - warm.probability)


def test_the_rule_comes_from_held_out_files_before_the_validation_rows() -> None:
    own = judged("validation split (synthetic)", temperature=9.0, threshold=0.9, positive="short")
    held = judged("zz.csv", temperature=2.0, threshold=0.3, positive="long")
    assert Rule.of([own, held]) == Rule(2.0, 0.3, "long")
    assert Rule.of([judged("a.csv"), held]) == Rule(2.0, 0.3, "long")
    assert Rule.of([judged("a.csv")]) == Rule.of([]) == Rule(1.0, None, "")


def test_texts_are_taken_as_they_are_needed() -> None:
    taken = []

    def endless() -> Any:
        while True:
            taken.append(1)
            yield "abc"

    stream = student().stream(endless())
    assert next(stream)[0] == "abc"
    assert len(taken) == CHUNK


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", '\ufeffid,message\n1,"one, two"\n\n2,"three\nfour"\n'.encode()),
        ("a.csv", b'id;message\r\n1;one, two\r\n2;"three\nfour"\r\n'),
        ("a.tsv", b'message\tid\none, two\t1\n"three\nfour"\t2\n'),
        ("a.jsonl", b'{"message": "one, two", "n": 1}\n\n{"message": "three\\nfour"}\n'),
    ],
)
def test_texts_of_every_kind_of_file(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    assert read(file, text_field="message") == ["one, two", "three\nfour"]


def test_texts_of_parquet_and_responses_below_them(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["one", "two"], "reply": ["yes", None], "n": [1, 2]}), file)
    assert read(file) == ["one", "two"]
    assert read(file, response_field="reply") == ["one\n\nyes", "two"]
    with pytest.raises(InputInvalid, match="n is not text but int"):
        read(file, text_field="n")
    with pytest.raises(InputInvalid, match=r"'body' is missing(.|\n)*the row has: text, reply, n"):
        read(file, text_field="body")
    file.write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputInvalid, match="is not a readable Parquet file"):
        read(file)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"text\n", "holds no texts"),
        ("a.csv", b"", "holds no texts"),
        ("a.jsonl", b"\n\n", "holds no texts"),
        ("a.csv", b"id,body\n1,x\n", r":1: text: field 'text' is missing\n.*--text-field; the row has: id, body"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "x"}\n', r":2: text: field 'text' is missing"),
        ("a.csv", b"text\nfine\ncaf\xe9\n", r":3: is not UTF-8 at byte 4"),
        ("a.jsonl", b'{"text": "caf\xe9"}\n', r":1: is not UTF-8 at byte 14"),
        ("a.csv", "text\nx\n".encode("utf-16"), "is UTF-16"),
        ("a.csv", b"text,n\nx,1\ny\n", r":3: has 1 columns, the header has 2"),
        ("a.csv", b'text\n"open\n', r":2: is not valid CSV"),
        ("a.jsonl", b"{'text': 1}\n", r":1: is not valid JSON"),
        ("a.jsonl", b'["text"]\n', "is not a JSON object but list"),
        ("a.jsonl", b'{"text": null}\n', "text is not text but null"),
        ("a.xlsx", b"x", "cannot read files of the kind '.xlsx'"),
    ],
)
def test_an_unreadable_file_is_reported_with_its_line(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputInvalid, match=expected):
        read(file)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputInvalid, match="there is no such file"):
        read(tmp_path / "none.csv")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=5))
def test_no_csv_cell_is_a_formula_and_nothing_is_lost(texts: list[str]) -> None:
    stream = io.StringIO(newline="")
    write_answers(student().stream(texts), stream, format="csv", labels=LABELS, all_shares=True)
    rows = list(csv.reader(io.StringIO(stream.getvalue(), newline="")))
    assert rows[0] == ["text", "label", "probability", "p(short)", "p(long)"]
    for text, row in zip(texts, rows[1:], strict=True):
        assert not row[0].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
        assert row[0] in (text, f"'{text}")
        assert float(row[3]) + float(row[4]) == pytest.approx(1, abs=1e-5)


@pytest.fixture
def graft(monkeypatch: pytest.MonkeyPatch) -> Any:
    from graft.cli.app import app

    monkeypatch.setattr("graft.flows.export_student.open_student", lambda name: student())
    return lambda *words, **more: CliRunner().invoke(app, ["predict", "demo", *map(str, words)], **more)


def test_lines_of_standard_input_become_jsonl(graft: Any) -> None:
    done = graft("-", "--probabilities", input="hi\n\nquite long\r\n")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["text"], row["label"]) for row in rows] == [("hi", "short"), ("quite long", "long")]
    assert list(rows[0]["probabilities"]) == list(LABELS)
    bad = graft("-", input=b"fine\n\xff\n")
    assert isinstance(bad.exception, InputInvalid) and "standard input:2: is not UTF-8" in str(bad.exception)


def test_a_text_on_the_command_line_and_the_lines_of_a_text_file_are_labelled(graft: Any, tmp_path: Path) -> None:
    one = json.loads(graft("quite a long text").stdout)
    assert one["label"] == "long" and list(one["probabilities"]) == list(LABELS)
    file = tmp_path / "my texts.txt"
    file.write_text("hi\n\nquite long\n", encoding="utf-8")
    rows = [json.loads(line) for line in graft(file).stdout.splitlines()]
    assert [(row["text"], row["label"], "probabilities" in row) for row in rows] == [
        ("hi", "short", False), ("quite long", "long", False),
    ]  # fmt: skip
    assert "there is no such file" in str(graft("missing.csv").exception)
    assert graft("a text " * 3_000).exit_code == 0, "longer than any file's name"


def test_a_file_is_written_whole_or_not_at_all(graft: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "in.jsonl", tmp_path / "out.csv"
    file.write_text('{"text": "=1+1"}\n')
    assert graft(file, "--out", out).exit_code == 0
    assert out.read_text().splitlines()[:2] == ["text,label,probability", "'=1+1,short,0.731059"]
    file.write_text('{"text": "a"}\n' * (CHUNK + 1) + "{}\n")
    assert isinstance(graft(file, "--out", out).exception, InputInvalid)
    assert out.read_text().startswith("text,label,probability\n'=1+1")
    assert graft(file, "--out", file).exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.csv"]
    assert graft(file, "--format", "xml").exit_code == 2
