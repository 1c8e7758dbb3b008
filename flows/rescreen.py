"""The flow that runs the gates over a version again with other thresholds and publishes the rows that pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graft.agents.local import encoder
from graft.data.documents.kept import texts_of
from graft.data.gates import Needs, TestText, reads_reviews, without
from graft.data.gates.base import Embed
from graft.data.lake import Lake
from graft.data.rescreen import Gated, gate_again
from graft.data.seeds import load_texts, register_file
from graft.data.versions import Held, derive, held_by, version
from graft.flows.engine import Flow
from graft.schemas.datasets import DatasetVersion
from graft.schemas.documents import sources_of
from graft.schemas.errors import InputInvalid, Problem
from graft.schemas.home import Home
from graft.schemas.load import explained
from graft.schemas.problems import did_you_mean
from graft.schemas.recipe import Recipe
from graft.schemas.rows import Candidate
from graft.schemas.sections import HIDDEN, Column, Table
from graft.schemas.tasks.base import task_for

CLUSTERS_SHOWN = 20
LANGUAGE = "task.language"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Rescreened:
    """A rescreened version: findings, and the published version (None: nothing new)."""

    parent: DatasetVersion
    gated: Gated
    published: DatasetVersion | None
    note: str
    texts: Mapping[str, str]
    """Texts of the rows that `as_dict` shows, by id; HIDDEN for restricted rows."""

    @property
    def tables(self) -> list[Table]:
        """Gates' findings on single rows, with the rows' texts."""
        return [
            replace(
                one, columns=(*one.columns, Column("text", "text")),
                rows=[{**row, "text": self.texts.get(row.get("row_id", ""), "")} for row in one.rows],
            )
            for one in self.gated.tables
        ]  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """All findings as plain values; the text of restricted rows is hidden."""
        gated, published = self.gated, self.published
        return {
            "parent": self.parent.ref,
            "rows": self.parent.rows,
            "kept": len(gated.kept),
            "dropped": len(gated.drops),
            "rules": [
                {"gate": gate, "rule": rule, "rows": rows, "example_id": row_id, "example": self.texts.get(row_id, "")}
                for gate, rule, rows, row_id in gated.tally()
            ],
            "clusters": [
                {"kind": one.kind, "rows": list(one.rows), "example": self.texts.get(one.rows[0], "")}
                for one in _largest(gated)
            ],
            "clusters_found": len(gated.clusters),
            **{table.name: list(table.rows) for table in self.tables},
            "reported": [{"row_id": row_id, **result.model_dump(mode="json")} for row_id, result in gated.found],
            "redacted": {row_id: list(gates) for row_id, gates in sorted(gated.redacted.items())},
            "notes": list(gated.notes),
            "published": published.ref if published else None,
            "note": self.note,
        }  # fmt: skip


@Flow
def rescreen(
    ref: str,
    overrides: dict[str, Any] | None = None,
    dry_run: bool = False,
    tests: list[str] | None = None,
    publish: bool = True,
) -> dict[str, Any]:
    """Rescreen a version (`name` or `name@3`) as rescreen_version does. Returns counts, never a text."""
    from graft.flows.artifacts import say

    done = rescreen_version(ref, overrides, dry_run=dry_run, tests=tests or [], publish=publish, say=say)
    summary = done.as_dict()
    rules = [{name: rule[name] for name in ("gate", "rule", "rows")} for rule in summary["rules"]]
    return {**{name: summary[name] for name in ("parent", "rows", "kept", "dropped", "published")}, "rules": rules}


def rescreen_version(
    ref: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    dry_run: bool = False,
    tests: Sequence[str | Path] = (),
    publish: bool = True,
    text_field: str = "text",
    test_cosine: float = 0.95,
    restricted: bool = False,
    embed: Embed | None = None,
    say: Say = lambda line: None,
) -> Rescreened:
    """Rescreen without Prefect. `overrides` are dotted fields of the recipe's gates, such as gates.near_duplicate.

    No row may repeat a text of the files `tests` (field `text_field`), in words or at a cosine of `test_cosine`;
    they are registered as held-out files of the dataset. A dry run, or `publish` false, writes nothing. `embed` is the
    built-in encoder unless given. Raises InputInvalid for an unknown override or an unreadable file, NotFound for an
    unknown version, GraftError if no row is left to publish.
    """
    home = Home.find()
    with Lake.open(home, read_only=dry_run or not publish) as lake:
        found = version(lake, ref)
        held = held_by(lake, found)
        recipe, notes = recipe_of(lake, found, held, overrides or {})
        texts = {Path(file): load_texts(Path(file), text_field) for file in tests}
        gated = gate_again(
            held,
            recipe,
            _needs(lake, home, found, held, recipe, texts, test_cosine, embed, say),
            scores=_means(lake, {run_id for _, run_id, _ in held}),
            made=_candidates(lake, held) if reads_reviews(recipe) else None,
            say=say,
        )
        gated.notes[:0] = notes
        note, published = _note(found, gated, overrides or {}), None
        if publish and not dry_run:
            for file in texts:
                register_file(lake, found.dataset, file, text_field)
            if gated.drops or gated.redacted:
                drops = [result for _, result in gated.drops]
                dropped = [row_id for row_id, _ in gated.drops]
                published = derive(
                    lake, found, gated.kept, origin="gates", note=note, drops=drops, dropped=dropped
                )  # fmt: skip
    return Rescreened(found, gated, published, note, _shown(held, gated, restricted))


def recipe_of(
    lake: Lake, found: DatasetVersion, held: Sequence[Held], overrides: Mapping[str, Any]
) -> tuple[Recipe, list[str]]:
    """The recipe of the version's run with overrides, or a neutral recipe if none is usable.

    Raises InputInvalid that lists each invalid override.
    """
    run = lake.run(found.run_id)
    try:
        return _overridden(Recipe.stored(run.recipe if run else {}), overrides), []
    except ValidationError:
        pass
    labels = sorted({row.label for row, *_ in held})
    kind = task_for(["response"] if any(row.response for row, *_ in held) else [])
    task = kind.unchecked(["one", "other"], "und")
    gates = without(lambda kind: not kind.people)
    base = {"name": "neutral", "task": task, "seeds": {"path": "none.jsonl"}, "gates": gates}
    recipe = _overridden(Recipe.model_validate(base), overrides)
    of_rows = kind.unchecked(labels, recipe.task.language)  # any label, if there is only one
    note = "the version has no run's recipe: neutral gates were used (docs/rescreen.md)"
    return recipe.model_copy(update={"task": of_rows}), [note]


def _overridden(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with dotted fields of its gates set. A list may be given separated by commas."""
    data, problems = recipe.model_dump(mode="json"), list[Problem]()
    for key, value in overrides.items():
        *steps, last = key.split(".")
        node: Any = data
        for step in steps:
            node = node.get(step) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            known = [*_dotted("gates", data["gates"]), LANGUAGE]
            fix = f"{did_you_mean(key, known)}one of: {', '.join(known)}"
            problems.append(Problem("--set", None, key, "unknown threshold", fix))
        elif steps[:1] != ["gates"] and key != LANGUAGE:
            fix = f"name a field under gates, or {LANGUAGE}"
            problems.append(Problem("--set", None, key, "is not a setting of gates", fix))
        else:
            listed = isinstance(node[last], list) and isinstance(value, str)
            node[last] = [part.strip() for part in value.split(",") if part.strip()] if listed else value
    if problems:
        raise InputInvalid(problems)
    try:
        return Recipe.model_validate(data)
    except ValidationError as invalid:
        errors = [dict(error) for error in invalid.errors(include_url=False)]
        findings = explained(errors, data)
        raise InputInvalid(
            [Problem("--set", None, ".".join(map(str, each.path)), each.what, each.fix) for each in findings]
        ) from invalid


