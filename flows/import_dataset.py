"""The flow that imports an existing dataset into the lake as a version."""

from __future__ import annotations

import contextlib
import gc
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from graft.data.card import render_import
from graft.data.intake import columns, sources
from graft.data.intake.collect import MAX_CHARS, NO_LABEL, Checks, Collected, collect
from graft.data.intake.parts import Source, invalid
from graft.data.lake import Lake
from graft.data.versions import publish
from graft.flows import artifacts
from graft.flows.engine import Flow
from graft.schemas.base import SLUG_PATTERN, stable_hash, utc_now
from graft.schemas.datasets import DatasetVersion, Row, Run
from graft.schemas.errors import GraftError
from graft.schemas.home import Home
from graft.schemas.kinds import TASKS, code_version
from graft.schemas.problems import FieldErrors
from graft.schemas.recipe import Recipe, Splits
from graft.schemas.rows import Seed
from graft.schemas.tasks.base import ImportedRows, Task, task_for

BASELINE_ROWS = 8
"""Training rows of each label that replace seeds: the baseline of `graft train` is trained on these only."""


@dataclass(frozen=True)
class Ask:
    """Options of an import beyond its source and name."""

    map: Sequence[str] = ()
    task: str | None = None
    policy: str = ""
    licence: str = ""
    splits: Splits | None = None
    seed: int = 42
    max_chars: int = MAX_CHARS
    skip_bad: bool = False
    restricted: bool = False
    language: str = "en"
    options: sources.Options = field(default_factory=sources.Options)


@dataclass(frozen=True)
class ImportPlan:
    """A planned import: how the source is read, and its first rows. Nothing is written yet."""

    source: Source
    mapped: columns.Mapped
    task: type[Task]
    unread: tuple[str, ...]
    preview: tuple[dict[str, Any], ...]
    notices: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """The result of an import. `new` is false if the dataset held the same rows already."""

    plan: ImportPlan
    version: DatasetVersion
    new: bool
    notices: tuple[str, ...]
    counts: dict[str, int]


@Flow
def import_dataset(
    source: str, name: str, map: list[str] | None = None, task: str | None = None, policy: str = "",
    licence: str = "", splits: str = "", seed: int = 42, max_chars: int = MAX_CHARS, skip_bad: bool = False,
    restricted: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Import a source as the next version of the dataset `name`. Returns version, counts and notices as a dict."""
    ask = Ask(
        map=map or [], task=task, policy=policy, licence=licence, splits=parse_splits(splits), seed=seed,
        max_chars=max_chars, skip_bad=skip_bad, restricted=restricted,
    )  # fmt: skip
    made = bring_in(source, name, ask, say=artifacts.say)
    return {
        "version": made.version.model_dump(mode="json"), "new": made.new, "counts": made.counts,
        "notices": list(made.notices), "columns": made.plan.mapped.by_role(),
    }  # fmt: skip


def parse_splits(text: str) -> Splits | None:
    """`0.8/0.1/0.1` as shares of train, validation and test; "" is None. Raises InputInvalid."""
    if not text:
        return None
    try:
        train, validation, test = (float(part) for part in text.split("/"))
        return Splits(train=train, validation=validation, test=test)
    except ValueError as error:
        raise invalid("--splits", f"cannot read {text!r}", "three shares that add up to 1, such as 0.8/0.1/0.1") from (
            error
        )


def plan(source: str, ask: Ask, rows: int = 3) -> ImportPlan:
    """Detect how to read the source, with a few of its rows. Raises InputInvalid if that is ambiguous."""
    found = sources.find(source, ask.options)
    records = columns.sample(found)
    named: type[Task] = TASKS.get(ask.task) if ask.task else Task
    mapped = columns.guess(found, records, columns.parse_map(ask.map, named.columns), named)
    given = {"label": mapped.label, "response": mapped.response or mapped.chat}
    task = named if ask.task else task_for([name for name, column in given.items() if column])
    for needed in (*([task.needed_column] if task.needed_column else ()), *task.needed):
        if not {**given, **mapped.data}.get(needed):
            what = f"rows for {task.named()} need {'a ' if needed in given else ''}{needed}"
            raise invalid(found.name, what, f"--map {needed}=COLUMN", needed)
    have = dict.fromkeys(str(name) for record in records for name in record)
    used = {*mapped.columns, mapped.id}
    unread = tuple(name for name in have if name not in used)
    notices = list(found.notices)
    if unread:
        notices.append(f"columns not imported: {', '.join(unread)}")
    if not (ask.licence or found.licence):
        notices.append("no licence is stated: give it with --licence, for the card")
    shown = tuple(_shown(record, mapped, ask.restricted) for record in records[:rows])
    return ImportPlan(found, mapped, task, unread, shown, tuple(notices))


def _shown(record: Mapping[str, Any], mapped: columns.Mapped, restricted: bool) -> dict[str, Any]:
    """A row of the preview; restricted text is hidden."""
    hidden = {*mapped.text, mapped.response, mapped.chat, *mapped.data.values()} if restricted else set()
    return {
        name: "(restricted)" if name in hidden else str(record.get(name, ""))[:200] for name in mapped.columns
    }  # fmt: skip


def bring_in(
    source: str, name: str, ask: Ask | None = None, *, say: Callable[[str], None] = lambda text: None,
    planned: ImportPlan | None = None,
) -> Imported:  # fmt: skip
    """Import without Prefect. `planned` is the result of `plan` for the source. Equal content makes no new version.

    Raises:
        InputInvalid: lists every bad row
        GraftError: an address cannot be reached, or the lake cannot be written
    """
    ask = ask or Ask()
    if not re.fullmatch(SLUG_PATTERN, name):
        fix = "lower-case letters, digits, dot, dash and underscore, 64 at most, such as shop-intents"
        raise invalid("--name", f"{name[:80]!r} cannot name a dataset", fix)
    _check_options(ask)
    chosen = planned or plan(source, ask)
    say(f"reading {chosen.source.name}")
    answers = chosen.task.needed_column == "response"
    own = chosen.task.unchecked([NO_LABEL], ask.language) if chosen.task.checked else None
    checks = Checks(answers, ask.max_chars, chosen.task.sides or None, ask.restricted, ask.splits, ask.seed, own)
    with _without_gc():
        made = collect(chosen.source, chosen.mapped, checks, skip_bad=ask.skip_bad)
    notices = (*chosen.notices, *made.notices)
    say(f"publishing {len(made.rows):,} rows")
    with Lake.open(Home.find()) as lake:
        published, new = _publish(lake, name, chosen, ask, made, notices)
    notices += tuple(_left_out(made, published.rows))
    for notice in notices:
        say(notice)
    return Imported(chosen, published, new, notices, made.counts)


def _check_options(ask: Ask) -> None:
    """The task with its required options. Raises InputInvalid, or NotFound for an unknown task."""
    task = TASKS.get(ask.task) if ask.task else Task
    for option in task.import_options:
        if not {"policy": ask.policy}.get(option, "").strip():
            about = task.model_fields[option].description
            raise invalid(f"--{option}", f"a {task.named()} task needs its {option}", about or f"give --{option}")


@contextlib.contextmanager
def _without_gc() -> Iterator[None]:
    """Pause the search for reference cycles while millions of small values are created, because it scans them all."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _publish(
    lake: Lake, name: str, chosen: ImportPlan, ask: Ask, made: Collected, notices: Sequence[str]
) -> tuple[DatasetVersion, bool]:
    started, licence = utc_now(), ask.licence or chosen.source.licence
    recipe = _recipe(name, chosen, ask, made, licence)
    digest = sources.sha256(chosen.source.files)
    content = stable_hash([(row.id, row.split, row.restricted) for row in made.rows])
    run = Run(
        id=f"{name}-{content}", dataset=name, recipe=recipe.model_dump(mode="json"), status="finished",
        started_at=started, ended_at=utc_now(), code_version=code_version(recipe.kinds), stopped_by="target",
        counts=made.counts, price_usd=0.0,
    )  # fmt: skip

    def text(rows: Sequence[Row]) -> str:
        return render_import(
            name, source=chosen.source.name, sha256=digest, licence=licence, task=recipe.task,
            mapped=chosen.mapped.by_role(), rows=rows, notices=[*notices, *_left_out(made, len(rows))],
        )  # fmt: skip

    file = Path(chosen.source.name).name
    note = f"imported from {file}, sha256 {digest or 'unknown'}, licence {licence or 'unknown'}"
    if lake.run(run.id) is None:
        lake.save_run(run)
    lake.add_seeds(run.id, _baseline(made.rows))
    published = publish(lake, run=run, rows=made.rows, models={}, seeds=0, card=text, origin="import", note=note)
    new = published.run_id == run.id and published.created_at >= started
    if not new and ask.restricted:
        _check_marked(lake, published)
    if new:
        lake.save_run(run.model_copy(update={"version": published.version, "ended_at": utc_now()}))
    return published, new


