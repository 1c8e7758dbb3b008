"""`graft review`: the queue of rows that need review, and the agreement of people and judges."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from graft.cli.options import ByOption, JsonFlag, RefArg, RestrictedFlag, user_name

if TYPE_CHECKING:
    from graft.data.review import AgainstPeople, Agreement, Progress, Queue, QueueRule

RULES = "disagreement, margin, random, gate or query"


def review(
    ref: RefArg,
    rule: Annotated[str, typer.Option(help=f"how rows are chosen: {RULES}", metavar="RULE")] = "disagreement",
    size: Annotated[int, typer.Option(min=1, max=1_000, help="rows to show")] = 20,
    gate: Annotated[str, typer.Option(help="with --rule gate: only rejections of this gate or judge")] = "",
    where: Annotated[str, typer.Option(help="with --rule query: a condition such as length(text) > 200")] = "",
    seed: Annotated[int, typer.Option(help="seed of the random order, the same for everybody")] = 0,
    blind: Annotated[bool, typer.Option("--blind", help="rows that others have decided and you have not")] = False,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="agreement among people, and of judges with people")
    ] = False,
    by: ByOption = "",
    restricted: RestrictedFlag = False,
    json: JsonFlag = False,
) -> None:
    """List the rows of a version that need review, and why; --agreement measures people and judges.

    Decide in the browser:  graft dashboard, page Review.

    Example:  graft review demo --rule margin --size 10
    """
    if agreement:
        _agreement(ref, json)
        return
    from graft.cli.show import as_json
    from graft.data.lake import Lake
    from graft.data.review import gates, progress, queue
    from graft.data.versions import version
    from graft.schemas.home import Home

    with Lake.look(Home.find(create=False)) as lake:
        found = version(lake, ref)
        made = queue(
            lake, found, cast("QueueRule", rule),  # the queue rejects an unknown rule
            by=by or user_name(), blind=blind, gate=gate, where=where, size=size, seed=seed, restricted=restricted,
        )  # fmt: skip
        far, refused = progress(lake, found), gates(lake, found) if rule == "gate" else []
    if json:
        as_json(
            {"queue": made.model_dump(mode="json"), "progress": far.model_dump(mode="json"), "gates": dict(refused)}
        )
        return
    _print_queue(found.ref, made, refused)
    _print_progress(far)


def _print_queue(ref: str, made: Queue, refused: list[tuple[str, int]]) -> None:
    from graft.cli.show import console, table

    if refused:
        rows: list[list[Any]] = [[name, f"{count:,}"] for name, count in refused]
        table("gates and judges that rejected candidates", ["gate or judge", "rows"], rows, right=("rows",))
    if not made.items:
        console().print(f"{ref}: the queue {made.rule} is empty", markup=False)
        return
    rows = [[one.row_id, one.label, one.split or one.status, one.why, one.text] for one in made.items]
    table(f"{ref}: {made.rule}, {len(rows)} of {made.total:,}", ["row", "label", "where", "why", "text"], rows)


def _print_progress(far: Progress) -> None:
    from graft.cli.show import console

    who = ", ".join(f"{one.by} {one.decided:,}" for one in far.people)
    outside = f" and {far.outside:,} rejected candidates" if far.outside else ""
    console().print(
        f"decided: {far.decided:,} of {far.rows:,} rows{outside}" + (f" ({who})" if who else "")
        + f"; {far.skipped:,} skipped; {far.waiting:,} would change the version:  graft rebase {far.ref}",
        markup=False,
    )  # fmt: skip
    console().print("decide in the browser:  graft dashboard, page Review", markup=False)


def _agreement(ref: str, json: bool) -> None:
    from graft.cli.show import as_json
    from graft.data.lake import Lake
    from graft.data.review import against_people, agreement
    from graft.data.versions import version
    from graft.schemas.home import Home

    with Lake.look(Home.find(create=False)) as lake:
        dataset = version(lake, ref).dataset
        people, judges = agreement(lake, dataset), against_people(lake, dataset)
    if json:
        as_json({"agreement": people.model_dump(mode="json"), "against_people": judges.model_dump(mode="json")})
        return
    _print_people(dataset, people)
    _print_judges(judges)


def _print_people(dataset: str, people: Agreement) -> None:
    from graft.cli.show import console, print_table
    from graft.data.review.view import people_tables

    if people.equal is None:
        console().print(f"{dataset}: {people.missing}; for a second, blind opinion:  graft review {dataset} --blind")
        return
    alpha = people.missing if people.alpha is None else f"{people.alpha:.3f}"
    console().print(
        f"{dataset}: {people.rows:,} rows decided by two or more ({people.blind:,} blind), {people.equal:.1%} equal;"
        f" Krippendorff's alpha: {alpha}",
        markup=False,
    )
    for one in people_tables(people):
        print_table(replace(one, rows=one.rows[:20]))


def _print_judges(judges: AgainstPeople) -> None:
    from graft.cli.show import console, print_table
    from graft.data.review.view import judges_table

    if not judges.judges:
        console().print("no decisions on rows that a model made: judges cannot be measured")
        return
    print_table(judges_table(judges))