def _dotted(prefix: str, node: Mapping[str, Any]) -> list[str]:
    names: list[str] = []
    for name, value in node.items():
        names.extend(_dotted(f"{prefix}.{name}", value) if isinstance(value, dict) else [f"{prefix}.{name}"])
    return names


def _needs(
    lake: Lake,
    home: Home,
    found: DatasetVersion,
    held: Sequence[Held],
    recipe: Recipe,
    texts: Mapping[Path, Sequence[str]],
    test_cosine: float,
    embed: Embed | None,
    say: Say,
) -> Needs:
    from graft.agents.methods import fragments_of
    from graft.students.folds import out_of_fold
    from graft.students.judge import student_judge
    from graft.students.perplexity import perplexities

    numbered = [(file, row, text) for file, rows in texts.items() for row, text in enumerate(rows, start=1)]
    return Needs(
        seeds=lake.seeds(found.run_id) if found.parent is None else [],
        fragments=fragments_of(recipe),
        evaluation=[
            *lake.test_texts(found.dataset),
            *(TestText.of(str(file), row, text) for file, row, text in numbered),
        ],
        student=student_judge(home),
        perplexity=perplexities(home, say),
        embed=lambda: (embed, "") if embed else encoder.find_embed(),
        folds=lambda vectors, labels, folds, seed: out_of_fold(vectors, labels, folds, seed, say=say),
        tests=[(f"{file.name}:{row}", text) for file, row, text in numbered],
        test_cosine=test_cosine,
        documents=texts_of(lake, [one["hash"] for row, *_ in held for one in sources_of(row.data)]),
    )


