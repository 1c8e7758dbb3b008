"""Rows of a version and candidates of a run, searched and filtered in the database, page by page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboard.figures import Rows, rows_of

if TYPE_CHECKING:
    from data.lake import Lake


SORTS = {
    "id": "id",
    "label": "label, id",
    "longest": "length(text) DESC, id",
    "shortest": "length(text), id",
}


def find_rows(
    lake: Lake, dataset: str, version: int, *, words: str, label: str, split: str, source: str, sort: str, page: int,
    size: int = 50,
) -> tuple[int, Rows]:  # fmt: skip
    """Rows of a version that hold `words` and are of that label, split and source (empty: any): (how many, one page).

    A search by words passes restricted rows over: a hit would tell what they say.
    """
    where = """
        dataset = $1 AND version = $2 AND ($4 = '' OR label = $4) AND ($5 = '' OR split = $5)
        AND ($3 = '' OR (NOT restricted AND contains(lower(text), lower($3)))) AND ($6 = '' OR source = $6)"""
    given = [dataset, version, words, label, split, source]
    total = rows_of(lake, f"SELECT count(*) AS n FROM lake.version_rows WHERE {where}", given)[0]["n"]
    query = f"""
        SELECT id, text, response, label, split, source, restricted FROM lake.version_rows WHERE {where}
        ORDER BY {SORTS[sort]} LIMIT {size:d} OFFSET {page * size:d}"""
    return int(total), rows_of(lake, query, given)


def find_candidates(
    lake: Lake, run_id: str, *, words: str, code: str, status: str, page: int, size: int = 50
) -> tuple[int, Rows]:
    """Candidates of a run that were not accepted (or of one status or code): (how many, one page of them)."""
    where = """
        run_id = $1 AND ($2 = '' OR (NOT restricted AND contains(lower(text), lower($2)))) AND ($3 = '' OR code = $3)
        AND CASE WHEN $4 = '' THEN status <> 'accepted' ELSE status = $4 END"""
    given = [run_id, words, code, status]
    total = rows_of(lake, f"SELECT count(*) AS n FROM lake.candidates WHERE {where}", given)[0]["n"]
    query = f"""
        SELECT candidate_id AS id, text, response, label, status, code, reason, mean, restricted
        FROM lake.candidates WHERE {where} ORDER BY candidate_id LIMIT {size:d} OFFSET {page * size:d}"""
    return int(total), rows_of(lake, query, given)
