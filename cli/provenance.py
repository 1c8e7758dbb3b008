"""Verbs of provenance: lineage, trace, recall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from graft.cli.options import JsonFlag
from graft.schemas.sections import HIDDEN

if TYPE_CHECKING:
    from graft.data.lake import Lake
    from graft.data.recall import RecallPlan
    from graft.data.trace import Touched
    from graft.data.withdrawn import Selector
    from graft.schemas.datasets import DatasetVersion, RecallKind

EXAMPLES = 5
RefArg = Annotated[
    str | None,
    typer.Argument(help="a dataset or version; left out: the latest version of every dataset", metavar="[REF]"),
]
Model = Annotated[str | None, typer.Option(help="rows that this model wrote or judged")]
Prompt = Annotated[str | None, typer.Option(help="rows that this prompt version (p_…) requested or judged")]
Seed = Annotated[str | None, typer.Option(help="rows derived from this seed, directly or through other rows")]
RunId = Annotated[str | None, typer.Option("--run", help="rows of this run")]
Restricted = Annotated[bool, typer.Option("--restricted", help="with the words of restricted rows")]


def lineage(
    ref: Annotated[str, typer.Argument(help="a dataset, or a version of it: demo, demo@2", metavar="REF")],
    out: Annotated[Path | None, typer.Option(help="file to write instead of the terminal")] = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON list instead of one line for each event")] = False,
) -> None:
    """Print a version's OpenLineage events, one JSON object on each line.

    Example:  graft lineage demo --out lineage.jsonl
    """
    import orjson

    from graft.cli.show import console, dumps
    from graft.data.lake import Lake
    from graft.data.lineage import lineage as events_of
    from graft.data.versions import version
    from graft.schemas.home import Home

    with Lake.look(Home.find(create=False)) as lake:
        events = events_of(lake, version(lake, ref))
    lines = "".join(orjson.dumps(event).decode() + "\n" for event in events)
    text = dumps(events) + "\n" if json else lines
    if out is None:
        typer.echo(text, nl=False)
    else:
        written(out, text)
        console().print(f"wrote {out}", markup=False, soft_wrap=True)


def written(out: Path, text: str) -> None:
    """Write a text file. Raises GraftError if that fails."""
    from graft.schemas.errors import GraftError

    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or "it cannot be written"
        raise GraftError(reason, where=str(out), fix="name a file in a folder that exists") from error


def trace(
    ref: RefArg = None, model: Model = None, prompt: Prompt = None, seed: Seed = None, run: RunId = None,
    restricted: Restricted = False, json: JsonFlag = False,
) -> None:  # fmt: skip
    """List the rows that a model, prompt, seed or run touched; without a selector, list what can be traced.

    Example:  graft trace demo --model gemma
    """
    from graft.cli.show import as_json, table
    from graft.data.lake import Lake
    from graft.data.trace import known
    from graft.data.trace import trace as rows_of
    from graft.schemas.home import Home

    selector = _selector(model=model, prompt=prompt, seed=seed, run=run)
    with Lake.look(Home.find(create=False)) as lake:
        if selector is None:
            found: dict[str, Any] = {kind: known(lake, kind) for kind in ("model", "prompt", "run")}
            if json:
                as_json(found)
            else:
                rows = [[kind, one["value"], one["detail"], one["calls"]] for kind in found for one in found[kind]]
                table("what can be traced", ["by", "value", "what", "calls"], rows, right=("calls",))
            return
        touched = rows_of(lake, selector, _among(lake, ref))
    if json:
        as_json({"by": selector.kind, "value": selector.value, "rows": [_shown(row, restricted) for row in touched]})
    else:
        _print_touched(selector, touched, restricted)


def _selector(**given: str | None) -> Selector | None:
    """The selector that is given, or None. Raises GraftError if several are given."""
    from graft.data.withdrawn import Selector
    from graft.schemas.errors import GraftError

    chosen = {kind: value for kind, value in given.items() if value is not None}
    if len(chosen) > 1:
        names = ", ".join(f"--{kind}" for kind in chosen)
        raise GraftError(f"{names} cannot be combined", where="selector", fix="give only one of them")
    for kind, value in chosen.items():
        return Selector(cast("RecallKind", kind), value)
    return None


def _among(lake: Lake, ref: str | None) -> list[DatasetVersion] | None:
    from graft.data.versions import version

    return None if ref is None else [version(lake, ref)]


def _shown(row: Touched, restricted: bool) -> dict[str, Any]:
    text = HIDDEN if row.restricted and not restricted else row.text
    facts = {name: getattr(row, name) for name in ("id", "dataset", "version", "split", "label", "restricted")}
    return {**facts, "how": list(row.how), "text": text}


def _print_touched(selector: Selector, touched: Sequence[Touched], restricted: bool) -> None:
    from graft.cli.show import console, table

    if not touched:
        console().print(f"no row of these versions: {selector.kind} {selector.value}", markup=False)
        return
    counts = Counter((f"{row.dataset}@{row.version}", how, row.split) for row in touched for how in row.how)
    table(
        f"rows by {selector.kind} {selector.value}: {len(touched)}",
        ["version", "touched as", "split", "rows"],
        [[*key, count] for key, count in sorted(counts.items())],
        right=("rows",),
    )
    view = [[row.id, row.label, ", ".join(row.how), _shown(row, restricted)["text"]] for row in touched[:EXAMPLES]]
    table("examples (--json lists all)", ["row", "label", "touched as", "text"], view)


def recall(
    reason: Annotated[str, typer.Option(help="reason, kept with the recall")],
    ref: RefArg = None, model: Model = None, prompt: Prompt = None, seed: Seed = None, run: RunId = None,
    row: Annotated[str | None, typer.Option(help="only this row")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="apply the recall; otherwise it is only shown")] = False,
    json: JsonFlag = False,
) -> None:  # fmt: skip
    """Withdraw rows by origin. Shows the rows that would go; --yes publishes versions without them.

    Example:  graft recall demo --model gemma --reason "its licence changed" --yes
    """
    import getpass

    from graft.cli.show import as_json, console
    from graft.data.lake import Lake
    from graft.data.recall import plan
    from graft.data.recall import recall as withdraw
    from graft.schemas.errors import GraftError
    from graft.schemas.home import Home

    selector = _selector(model=model, prompt=prompt, seed=seed, run=run, row=row)
    if selector is None:
        raise GraftError(
            "no selector is given", where="graft recall", fix="give --model, --prompt, --seed, --run or --row"
        )
    with Lake.open(Home.find(), read_only=not yes) as lake:
        done = withdraw(lake, selector, ref, reason=reason, by=getpass.getuser()) if yes else []
        plans = [one.plan for one in done] if yes else plan(lake, selector, ref)
    made = {one.recall.dataset: one.version for one in done}
    if json:
        as_json({"by": selector.kind, "value": selector.value, "done": yes, "datasets": _dumped(plans, made)})
        return
    _print_plans(selector, plans)
    for dataset, version in made.items():
        outcome = f"published {version.ref} ({version.rows} rows)" if version else f"{dataset}: no rows to remove now"
        console().print(f"{outcome}; later versions leave such rows out", markup=False)
    if plans and not yes:
        console().print("nothing was changed. To apply it, repeat the command with --yes")


def _dumped(plans: Sequence[RecallPlan], made: dict[str, DatasetVersion | None]) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    for one in plans:
        version = made.get(one.dataset)
        out.append(
            {
                "dataset": one.dataset,
                "version": one.parent.ref if one.parent else None,
                "rows": [row.id for row in one.rows],
                "held": {f"{one.dataset}@{number}": count for number, count in one.held.items()},
                "students": [student.id for student in one.students],
                "tags": list(one.tags),
                "published": version.ref if version else None,
            }
        )
    return out


def _print_plans(selector: Selector, plans: Sequence[RecallPlan]) -> None:
    from graft.cli.show import console, table

    if not plans:
        console().print(f"no dataset holds or would make a row of {selector.kind} {selector.value}", markup=False)
        return
    rows = [
        [one.parent.ref if one.parent else f"{one.dataset} (nothing published yet)",
         f"{len(one.rows)} of {one.parent.rows}" if one.parent else "0",
         " ".join(f"@{number}: {count}" for number, count in one.held.items()),
         ", ".join(student.id for student in one.students), ", ".join(one.tags)]
        for one in plans
    ]  # fmt: skip
    table(
        f"recall of {selector.kind} {selector.value}",
        ["version", "rows removed", "versions that held them", "students to retrain", "tags to move"],
        rows,
    )
