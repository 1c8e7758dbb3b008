"""Plain formats: Parquet, JSON lines, CSV, fastText, and two common layouts of intent datasets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from graft.data.export.formats.base import FORMULA, Columns, Format, Params, Source
from graft.schemas.errors import GraftError

BLANK = "[\\s\\x00-\\x1f\\x7f\\x{85}\\x{a0}\\x{2028}\\x{2029}]+"
CSV_NOTES = (
    "A cell that a spreadsheet would read as a formula is prefixed with an apostrophe. Such a cell begins with "
    "= + - @, also in full width or after blanks, or with a tab or a line break.",
    "A NUL character is written as U+FFFD.",
)
FASTTEXT_NOTES = (
    "Each line is a row. Blanks within a label are written as _, line breaks and control characters within a text as "
    "one space, and `__label__` within a text as `_label_`.",
)


def _as_is(source: Source, params: Params) -> Columns:
    return {name: source.column(name, params) for name in source.columns}


def _safe(column: str, params: Params) -> str:
    """SQL of a CSV cell that no spreadsheet reads as a formula."""
    cell = f"replace({column}, chr(0), chr(65533))"
    return f"CASE WHEN regexp_matches({cell}, {params.add(FORMULA)}) THEN chr(39) || {cell} ELSE {cell} END"


def _cells(source: Source, params: Params) -> Columns:
    cells = {name: source.column(name, params) for name in source.columns}
    texts = {name: f"{cell}::VARCHAR" if name in source.further else cell for name, cell in cells.items()}
    return {name: cell if name == "restricted" else _safe(cell, params) for name, cell in texts.items()}


def _banking(source: Source, params: Params) -> Columns:
    return {"text": _safe("text", params), "category": _safe("label", params)}


def folded(label: str) -> str:
    """Return the label as one word of a fastText line."""
    return "_".join("".join(c if c.isprintable() and not c.isspace() else " " for c in label).split())


def _one_label_a_word(source: Source) -> None:
    count = Counter(folded(label) for label in source.labels)
    twice = next((word for word, times in count.items() if times > 1 or not word), None)
    if twice is not None:
        what = f"two labels both become __label__{twice}" if twice else "a label of blanks has no fastText form"
        raise GraftError(what, where=source.found.ref, fix="rename a label, or another --format")


def _fasttext(source: Source, params: Params) -> Columns:
    blank, names = params.add(BLANK), source.labels
    place = f"list_position({params.add(names)}::VARCHAR[], label)"
    word = f"({params.add([folded(name) for name in names])}::VARCHAR[])[{place}]"
    words = f"replace(trim(regexp_replace(text, {blank}, ' ', 'g')), '__label__', '_label_')"
    return {"line": f"'__label__' || {word} || ' ' || {words}"}


def _pairs(source: Source, params: Params) -> Columns:
    return {"line": "to_json([text, label])::VARCHAR"}


def _joined(parts: Mapping[str, Path], target: Path) -> None:
    """Write one JSON object of splits to pairs; `val` is CLINC150's name for validation."""
    with target.open("w", encoding="utf-8", newline="\n") as out:
        for place, (split, part) in enumerate(parts.items()):
            name = "val" if split == "validation" else split
            out.write(("{" if not place else ",\n") + f'"{name}": [')
            with part.open(encoding="utf-8", newline="\n") as lines:
                for number, line in enumerate(lines):
                    out.write((",\n" if number else "\n") + line.rstrip("\n"))
            out.write("]")
        out.write("}\n")


KINDS = (
    Format("parquet", "typed, compressed columns", "parquet", _as_is, choosable=True),
    Format("jsonl", "one JSON object per line", "jsonl", _as_is, choosable=True),
    Format("csv", "for spreadsheets; no cell is a formula", "csv", _cells, choosable=True,
           notes=CSV_NOTES),
    Format("fasttext", "`__label__x text`, one per line", "lines", _fasttext, suffix="txt",
           check=_one_label_a_word, notes=FASTTEXT_NOTES),
    Format("intents", "one JSON of splits to [text, label] pairs, as in CLINC150", "lines",
           _pairs, suffix="json", compressions=("none",), joined=("intents.json", _joined), shardable=False),
    Format("banking77", "CSV with text and category, as in Banking77", "csv", _banking,
           notes=CSV_NOTES),
)  # fmt: skip