def _candidates(lake: Lake, held: Sequence[Held]) -> dict[str, Candidate]:
    """Row id to its candidate."""
    runs = sorted({run_id for _, run_id, candidate_id in held if candidate_id})
    made = {(run_id, one.id): one for run_id in runs for one in lake.accepted(run_id)}
    pairs = ((row.id, made.get((run_id, candidate_id))) for row, run_id, candidate_id in held)
    return {row_id: one for row_id, one in pairs if one is not None}


def _means(lake: Lake, runs: set[str]) -> dict[str, float]:
    """The decision's mean of every accepted candidate of these runs, by id."""
    query = "SELECT candidate_id, mean FROM lake.candidates WHERE run_id IN (SELECT unnest(?)) AND mean IS NOT NULL"
    table = lake.sql(query, [sorted(runs)])
    return dict(zip(table["candidate_id"].to_pylist(), table["mean"].to_pylist(), strict=True))


def _note(found: DatasetVersion, gated: Gated, overrides: Mapping[str, Any]) -> str:
    rules = ", ".join(f"{gate}.{rule} {rows}" for gate, rule, rows, _ in gated.tally()[:6])
    parts = [
        f"gates over {found.ref}: {len(gated.drops)} of {found.rows} rows dropped" + (f" ({rules})" if rules else "")
    ]
    if gated.redacted:
        parts.append(f"{len(gated.redacted)} redacted")
    if overrides:
        parts.append("with " + ", ".join(f"{key}={value}" for key, value in sorted(overrides.items())))
    return "; ".join(parts)


def _largest(gated: Gated) -> list[Any]:
    return sorted(gated.clusters, key=lambda one: (-len(one.rows), one.rows))[:CLUSTERS_SHOWN]


def _shown(held: Sequence[Held], gated: Gated, restricted: bool) -> dict[str, str]:
    """The texts of rows that represent a rule or a cluster, or that a gate reports."""
    wanted = {row_id for *_, row_id in gated.tally()}
    wanted |= {str(row["row_id"]) for table in gated.tables for row in table.rows if "row_id" in row}
    wanted |= {one.rows[0] for one in _largest(gated)}
    return {row.id: HIDDEN if row.restricted and not restricted else row.text for row, *_ in held if row.id in wanted}
