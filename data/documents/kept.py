"""Documents in the lake: which ones a run used, and their texts, so that a row can show its passage for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from graft.data.arrow import from_rows, to_table
from graft.data.documents.read import Library
from graft.data.duck import execute
from graft.data.lake_schema import DocumentText, RunDocument
from graft.schemas.documents import sources_of

if TYPE_CHECKING:
    import duckdb

    from graft.data.lake import Lake


def keep_documents(lake: Lake, run_id: str, library: Library) -> None:
    """Record a run's documents; a text that the lake has is not written again."""
    count, texts = Counter(passage.hash for passage in library.passages), library.texts
    records = [
        RunDocument(
            run_id=run_id, name=one.name, file=one.file, hash=one.hash, characters=len(one.text),
            passages=count[one.hash], licence=one.licence,
        )
        for one in library.documents
    ]  # fmt: skip
    if of_run(lake, run_id) == sorted(records, key=lambda one: one.name):
        return

    def work(connection: duckdb.DuckDBPyConnection) -> None:
        there = "SELECT hash FROM lake.document_texts WHERE list_contains(?::VARCHAR[], hash)"
        known = {str(row[0]) for row in execute(connection, there, [list(texts)]).fetchall()}
        new = [DocumentText(hash=name, text=text) for name, text in texts.items() if name not in known]
        execute(connection, "DELETE FROM lake.documents WHERE run_id = ?", [run_id])
        lake.insert("documents", to_table(RunDocument, records))
        if new:
            lake.insert("document_texts", to_table(DocumentText, new))

    lake.write(work)


def of_run(lake: Lake, run_id: str) -> list[RunDocument]:
    """The documents that a run used, by name."""
    return from_rows(RunDocument, lake.query("SELECT * FROM lake.documents WHERE run_id = ? ORDER BY name", [run_id]))


def passages_of(lake: Lake, data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The passages that a row rests on, as plain values with their `text`; None if the lake does not have it."""
    sources = sources_of(data)
    known = {row["hash"]: row for row in _documents(lake, sorted({one["hash"] for one in sources}))} if sources else {}
    found = []
    for one in sources:
        row = known.get(one["hash"], {})
        text = row["text"][one["start"] : one["end"]] if row.get("text") is not None else None
        named = {name: row.get(name) for name in ("file", "licence")}
        found.append({"document": one.get("document"), "start": one["start"], "end": one["end"], "hash": one["hash"],
                      **named, "text": text})  # fmt: skip
    return found


def _documents(lake: Lake, hashes: list[str]) -> list[dict[str, Any]]:
    query = """
        SELECT t.hash, t.text, d.file, d.licence FROM lake.document_texts t
        LEFT JOIN (SELECT hash, min(file) AS file, max(licence) AS licence FROM lake.documents GROUP BY hash) d
        ON d.hash = t.hash WHERE list_contains(?::VARCHAR[], t.hash)"""
    return lake.query(query, [hashes])


def texts_of(lake: Lake, hashes: Iterable[str]) -> dict[str, str]:
    """Hash to text of those documents that the lake has."""
    query = "SELECT hash, text FROM lake.document_texts WHERE list_contains(?::VARCHAR[], hash)"
    return {row["hash"]: row["text"] for row in lake.query(query, [sorted(set(hashes))])}