def _left_out(made: Collected, published: int) -> list[str]:
    """A notice if recalls of the dataset withdraw rows of the source."""
    gone = len(made.rows) - published
    return [f"rows left out because recalls of this dataset withdraw them: {gone:,}"] if gone else []


def _check_marked(lake: Lake, found: DatasetVersion) -> None:
    """Reject rows that are published unrestricted already: equal content makes no new version, so they stay open."""
    query = "SELECT count(*) AS n FROM lake.version_rows WHERE dataset = ? AND version = ? AND NOT restricted"
    if lake.query(query, [found.dataset, found.version])[0]["n"]:
        what = "these rows are published already, and not as restricted: nothing was changed"
        raise GraftError(what, where=found.ref, fix="import them under another --name, and delete that version")


def _recipe(name: str, chosen: ImportPlan, ask: Ask, made: Collected, licence: str) -> Recipe:
    """The recipe of the run, for training and gates: task, labels, splits and licence; it generates nothing."""
    labels, answered = sorted({row.label for row in made.rows}), any(row.response for row in made.rows)
    try:
        own = chosen.task.of_rows(ImportedRows(labels, answered, ask.restricted, ask.policy))
    except FieldErrors as error:
        found = error.findings[0]
        raise invalid(chosen.source.name, found.what, found.fix, str(found.path[0])) from error
    task = {"kind": chosen.task.named(), "language": ask.language, **own}
    try:
        return Recipe.model_validate({
            "name": name, "description": f"Imported from {chosen.source.name}"[:500], "task": task,
            "seeds": {"path": chosen.source.name}, "splits": (ask.splits or Splits()).model_dump(), "seed": ask.seed,
            "licence": licence,
        })  # fmt: skip
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise invalid(chosen.source.name, f"{where}: {first['msg']}", "correct the option of that name") from error


def _baseline(rows: Sequence[Row]) -> list[Seed]:
    """A few training rows of each label, with their own ids."""
    found: defaultdict[str, list[Seed]] = defaultdict(list)
    for row in rows:
        if row.split == "train" and len(found[row.label]) < BASELINE_ROWS:
            found[row.label].append(Seed(id=row.id, text=row.text, label=row.label, response=row.response))
    return [seed for seeds in found.values() for seed in seeds]
