"""Seeds and held-out files: every broken line at once, with its line; good files give the same rows in any format."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from graft.data.seeds import MAX_PROBLEMS, MAX_TEXT_CHARS, load_labelled, load_seeds
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.load import find_recipe, load_recipe, resolve_path
from graft.schemas.recipe import Recipe

ROWS = [
    {"text": 'Where is my "blue" box, please?', "label": "delivery"},
    {"text": "Two lines\nof text; with a semicolon", "label": "refund"},
    {"text": "Grüße, wo bleibt mein Geld? 😀", "label": "refund"},
]


def recipe_of(**changes: Any) -> Recipe:
    base: dict[str, Any] = {
        "name": "shop",
        "task": {"kind": "classification", "labels": [{"name": "refund"}, {"name": "delivery"}]},
        "seeds": {"path": "seeds.csv"},
    }
    return Recipe.model_validate({**base, **changes})


def problems_of(folder: Path, name: str, **changes: Any) -> list[Problem]:
    with pytest.raises(InputInvalid) as caught:
        load_seeds(recipe_of(seeds={"path": name}, **changes), folder)
    assert all(problem.fix for problem in caught.value.problems)
    return caught.value.problems


def write(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize(
    ("name", "mark"), [("s.csv", ","), ("s.csv", ";"), ("s.tsv", "\t"), ("s.jsonl", ""), ("s.parquet", "")]
)
def test_every_format_gives_the_same_seeds(tmp_path: Path, name: str, mark: str) -> None:
    write(tmp_path / name, ROWS, mark or ",")
    seeds = load_seeds(recipe_of(seeds={"path": name}), tmp_path)
    assert [(seed.text, seed.label) for seed in seeds] == [(row["text"], row["label"]) for row in ROWS]
    assert len({seed.id for seed in seeds}) == 3


def test_file_and_rows_are_joined_and_repeats_merged(tmp_path: Path) -> None:
    write(tmp_path / "s.jsonl", [*ROWS, ROWS[0]])
    rows = [{"text": ROWS[1]["text"], "label": "refund"}, {"text": "I got the wrong box", "label": "delivery"}]
    seeds = load_seeds(recipe_of(seeds={"path": "s.jsonl", "rows": rows}), tmp_path)
    assert len(seeds) == 4 and seeds[-1].text == "I got the wrong box"


def test_every_broken_jsonl_line_is_named_at_once(tmp_path: Path) -> None:
    lines = [
        b'{"text": "fine", "label": "refund"}',
        b'{"text": "no end", "label": ',
        b'["a", "list"]',
        b'{"txt": "typo in the field", "label": "refund"}',
        b'{"text": "   ", "label": "refund"}',
        b'{"text": "typo in the label", "label": "refnd"}',
        b'{"text": "latin \xe9", "label": "refund"}',
        b'{"text": "nul \\u0000 byte", "label": "refund"}',
        b'{"text": 17, "label": "refund"}',
        b'{"text": "' + b"x" * 10_000_000 + b'", "label": "refund"}',
        b'{"text": "no label"}',
        b'{"text": "fine", "label": "delivery"}',
    ]
    (tmp_path / "s.jsonl").write_bytes(b"\n".join(lines))
    problems = problems_of(tmp_path, "s.jsonl")
    by_line = {problem.line: problem for problem in problems}
    assert sorted(by_line, key=str) == sorted([2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], key=str)
    expected = {
        2: "not valid JSON", 3: "not a JSON object", 4: "'text' is missing", 5: "empty", 6: "unknown label 'refnd'",
        7: "not UTF-8", 8: "NUL", 9: "not text", 10: "10,000,000 characters", 11: "'label' is missing",
        12: "'refund' in line 1",
    }  # fmt: skip
    for line, what in expected.items():
        assert what in by_line[line].what, by_line[line]
    assert "did you mean 'txt'" in by_line[4].fix and "did you mean 'refund'" in by_line[6].fix
    assert all(problem.file == str(tmp_path / "s.jsonl") for problem in problems)


@pytest.mark.parametrize(
    ("raw", "line", "what"),
    [
        ("text,label\nfine,refund\na, b,refund\n", 3, "3 columns"),
        ('text,label\n"two\nlines",refund\nshort\n', 4, "1 columns"),
        ('text,label\nfine,refund\n"never closed,refund\nmore,refund\n', 3, "not valid CSV"),
        ("txt,label\nfine,refund\n", None, "'text' is missing: the file has txt, label"),
        ("text,label\nfine,\n", 2, "label is empty"),
        ("text,label\nnul \0,refund\n", 2, "NUL"),
        ("text,label\n" + "x" * (MAX_TEXT_CHARS + 1) + ",refund\n", 2, "characters"),
        ("text,label\nfine,refund\nFine,Refund\n", 3, "unknown label"),
        ("", None, "no seeds at all"),
        ("text,label\n", None, "no seeds at all"),
        ("text,label\nfine,refund\n", None, "'delivery' has no seed"),
    ],
)
def test_broken_csv_names_the_line(tmp_path: Path, raw: str, line: int | None, what: str) -> None:
    (tmp_path / "s.csv").write_text(raw, encoding="utf-8", newline="")
    problem = problems_of(tmp_path, "s.csv")[0]
    assert problem.line == line and what in problem.what, problem


def test_other_column_names_are_one_problem_with_the_settings_to_change(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,utterance,intent\n" + "1,where is my parcel,delivery\n" * 300)
    (problem,) = problems_of(tmp_path, "s.csv")
    assert problem.what == "columns 'text' and 'label' are missing: the file has id, utterance, intent"
    assert problem.fix == "set seeds.text_field: utterance and seeds.label_field: intent in the recipe"


def test_csv_in_another_encoding_names_each_line(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_bytes("text,label\nGrüße,refund\nfine,delivery\nKäse,refund\n".encode("latin-1"))
    assert [problem.line for problem in problems_of(tmp_path, "s.csv")] == [2, 4]
    (tmp_path / "s.csv").write_text("text,label\nfine,refund\n", encoding="utf-16")
    assert "UTF-16" in problems_of(tmp_path, "s.csv")[0].what


def test_broken_parquet(tmp_path: Path) -> None:
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and then nothing")
    assert "not a readable Parquet file" in problems_of(tmp_path, "cut.parquet")[0].what
    pq.write_table(pa.table({"txt": ["a"], "label": ["refund"]}), tmp_path / "names.parquet")
    assert "did you mean 'txt'" in problems_of(tmp_path, "names.parquet")[0].fix
    labels = ["refund", "delivery", "refnd", "refund"]
    pq.write_table(pa.table({"text": ["fine", None, "also", " "], "label": labels}), tmp_path / "rows.parquet")
    problems = problems_of(tmp_path, "rows.parquet")
    assert [(p.line, p.field) for p in problems] == [(2, "text"), (3, "label"), (4, "text")]
    bad = pa.array([b"fine", b"\xff\xfe"]).view(pa.string())
    pq.write_table(pa.table({"text": bad, "label": ["refund", "delivery"]}), tmp_path / "bytes.parquet")
    assert [(p.line, p.what) for p in problems_of(tmp_path, "bytes.parquet")] == [(2, "is not UTF-8")]


def test_files_that_are_missing_or_of_another_kind(tmp_path: Path) -> None:
    assert "no such file" in problems_of(tmp_path, "gone.csv")[0].what
    assert ".jsonl" in problems_of(tmp_path, "seeds.ods")[0].fix


def test_a_thoroughly_broken_file_is_counted_not_listed(tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text("nonsense\n" * (MAX_PROBLEMS + 50), encoding="utf-8")
    problems = problems_of(tmp_path, "s.jsonl")
    assert len(problems) == MAX_PROBLEMS + 1 and "50 more" in problems[-1].what


def test_a_label_that_is_not_wanted_needs_no_seed(tmp_path: Path) -> None:
    write(tmp_path / "s.csv", [ROWS[1]])
    seeds = load_seeds(recipe_of(seeds={"path": "s.csv"}, target={"labels": {"delivery": 0}}), tmp_path)
    assert len(seeds) == 1


def test_instruction_seeds_may_lack_a_domain_and_keep_their_response(tmp_path: Path) -> None:
    write(tmp_path / "s.jsonl", [{"text": "Name a colour.", "response": "Blue."}])
    recipe = recipe_of(task={"kind": "instruction"}, seeds={"path": "s.jsonl"})
    seed = load_seeds(recipe, tmp_path)[0]
    assert (seed.label, seed.response) == ("", "Blue.")


def test_held_out_files(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", [*ROWS, ROWS[0]])
    pairs = load_labelled(tmp_path / "t.csv", "text", "label", ["refund", "delivery"])
    assert pairs == [(row["text"], row["label"]) for row in [*ROWS, ROWS[0]]]
    assert load_labelled(tmp_path / "t.csv", "text", "label", None) == pairs
    with pytest.raises(InputInvalid) as caught:
        load_labelled(tmp_path / "t.csv", "text", "label", ["refund"])
    assert [problem.line for problem in caught.value.problems] == [2, 6]
    (tmp_path / "e.csv").write_text("text,label\n", encoding="utf-8")
    with pytest.raises(InputInvalid, match="holds no rows"):
        load_labelled(tmp_path / "e.csv", "text", "label", None)


@pytest.mark.parametrize("name", ["demo", "instructions", "hosted"])
def test_shipped_seeds_and_tests_load(name: str) -> None:
    file = find_recipe(name)
    recipe = load_recipe(file)
    labels = recipe.task.names
    seeds = load_seeds(recipe, file.parent)
    assert {seed.label for seed in seeds} == set(labels)
    if recipe.student.test:
        pairs = load_labelled(resolve_path(file, recipe.student.test), "text", "label", labels)
        assert all(sum(label == name for _, label in pairs) >= 24 for name in labels)
        assert len({text for text, _ in pairs}) == len(pairs)
