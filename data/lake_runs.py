"""Runs in the lake, with their seeds and candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from graft.data.arrow import from_table
from graft.data.lake_schema import assemble
from graft.schemas.datasets import Run
from graft.schemas.rows import Candidate, Seed, Status

if TYPE_CHECKING:
    import pyarrow as pa

PAGE = 1000
"""Candidates per read."""


class RunRecords:
    """The part of a lake that reads runs and candidates."""

    _guard: AbstractContextManager[Any]

    if TYPE_CHECKING:

        def sql(self, query: str, params: Sequence[Any] = ()) -> pa.Table:
            """The lake's own: the answer to a query."""

    def run(self, run_id: str) -> Run | None:
        """The run of that id, or None."""
        found = from_table(Run, self.sql("SELECT * FROM lake.runs WHERE id = ?", [run_id]))
        return found[0] if found else None

    def runs(self, dataset: str | None = None) -> list[Run]:
        """Runs, newest first; of one dataset if named."""
        query = "SELECT * FROM lake.runs WHERE ?::VARCHAR IS NULL OR dataset = ? ORDER BY started_at DESC, id"
        return from_table(Run, self.sql(query, [dataset, dataset]))

    def seeds(self, run_id: str) -> list[Seed]:
        """The seeds that a person gave for a run, by id."""
        query = "SELECT * FROM lake.seeds WHERE run_id = ? AND kind = 'seed' ORDER BY id"
        return from_table(Seed, self.sql(query, [run_id]), drop=("run_id", "kind"))

    def settled(self, run_id: str, round: int, shard: int) -> list[Candidate]:
        """Every candidate of a shard that is in the lake, whole, by label and place in its stream."""
        return self._candidates(run_id, "round = ? AND shard = ?", [round, shard], 'slot_label, "index"')

    def accepted(self, run_id: str, round: int | None = None) -> list[Candidate]:
        """The accepted candidates of a run, or of one round of it, whole, by id."""
        condition = "status = 'accepted' AND (?::BIGINT IS NULL OR round = ?)"
        return self._candidates(run_id, condition, [round, round], "candidate_id")

    def candidate(self, run_id: str, candidate_id: str) -> Candidate | None:
        """One candidate of a run, whole, or None."""
        found = self._candidates(run_id, "candidate_id = ?", [candidate_id], "candidate_id LIMIT 1")
        return found[0] if found else None

    def iter_candidates(
        self, run_id: str, status: Status | None = None, limit: int | None = None
    ) -> Iterator[Candidate]:
        """Whole candidates by id, one page at a time, so that memory does not grow with their number."""
        last, left = "", limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            page = self._candidates(
                run_id, "candidate_id > ? AND (?::VARCHAR IS NULL OR status = ?)", [last, status, status],
                f"candidate_id LIMIT {size:d}",
            )  # fmt: skip
            yield from page
            if len(page) < size:
                return
            last, left = page[-1].id, None if left is None else left - len(page)

    def _candidates(self, run_id: str, condition: str, params: Sequence[Any], order: str) -> list[Candidate]:
        chosen = f"FROM lake.candidates WHERE run_id = ? AND {condition} ORDER BY {order}"
        with self._guard:
            rows = self.sql(f"SELECT * {chosen}", [run_id, *params])
            wanted = sorted({name for names in rows.column("exemplar_ids").to_pylist() for name in names})
            query = "SELECT * FROM lake.seeds WHERE run_id = ? AND list_contains(?::VARCHAR[], id)"
            shown = self.sql(query, [run_id, wanted])
        return assemble(rows, {seed.id: seed for seed in from_table(Seed, shown, drop=("run_id", "kind"))})

    def counts(self, run_id: str) -> dict[str, int]:
        """opened, accepted, rejected, failed: candidates of a run in the lake."""
        query = "SELECT status, count(*) AS n FROM lake.candidates WHERE run_id = ? GROUP BY status"
        found = {row["status"]: int(row["n"]) for row in self.sql(query, [run_id]).to_pylist()}
        by_status = {name: found.get(name, 0) for name in ("accepted", "rejected", "failed")}
        return {"opened": sum(by_status.values()), **by_status}

    def reasons(self, run_id: str) -> list[tuple[str, str, str, int, str]]:
        """The funnel, most frequent first: (status, route, code, candidates, the text of one of them)."""
        query = """
            SELECT status, route, code, count(*) AS n, min_by(text, candidate_id) AS example
            FROM lake.candidates WHERE run_id = ? GROUP BY ALL ORDER BY n DESC, status, route, code"""
        rows = self.sql(query, [run_id]).to_pylist()
        return [(r["status"], r["route"], r["code"], int(r["n"]), r["example"]) for r in rows]
